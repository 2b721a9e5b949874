"""What is written into a checkpoint is what is read, and one module knows where it stands."""

import ast
from pathlib import Path

import pytest
import torch

import vitdet
from vitdet import Backbone, PlainDETRHead
from vitdet.checkpoint import FORMAT, Checkpoint, CheckpointError, write
from vitdet.contents import average_of, write_average

ROOT = Path(vitdet.__file__).parent
# (the entries of the model are those of exported models, too)
KEYS = {"ema_state_dict", "optimizer_states", "state_dict"}
# what files of others may wrap their weights in
FOREIGN = {"backbone/weights.py"}


@pytest.fixture
def parts():
    backbone = Backbone("vit_tiny_patch16_224", depth=1, model_args={"embed_dim": 32, "num_heads": 2}, neck=None)
    return backbone, PlainDETRHead(backbone.out_channels, backbone.strides, 2, dim=32, num_layers=1)


@pytest.fixture
def contents(parts):
    return write({}, *parts, classes=["cat", "dog"], category_ids=[3, 7], eval_transform={"size": 64})


def test_what_is_written_is_read_and_built(parts, contents, tmp_path):
    average = {key: value + 1 if value.is_floating_point() else value for key, value in contents["state_dict"].items()}
    write_average(contents, average)
    torch.save(contents, tmp_path / "best.ckpt")
    saved = Checkpoint.read(tmp_path / "best.ckpt")
    assert saved.classes == ["cat", "dog"] and saved.category_ids == [3, 7] and saved.data is None
    assert saved.eval_transform == {"size": 64, "mean": list(parts[0].mean), "std": list(parts[0].std)}
    assert not {"in_channels", "strides", "num_classes"} & set(saved.config()["head"]["init_args"])
    backbone, head = saved.build()
    built = torch.nn.ModuleDict({"backbone": backbone, "head": head}).state_dict()
    assert all(torch.equal(built[key], value) for key, value in average.items())
    assert all(torch.equal(saved.state_dict[key], value) for key, value in contents["state_dict"].items())
    assert average_of({}) == {} and not saved.optimizer_groups and saved.callback("EMA") is None


@pytest.mark.parametrize(("number", "says"), [(FORMAT + 1, "update vitdet"), (1, "train again")])
def test_another_format_is_refused(contents, number, says):
    contents["vitdet"]["format"] = number
    with pytest.raises(CheckpointError, match=f"some.ckpt has format {number}, .*{says}"):
        Checkpoint.of(contents, "some.ckpt")


def test_one_module_knows_the_keys_of_a_checkpoint():
    for path in ROOT.rglob("*.py"):
        place = path.relative_to(ROOT).as_posix()
        if place != "contents.py" and place not in FOREIGN:
            words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not KEYS & {word for word in words if isinstance(word, str)}, place
