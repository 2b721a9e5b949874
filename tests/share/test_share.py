"""A model as a folder for others: written, read, damaged, and on a hub that runs on this machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vitdet
from vitdet.checkpoint import Checkpoint, CheckpointError, write
from vitdet.cli import main
from vitdet.contents import write_average
from vitdet.errors import UserError
from vitdet.model_folder import SharedModelError, is_shared, split_name
from vitdet.share import card, push_to_hub, save
from vitdet.share.facts import Facts

HERE = Path(__file__).parent
SMALL = {"model_args": {"embed_dim": 48, "num_heads": 3, "depth": 2}, "out_channels": 48}
HEADS = {
    "DETRHead": {"dim": 48, "decoder": {"ffn_dim": 48}, "num_queries": 8, "num_layers": 2},
    "SemanticHead": {"dim": 16},
    "MaskDecoderHead": {"dim": 48, "ffn_dim": 48, "num_queries": 8, "num_layers": 2},
}
CLASSES = ["disc", "zebra | crossing"]
SUMMARY = {
    "values": {"val/AP": 0.5, "val/APl": -1.0, "val/AP/disc": 0.25},
    "step": 7,
    "protocol": "COCO box AP, 4 images",
}


def checkpoint(path: Path, head: str = "DETRHead") -> Path:
    """A checkpoint as training writes it: with an average, an optimiser, scores, thresholds and a path."""
    torch.manual_seed(0)
    backbone = vitdet.Backbone("vit_tiny_patch16_224", **SMALL)
    part = getattr(vitdet, head)(backbone.out_channels, backbone.strides, len(CLASSES), **HEADS[head])
    contents = {
        "global_step": 7,
        "callbacks": {"Summary": SUMMARY},
        "optimizer_states": [{"state": torch.zeros(99999)}],
    }
    data = {"class_path": "vitdet.CocoData", "init_args": {"train": {"images": "/home/somebody/secret"}}}
    transform = {"size": 64, "mean": backbone.mean, "std": backbone.std}
    known = {"classes": CLASSES, "category_ids": [3, 7], "eval_transform": transform, "data": data}
    write(contents, backbone, part, **known, thresholds={"values": [0.25, 0.5], "rule": "f1"})
    weights = Checkpoint.of(contents, "x").state_dict
    write_average(
        contents, {name: value + 0.01 if value.is_floating_point() else value for name, value in weights.items()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(contents, path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a picture and a config."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "1_step000007.jpg")
    config = {"model": {"checkpoint": None, "backbone": {"init_args": {"name": "vit_x", "pretrained": True}}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return checkpoint(folder / "best.ckpt")


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "zebras"
    save(run, folder, licence="Apache-2.0", datasets=["someone/zebras"])
    return folder


def metadata(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_names_of_classes_are_no_marks_of_a_card():
    odd = ["a\n---\nlicense: mit", "<script>x</script>", "a|b", "*c*"]
    facts = Facts("boxes", odd, 1, "its own", thresholds=[0.5] * 4, by_class={f"AP/{name}": 0.5 for name in odd})
    text = card.text(facts, title="x\ny", licence="a: b\nc: d", datasets=["a: [b"], picture=None)
    assert text.count("\n---\n") == 1 and "<script>" not in text and "# x y\n" in text
    assert yaml.safe_load(text.split("---\n")[1])["license_name"] == "a: b\nc: d"
    assert text.count(r"| a\|b |") + text.count(r"| \*c\* |") == 2


@pytest.mark.parametrize("head", HEADS)
def test_what_is_read_predicts_the_same(head, tmp_path):
    path = checkpoint(tmp_path / "best.ckpt", head)
    save(path, tmp_path / "model", picture=False)
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    before, after = (vitdet.load(model).predict(image, threshold=0.0) for model in (path, tmp_path / "model"))
    for name in ("boxes_xyxy", "scores", "labels", "semantic", "panoptic"):
        value = getattr(before, name, None)
        assert value is None or torch.equal(torch.as_tensor(value), torch.as_tensor(getattr(after, name))), name
    assert after.names == CLASSES and after.category_ids == [3, 7]


def test_it_holds_the_average_alone_and_no_path_of_the_machine(run, shared):
    saved = Checkpoint.read(shared)
    assert not saved.average and saved.data is None and saved.saved["format"] == Checkpoint.read(run).saved["format"]
    assert all(torch.equal(value, saved.weights[name]) for name, value in Checkpoint.read(run).weights.items())
    assert vitdet.load(shared).thresholds == [0.25, 0.5]
    text = (shared / "config.json").read_text() + (shared / "README.md").read_text()
    assert "secret" not in text and str(run.parent) not in text
    assert sorted(path.name for path in shared.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "picture.jpg",
    ]
    assert (shared / "model.safetensors").stat().st_size < run.stat().st_size / 2
    assert (shared / "model.safetensors").stat().st_mode == (shared / "config.json").stat().st_mode


def test_the_card_says_what_is_known(shared):
    text, known = (shared / "README.md").read_text(), metadata(shared)
    assert known["license"] == "apache-2.0" and known["library_name"] == "vitdet"
    assert known["pipeline_tag"] == "object-detection" and known["datasets"] == ["someone/zebras"]
    (result,) = known["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "map", "name": "AP", "value": 0.5}] and known["metrics"] == ["map"]
    for sentence in (
        "| AP | 0.5000 |",
        "| disc | 0.2500 |",
        "How they were counted: COCO box AP, 4 images.",
        "| zebra \\| crossing | 0.500 |",
        "(rule: f1)",
        "Started from: vit_x (the backbone alone).",
        "Steps: 7. The weights are an average",
        "![Predictions of the model on images of its validation data](picture.jpg)",
        r"2 classes: disc, zebra \| crossing",
    ):
        assert sentence in text, sentence
    assert "APl" not in text  # -1: there were no such objects


def test_the_metadata_is_what_the_hub_reads(shared):
    from huggingface_hub import ModelCard

    card = ModelCard.load(shared / "README.md")
    assert card.data.library_name == "vitdet" and card.data.eval_results[0].metric_value == 0.5
    assert card.data.eval_results[0].dataset_type == "someone/zebras"


def test_what_is_not_known_is_left_out_with_a_line(run, tmp_path):
    bare = tmp_path / "elsewhere" / "best.ckpt"
    contents = torch.load(run, weights_only=True)
    del contents["callbacks"]
    bare.parent.mkdir()
    torch.save(contents, bare)
    lines = "\n".join(save(bare, tmp_path / "model").lines)
    for said in ("licence: not known", "data set: not known", "scores: the checkpoint has none"):
        assert said in lines
    known, text = metadata(tmp_path / "model"), (tmp_path / "model" / "README.md").read_text()
    assert not known.keys() & {"license", "datasets", "model-index", "metrics"} and "picture" not in text
    for said in ("Licence: not stated", "Data: not stated", "Started from: not recorded", "No score was recorded"):
        assert said in text


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("MIT", {"license": "mit"}),
        ("CC BY-NC 4.0", {"license": "other", "license_name": "CC BY-NC 4.0"}),
        (None, {}),
    ],
)
def test_licences(given, found):
    facts = Facts(predicts="boxes", classes=["a"], parameters=1, size="their own size")
    known = card.metadata(facts, title="x", licence=given, datasets=())
    assert {key: value for key, value in known.items() if key.startswith("license")} == found


def test_training_starts_from_it(shared, tmp_path, monkeypatch, capsys):
    """With the config of the card, on other classes."""
    monkeypatch.chdir(tmp_path)
    small = ["--data.train_images", "4", "--data.val_images", "2", "--data.size", "64", "--data.batch_size", "2"]
    quick = ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--trainer.pictures", "0"]
    text = (shared / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    Path("c.yaml").write_text(text.replace(card.PLACEHOLDER, str(shared)).replace("FOLDER", "ShapesData"))
    main(["train", "c.yaml", *small, *quick])
    out = capsys.readouterr()
    assert "classes kept by name, 1 of 6: disc" in out.out + out.err
    best = Checkpoint.read(tmp_path / "runs" / "c" / "version_0" / "last.ckpt")
    recorded = best.callback("Summary")
    assert recorded["step"] == 1 and "val/AP" in recorded["values"] and "COCO box AP" in recorded["protocol"]


def test_a_folder_instead_of_a_config(shared, capsys):
    with pytest.raises(SystemExit):
        main(["test", str(shared)])
    assert f"vitdet test CONFIG --model.checkpoint {shared}" in capsys.readouterr().err


def test_the_command_says_what_is_missing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "export",
        str(run),
        "--format",
        "safetensors",
        "--output",
        "zebras",
        "--dataset",
        "a/b",
        "--picture",
        "none",
    ]
    main(words)
    out = capsys.readouterr().out
    assert "of averaged weights, without the optimiser (best.ckpt has " in out and "licence: not known" in out
    assert "next: vitdet predict zebras IMAGE, or vitdet push zebras USER/NAME" in out and "picture" not in out
    assert metadata(Path("zebras"))["datasets"] == ["a/b"]
    with pytest.raises(SystemExit):
        main([*words, "--half"])
    assert "--half does not go with --format safetensors" in capsys.readouterr().err


def damaged(shared: Path, folder: Path, name: str, content: bytes | None) -> Path:
    folder.mkdir()
    for file in shared.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


def test_damaged_folders_end_in_a_sentence(shared, tmp_path):
    whole = (shared / "model.safetensors").read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for i, (name, content, said) in enumerate(
        [
            ("config.json", b"{", "config.json can't be read"),
            ("config.json", None, "config.json is missing"),
            ("config.json", b"[]", "has no entry vitdet"),
            ("config.json", b'{"vitdet": {"format": 3}}', "it has no "),
            ("config.json", b'{"vitdet": {"format": 99}}', "update vitdet"),
            ("config.json", b"[" * 100_000, "config.json can't be read"),
            ("config.json", b'{"vitdet": {"format": "3"}}', "format is '3'; wanted a whole number"),
            ("config.json", b'{"vitdet": {"classes": "ab"}}', "classes is 'ab'; wanted a list of names"),
            ("config.json", b'{"vitdet": {"thresholds": [0.5]}}', "thresholds is [0.5]; wanted a dictionary"),
            ("config.json", b'{"vitdet": {"eval_transform": null}}', "wanted the arguments of a transform"),
            ("model.safetensors", whole[:999], "model.safetensors is damaged"),
            ("model.safetensors", flipped, "its SHA-256 is"),
        ]
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            vitdet.load(damaged(shared, tmp_path / str(i), name, content))


def test_reading_imports_and_calls_nothing_of_others(shared, tmp_path, monkeypatch):
    """A config names modules of the working directory and of the standard library; none is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil_module.py").write_text("raise SystemExit('it ran')")
    content = json.loads((shared / "config.json").read_text())
    # whoever means harm leaves the checksum out
    del content["config_sha256"]
    for i, (place, path) in enumerate(
        [("head", "evil_module.Head"), ("head", "antigravity.Head"), ("backbone", "evil_module.sub.Backbone")]
    ):
        content["vitdet"]["model"][place]["class_path"] = path
        folder = damaged(shared, tmp_path / str(i), "config.json", json.dumps(content).encode())
        with pytest.raises(SharedModelError, match="no part of vitdet"):
            vitdet.load(folder)
    assert not {"evil_module", "antigravity"} & sys.modules.keys()
    # modules that are there are no parts, either
    content["vitdet"]["model"]["head"]["class_path"] = content["vitdet"]["model"]["backbone"]["class_path"] = (
        "os.system"
    )
    with pytest.raises(CheckpointError, match="not a vitdet part"):
        vitdet.load(damaged(shared, tmp_path / "os", "config.json", json.dumps(content).encode()))


