"""The README's examples run as they are written, on fewer images and steps."""

import re
from pathlib import Path

import pytest
import timm

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
FEWER = {
    "ShapesData(size=256)": "ShapesData(size=64, train_images=6, val_images=3)",
    "max_epochs=10": "max_epochs=1, accelerator='cpu'",
    "max_steps=50": "max_steps=2, accelerator='cpu'",
}


# the example of the zoo needs a file: tests/zoo/test_zoo_recipes.py
@pytest.mark.parametrize("number", [i for i, block in enumerate(BLOCKS) if "vitdet.load" not in block])
def test_example(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = BLOCKS[number]
    for long, short in FEWER.items():
        code = code.replace(long, short)
    exec(compile(code, f"README example {number}", "exec"), {"__name__": "__main__"})


def test_a_trained_checkpoint_is_all_that_prediction_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = next(block for block in BLOCKS if "Trainer(max_epochs" in block)
    predicting = next(block for block in BLOCKS if "best.ckpt" in block)
    for long, short in FEWER.items():
        training = training.replace(long, short)
    exec(training, {})
    (tmp_path / "photo.jpg").write_bytes(next(tmp_path.glob("datasets/shapes-6-3/val/*.jpg")).read_bytes())
    exec(predicting.replace("runs/detr_vit/version_0", "runs/default/version_0"), {})
    assert (tmp_path / "found.jpg").exists()


def test_weights_and_their_licences_are_timms():
    table = README[README.index("| weights | name | licence |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 6
    for row in table:
        *_, names, licence, _ = row.split("|")
        for name in re.findall(r"`(.+?)`", names):
            assert timm.get_pretrained_cfg(name, allow_unregistered=False).license == licence.strip()


def test_set_up_is_two_commands():
    commands = re.findall(r"^ {4}(pip install .*)$", README, re.MULTILINE)
    assert commands == [
        "pip install -e . && python tools/train.py configs/detr_vit.yaml",
        "pip install -e '.[test]' && pytest",
    ]
