"""`data: FOLDER` in files and on the command line."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "data" / "formats"))
import folders

from vitdet.cli import load_config, main
from vitdet.command import layers
from vitdet.command.folder import look
from vitdet.command.run import read_config

TINY = {
    "model": {
        "backbone": {"name": "vit_tiny_patch16_224", "model_args": {"embed_dim": 48, "num_heads": 3, "depth": 2}}
        | {"out_channels": 48},
        "head": {"class_path": "DETRHead", "dim": 48, "ffn_dim": 48, "num_queries": 8, "num_layers": 2},
    },
    "trainer": {"accelerator": "cpu", "pictures": 0, "max_steps": 1, "progress": False},
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes a config with a tiny model and these data, in a folder that the test is in."""
    monkeypatch.chdir(tmp_path)

    def make(name="c.yaml", **content):
        Path(name).write_text(yaml.safe_dump({**TINY, **content}))
        return name

    return make


def data_of(path, *words):
    return load_config(path, list(words))[1]


def test_a_folder_stands_wherever_data_stand(config):
    truth = folders.published(Path("birds"))
    path = config(data="birds")
    for words, file in (
        ((), path),
        ((), config("d.yaml", data={"folder": "birds"})),
        (("--data", "birds"), config("e.yaml")),
    ):
        data = data_of(file, *words)
        assert type(data).__name__ == "CocoData" and len(data.index("train")) == len(truth["train"])
        assert data.splits["val"].images == "birds/val2017"
    assert read_config(path)["data"]["class_path"] == "vitdet.CocoData"


def test_options_beside_a_folder(config):
    folders.published(Path("birds"))
    folders.write(Path("few.json"), folders.coco(folders.names_of("val")[:1]))
    words = ["--data.batch_size", "2", "--data.val.annotations", "few.json", "--data.size", "64"]
    for order in (["--data", "birds", *words], [*words, "--data", "birds"], ["--data.folder", "birds", *words]):
        data = data_of(config(), *order)
        assert data.batch_size == 2 and data.size == 64 and len(data.index("train")) == 4
        # what is said before a folder was said about other data, of which only the common options stay
        assert len(data.index("val")) == (2 if order[-1] == "birds" else 1)
    path = config("d.yaml", data={"folder": "birds", "batch_size": 3, "val": {"annotations": "few.json"}})
    data = data_of(path)
    assert data.batch_size == 3 and len(data.index("val")) == 1 and data.splits["val"].images == "birds/val2017"


@pytest.mark.parametrize("beneath", ["ShapesData", "ShapesPanopticData", "CocoData"])
def test_a_folder_wins_over_the_data_of_a_config(config, beneath):
    folders.published(Path("birds"))
    options = {"size": 64, "scale_jitter": [1.0, 1.2], "train_transforms": ["HorizontalFlip"], "cache": True}
    other = (
        {"train": {"images": "x", "annotations": "y"}}
        if beneath == "CocoData"
        else {"train_images": 4, "val_images": 2}
    )
    path = config(data={"class_path": beneath, **options, **other})
    data = data_of(path, "--data", "birds")
    assert (
        type(data).__name__ == "CocoData" and data.splits.keys() == {"train", "val"} and len(data.index("train")) == 4
    )
    assert (data.size, data.scale_jitter, data.cache) == (64, (1.0, 1.2), True)
    Path("top.yaml").write_text(f"base: {path}\ndata: birds\n")
    assert data_of("top.yaml").size == 64
    # and other data over a folder
    assert (
        type(data_of("top.yaml", "--data", "ShapesData", "--data.train_images", "4", "--data.val_images", "2")).__name__
        == "ShapesData"
    )


def test_the_class_decides_between_kinds(config):
    folders.published(Path("birds"))
    folders.panoptic(Path("birds"))
    for kind, name in (("panoptic", "PanopticData"), ("instances", "CocoData")):
        head = "EoMTHead" if kind == "panoptic" else "DETRHead"
        for words in (["--data.kind", kind], ["--data.class_path", name]):
            assert class_of(config(), "--data", "birds", *words) == name, head
        assert class_of(config("d.yaml", data={"class_path": name, "folder": "birds"})) == name
    assert class_of(config("e.yaml", data={"class_path": "ShapesPanopticData"}), "--data", "birds") == "PanopticData"