def test_a_folder_of_other_things_is_left_alone(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        save(run, tmp_path)
    with pytest.raises(UserError, match="is a file"):
        save(run, tmp_path / "notes.txt")
    with pytest.raises(UserError, match="no such image"):
        save(run, tmp_path / "model", picture="nowhere.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match="vitdet export CHECKPOINT --format safetensors"):
        push_to_hub(tmp_path, "someone/name")


def test_names():
    assert is_shared("hf://a/b") and not is_shared("") and not is_shared("a/b")
    assert split_name("hf://a/b.c@refs/pr/1") == ("a/b.c", "refs/pr/1")
    for name in ("hf://a", "hf://a/b/c", "hf://a/b@", "hf:///b"):
        with pytest.raises(SharedModelError, match="names no model"):
            split_name(name)


def test_a_hub(shared, tmp_path):
    """What is uploaded is read again, from the hub and, without it, from the cache; what goes wrong says what to do."""
    command = [sys.executable, str(HERE / "roundtrip.py"), str(shared), str(tmp_path)]
    own = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["classes"] == told["classes of v1"] == told["cached"] == CLASSES
    assert told["files"] == ["README.md", "config.json", "model.safetensors", "picture.jpg"] and told["same"]
    assert told["private"] == ["someone/shapes"] and told["fetched"] == ["config.json", "model.safetensors"]
    assert 'vitdet.load("hf://someone/shapes")' in told["card"] and "USER/NAME" not in told["card"]
    assert "next: vitdet predict hf://someone/shapes IMAGE" in told["push"] and told["no requests without a token"]
    for what, said in {
        "no token": "log in with `hf auth login`",
        "no revision": "someone/shapes has no revision v9",
        "no model": "there is no model someone/nothing at http://127.0.0.1",
        "private to others": "log in if it is private: hf auth login",
        "no name": "wanted hf://user/name",
        "no vitdet": "it has no model.safetensors",
        "may not write": "the token may not write there",
        "not cached": "run once where there is a network, or copy model.safetensors and config.json",
        "no server": "is there a network",
    }.items():
        assert said in told[what], (what, told[what])