def class_of(path, *words):
    return look(layers.apply_settings(layers.read_layers(path), layers.read_words(words)[0]))["data"][
        "class_path"
    ].rpartition(".")[2]


MISTAKES = {
    "no folder": (["--data", "data/brids"], "there is no folder data/brids; did you mean data/birds?"),
    "no name": (["--data", "brids"], "there is no folder brids; did you mean birds?"),
    "archive": (["--data", "birds.zip"], "birds.zip is an archive; unpack it"),
    "file": (["--data", "data/birds/annotations/instances_val2017.json"], "is an annotation file; give the folder"),
    "empty": (["--data", "data/empty"], "data/empty holds no image"),
    "unlabelled": (["--data", "data/birds/train2017"], "holds 4 images, but no labels of a layout that is known"),
    "class": (["--data", "CoCoData"], "did you mean CocoData?"),
    "kind": (["--data", "data/birds", "--data.kind", "panoptic"], "has no labels of data.kind panoptic; it has COCO"),
    "fraction": (
        ["--data", "data/birds", "--data.val_fraction", "many"],
        "val_fraction is 'many'; wanted a number from 0",
    ),
    "key": (
        ["--data", "data/birds", "--data.bach_size", "1"],
        "there is no key data.bach_size; did you mean data.batch_size?",
    ),
    "no folder to choose in": (["--data.kind", "panoptic"], "data.kind; it chooses among the labels of a folder"),
    "number": (["--data.folder", "null"], "data.folder is"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_a_sentence(config, capsys, name):
    folders.published(Path("data/birds"))
    Path("data/empty").mkdir()
    Path("birds").mkdir()
    Path("birds.zip").write_bytes(b"PK")
    words, wanted = MISTAKES[name]
    with pytest.raises(SystemExit) as stop:
        main(["train", config(), *words])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and wanted in error, error


@pytest.mark.parametrize("make", [folders.yolo, folders.ids_inside])
def test_a_run_on_a_folder_can_be_trained_again_and_resumed(config, capsys, make):
    make(Path("birds"))
    head = {"head": {"class_path": "SemanticHead"}} if make is folders.ids_inside else {}
    path = config(model={**TINY["model"], **head})
    small = ["--data.size", "64", "--data.batch_size", "2"]
    main(["train", path, "--data", "birds", *small])
    said = capsys.readouterr()
    assert "data: birds" in said.err and "kind: " in said.err and "train/loss" in said.out + said.err
    saved = yaml.safe_load(Path("runs/c/version_0/config.yaml").read_text())["data"]
    assert saved["class_path"] in ("vitdet.CocoData", "vitdet.SemanticData", "vitdet.PanopticData")
    main(["train", "runs/c/version_0/config.yaml"])
    main(["train", path, "--data", "birds", *small, "--ckpt_path", "last", "--trainer.max_steps", "2"])
    main(["test", "runs/c/version_0/best.ckpt"])
    main(["test", path, "--data", "birds", *small, "--ckpt_path", "runs/c/version_0/best.ckpt"])
    if make is folders.yolo:
        shutil.rmtree("birds/.vitdet")
        with pytest.raises(SystemExit):
            main(["train", "runs/c/version_0/config.yaml"])
        assert "say --data birds to make it again" in capsys.readouterr().err.strip().splitlines()[-1]


def test_other_verbs_take_a_folder(config, capsys):
    folders.published(Path("birds"))
    folders.plain(Path("others"))
    small = ["--data.size", "64", "--data.batch_size", "2"]
    main(["benchmark", config(), "--data", "birds", *small])
    main(["train", config(), "--data", "birds", *small])
    capsys.readouterr()
    main(["test", "runs/c/version_0/best.ckpt", "--data", "others", *small])
    said = capsys.readouterr()
    assert "data: others" in said.err and "layout: COCO" in said.err and "AP" in said.out


def test_data_that_the_head_can_not_learn_end_in_a_sentence(config, capsys):
    folders.published(Path("boxes"))
    tiny = {**TINY["model"], "head": {"class_path": "SemanticHead"}}
    with pytest.raises(SystemExit):
        main(["train", config(model=tiny), "--data", "boxes"])
    assert "SemanticHead" in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(SystemExit):
        main(["train", config(), "--data", "boxes", "--data.size", "64", "--model.head.masks", "true"])
    assert "has no mask to train on" in capsys.readouterr().err.strip().splitlines()[-1]
