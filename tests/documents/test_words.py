"""Every word in `backquotes` on the pages: commands and options are run, YAML and calls must fit the signatures, and
files and names must exist."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import lightning
import pages
import pytest
import timm
import tiny
import torch
import yaml
from commands import CONFIG, PROGRAMS

import vitdet
import vitdet.data.formats
import vitdet.deploy.export.graph
from vitdet.cli import VERBS
from vitdet.command import data_check, export, predict
from vitdet.command import serve as serve_command
from vitdet.data import ImageData
from vitdet.serve.guard import PATHS
from vitdet.zoo import CARDS

ROOT = tiny.ROOT
OF_OTHERS = {
    word for row in pages.of_kind("row") if row.table[1:] == ("in vitdet",) for word in pages.spans(row.cells[0])
}
# what folders hold: `layouts` of test_tables.py looks for it
LAYOUT = ("layout", "what it looks like", "what is recognised")
OF_OTHERS |= {
    word for row in pages.of_kind("row") if row.table == LAYOUT for cell in row.cells for word in pages.spans(cell)
}
# engines that are not here: `not_here` of test_tables.py says what is checked of them
ENGINES = ("engine", "command, not run here")
OF_OTHERS |= {word for row in pages.of_kind("row") if row.table == ENGINES for word in pages.spans(row.text)}
# what `vitdet predict` writes: `written` of test_tables.py looks for it
RESULTS = ("`--format`", "files", "what is in them")
OF_OTHERS |= {word for row in pages.of_kind("row") if row.table == RESULTS for word in pages.spans(row.cells[1])}
WORDS = sorted({piece.text for piece in pages.of_kind("word")} - OF_OTHERS)
IN_TASKS = {w for row in pages.of_kind("row") if row.table == ("to", "say") for w in pages.spans(row.text)}
# commands that are run, or checked, in another way; the function says how
NOT_RUN = {
    "python benchmarks/compare_rfdetr.py": lambda site: compare(),
    "python benchmarks/engines.py CHECKPOINT": lambda site: engines(),
    "python benchmarks/engines.py rf-detr-nano": lambda site: engines(),
    "python benchmarks/evaluation.py parity": lambda site: scores(),
    "python benchmarks/evaluation.py speed --before FOLDER": lambda site: scores(),
    "python benchmarks/folder.py --model CHECKPOINT": lambda site: folder(),
    "python benchmarks/loading.py": lambda site: loading(),
    "python benchmarks/loading.py --images DIR --annotations JSON --elsewhere ADDRESS": lambda site: elsewhere(site),
    "python benchmarks/tiles.py": lambda site: tiles(),
    "python benchmarks/trace.py": lambda site: trace(),
    "python benchmarks/serving.py MODEL": lambda site: serving(site),
    "vitdet export best.ckpt": lambda site: understood(""),
    "vitdet export --format openvino --half": lambda site: understood("--format openvino --half"),
    "vitdet export CHECKPOINT --size 384 384 --no-check": lambda site: understood("--size 384 384 --no-check"),
    "python benchmarks/tracking.py": lambda site: tracking(),
    "vitdet test configs/coco/… --ckpt_path …": lambda site: scored(),
    "vitdet test configs/coco/… --data.train null --ckpt_path …": lambda site: scored(),
}
ABSTRACT = {"vitdet <verb>", "vitdet.<…>"}
OPTION_CONFIGS = {"--model.backbone": "configs/finetune.yaml", "--model.head.masks": "configs/custom.yaml"}
SHORTER = {
    "--data.train_images 2000 --data.val_images 300": "--data.train_images 20 --data.val_images 3 --data.root other",
    "--data.layout YOLO": "--data.layout COCO",
    "--trainer.max_steps 1500": "--trainer.max_steps 2",
}
# they say how a folder is read; the saved config has the paths that they lead to
OF_PUSH = ("--public",)
OF_GET = ("--yes", "--output FOLDER", "--mirror URL")
OF_FOLDERS = ("--data FOLDER", "--data.kind", "--data.layout", "--data.val_fraction", "--data.train.")
# names of others' programs, formats and files, and forms of ours
ABOUT_OTHERS = {
    "# (B, C, h, w) -> (B, h*w, C)", "(in_channels, strides, num_classes, *, options)", "*.vitdet-cache", "If-Range",
    "Range", "VITDET_DEBUG=1", "[left, top, width, height]", "ade20k_instance_{train,val}.json",
    "annotations/panoptic_annotations_trainval2017", "datasets/prepare_ade20k_ins_seg.py", "gtFine_trainvaltest.zip",
    "instancesonly_filtered_gtFine_{train,val}.json", "leftImg8bit/{train,val}", "leftImg8bit_trainvaltest.zip",
    "mkdocs serve", "my_module.MyHead", "rfdetr", "runs/<config>/version_N", "scaled_dot_product_attention",
    "tools/dataset_converters/cityscapes.py", "torch.export.export", "torchrun", "coco-val",
    "instances_{train,val,test}.json", "OUT/annotations", "pipe:0", "g++", "GridSample",
    "Retry-After", "X-API-Key", "10.1.0.0/16", "http://127.0.0.1:8000",
    "AWS_PROFILE", "gs://", "https://", "s3://", "~/.cache/vitdet/remote",
    "@REVISION", "supervision.Detections", "~/.cache/vitdet", "FOLDER/.vitdet/", "FOLDER/.vitdet/split-0.2.json",
}  # fmt: skip
OF_SERVE = set(serve_command.parser()._option_string_actions)
# tests/deploy/test_exporting.py uses them
OF_EXPORT = set(export._parser()._option_string_actions)
OF_VIDEOS = {"--every", "--track"}
OF_CHECK = set(data_check._parser()._option_string_actions)
OF_PREDICT = set(predict.parser()._option_string_actions)
PREDICT_TESTS = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests" / "deploy").glob("*.py")))
CHECK_TESTS = (ROOT / "tests" / "data" / "test_check.py").read_text(encoding="utf-8")
SHAPES = re.compile(r"\(\w+(, \w+)+\)|\d+")
MODELS = re.compile(r"(rf-detr|lw-detr|deimv2|eomt|EoMT)\b.*")
SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("vitdet", "tests", "configs", "tools")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yaml") and path != Path(__file__)
)
NAMES = {name: getattr(vitdet, name) for name in vitdet.__all__}
PARTS = [one for one in NAMES.values() if inspect.isclass(one) and not issubclass(one, Exception)] + [ImageData]


def compare():
    """Minutes of full-size models: its options are read."""
    text = (ROOT / "benchmarks" / "compare_rfdetr.py").read_text()
    assert "parser.parse_args()" in text and "compare(" in text


def engines():
    """Minutes of full-size models: its options are read."""
    text = (ROOT / "benchmarks" / "engines.py").read_text()
    assert "parser.parse_args()" in text and 'model.startswith("rf-detr")' in text


def folder():
    """Minutes of a trained model: its options are read."""
    command = [sys.executable, str(ROOT / "benchmarks" / "folder.py"), "--help"]
    assert "--model" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def scores():
    """Its `parity` is run by `references` of test_tables.py; of `speed`, which takes minutes, the options are read."""
    text = (ROOT / "benchmarks" / "evaluation.py").read_text()
    assert all(word in text for word in ('"parity"', '"speed"', '"--before"'))


def loading():
    """It is run, on two small images in a single round."""
    command = [sys.executable, str(ROOT / "benchmarks" / "loading.py"), "--count", "2", "--rounds", "1"]
    said = subprocess.run([*command, "--side", "64", "--size", "32"], capture_output=True, text=True, check=True).stdout
    assert "decoding alone" in said and "│ vitdet" in said


def elsewhere(site):
    """It is run, on two images of the built-in data in a storage."""
    shapes = site.folder / "datasets" / "shapes"
    words = ["--images", shapes / "val", "--annotations", shapes / "annotations" / "instances_val.json"]
    words += ["--elsewhere", "s3://birds/val", "--count", "2", "--rounds", "1", "--size", "32"]
    said = site.process(sys.executable, ROOT / "benchmarks" / "loading.py", *map(str, words), **site.stored())
    assert "│ vitdet, s3://birds/val" in said


def serving(site):
    """It is run, for a second."""
    command = [sys.executable, str(ROOT / "benchmarks" / "serving.py"), "earlier.ckpt", "--clients", "4"]
    command += ["--seconds", "1", "--batches", "2", "--count", "4", "--side", "64"]
    said = site.process(*command)
    assert "not answered: 0" in said and "CPU server" in said


def understood(words):
    """The options are those of `vitdet export`."""
    given = words.replace("POINTS", "1").replace("HEIGHT", "64").replace("WIDTH", "64").split()
    assert not export._parser().parse_known_args(["best.ckpt", *given])[1]


def tiles():
    """Minutes, and it needs SAHI: its options are read, and its pictures are made."""
    text = (ROOT / "benchmarks" / "tiles.py").read_text()
    assert "parser.parse_args()" in text and "TiledDetector(detector, **tiling)" in text


def tracking():
    """It is run, on a few frames."""
    command = [sys.executable, str(ROOT / "benchmarks" / "tracking.py"), "--seeds", "1", "--frames", "20"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "crowded              bytetrack" in said


def scored():
    """tests/download does it, on small files of the same names."""
    text = (ROOT / "tests" / "download" / "test_get.py").read_text()
    assert "def test_coco_is_fetched_and_scored_in_two_commands" in text and '"--data.train", "null"' in text


def trace():
    """It is run; `tests/test_trace.py` holds its numbers."""
    command = [sys.executable, str(ROOT / "benchmarks" / "trace.py"), "PlainDETRHead"]
    assert "PlainDETRHead: 12 files" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def is_command(word):
    return word.split()[0] in {"vitdet", "python", *PROGRAMS} and " " in word


def options_of(parts):
    return {name for part in parts for name in inspect.signature(part).parameters}


@pytest.mark.parametrize("word", [w for w in WORDS if is_command(w) and w not in IN_TASKS | ABSTRACT])
def test_command(word, site):
    if word in NOT_RUN:
        NOT_RUN[word](site)
    elif word.split()[0] == "vitdet" and len(word.split()) == 2 and word != "vitdet zoo":  # the name of a verb
        assert word.split()[1] in VERBS
    elif word == "python tools/train.py configs/…":  # of the built-in data: test_configs.py runs them all
        assert all(
            (ROOT / f"configs/{kind}_vit.yaml").is_file() for kind in ("detr", "instance", "semantic", "panoptic")
        )
    else:
        site.say(word)


@pytest.mark.parametrize("word", [w for w in WORDS if w.startswith("--") and w not in IN_TASKS])
def test_option(word, site):
    """It trains with it, and the saved config says so; those of the check of data are in its help, and tested there."""
    if word in OF_PREDICT:
        assert word in PREDICT_TESTS
        return
    if word.split()[0] == "--import":
        # tests/test_cli.py predicts with a head of such a module
        assert "rf-detr-nano" in site.main("zoo", "--import", "json")
        return
    if word.split()[0] in OF_SERVE:
        # tests/serve tries each
        serve_command.parser().parse_args(["best.ckpt", *word.split()[: 2 if " " in word else 0]])
        return
    if word.split()[0] in OF_VIDEOS:
        predict.parser().parse_args(["best.ckpt", "clip.mp4", *word.split()])
        assert word.split()[0] in PREDICT_TESTS
        return
    if word in OF_CHECK:
        assert word in CHECK_TESTS
        return
    if word.split()[0] in OF_EXPORT:
        understood(word)
        return
    config = next((path for start, path in OPTION_CONFIGS.items() if word.startswith(start)), CONFIG)
    given = SHORTER.get(word, word)
    data = " --data.train.images DIR --data.train.annotations JSON" if config != CONFIG else ""
    if word in OF_PUSH:
        assert word in site.main("push", "--help")
        return
    if word in OF_GET:
        assert word.split()[0] in site.main("data", "get", "--help")
        return
    if word.startswith(OF_FOLDERS):
        site.say(f"vitdet train {CONFIG} {given if word.startswith('--data ') else f'--data FOLDER {given}'}")
        assert site.resolved()["data"]["class_path"] == "vitdet.CocoData"
        return
    if config == "configs/finetune.yaml":
        tiny.weights("vit_small_patch14_dinov2", Path())
    site.say(f"vitdet train {config}{data} {given}")
    saved = site.resolved(Path(config).stem)
    words = given.split()
    for option, value in zip(words[::2], words[1::2]):
        found = saved
        for key in option.removeprefix("--").split("."):
            found = found.get("init_args", found)[key]
        assert found == yaml.safe_load(value)


def is_yaml(word):
    return bool(re.match(r"[\w.]+: ", word))


@pytest.mark.parametrize("word", [w for w in WORDS if is_yaml(w)])
def test_yaml(word):
    """Its keys are arguments of the parts that they are said of."""
    parts = {
        "data.size": [vitdet.Size],
        "backbone": [vitdet.Backbone],
        "trainer": [vitdet.Trainer, lightning.Trainer],
        "head": [p for p in PARTS if p.__name__.endswith("Head")],
        "data": [ImageData, vitdet.data.formats.find],
    }
    for key, value in yaml.safe_load("{" + word + "}").items():
        name = key.rpartition(".")[2]
        if isinstance(value, dict):
            known = options_of(parts.get(key, [vitdet.Task]))
            assert set(value) <= known
        else:
            assert name in {"base", "data"} | options_of([*PARTS, vitdet.Trainer, lightning.Trainer])


def is_call(word):
    return bool(re.match(r"(for .* in )?[\w.]+\(.*\)$", word)) or bool(re.fullmatch(r'\w+=(True|"\w+")', word))


@pytest.mark.parametrize("word", [w for w in WORDS if is_call(w)])
def test_call(word, site):
    """What it calls takes these arguments."""
    backbone = vitdet.Backbone("vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=1)
    level = backbone([torch.zeros(3, 32, 32)])[0]
    if not re.match(r"[\w.]+\(", word):
        given = {"checkpoint", "pretrained"} & {word.partition("=")[0]}
        assert (word.startswith("for ") and list(backbone([torch.zeros(3, 32, 32)]))) or given <= options_of(
            [vitdet.Backbone]
        )
        return
    call = ast.parse(word.replace("…", "None"), mode="eval").body
    from vitdet import errors
    from vitdet.backbone.attention import attend
    from vitdet.metrics.base import Metric

    names = {**NAMES, "vitdet": vitdet, "level": level, "backbone": backbone, "errors": errors, "attend": attend}
    names |= {"metric": vitdet.Head.metric, "update": Metric.update, "compute": Metric.compute}
    function = eval(ast.unparse(call.func), names)
    inspect.signature(function).bind_partial(*call.args, **{keyword.arg: None for keyword in call.keywords})


def is_known(word):
    return word in {*ABOUT_OTHERS, *ABSTRACT, *IN_TASKS, *PATHS} or SHAPES.fullmatch(word) or MODELS.fullmatch(word)


@pytest.mark.parametrize("word", [w for w in WORDS if MODELS.fullmatch(w) and " " not in w])
def test_model(word):
    """It is a published model, or a form of several names."""
    pattern = re.sub(r"\\\{(.*?)\\\}", lambda m: f"({m[1].replace(',', '|')})", re.escape(word)).replace("…", ".*")
    assert any(re.fullmatch(pattern, name) for name in CARDS) or word == "rfdetr"


@pytest.mark.parametrize(
    "word", [w for w in WORDS if not (is_command(w) or w.startswith("--") or is_yaml(w) or is_call(w))]
)
def test_file_or_name(word):
    """A path from the root, or below `vitdet/` or `configs/`; a dotted name whose parts all occur in the code; or a
    word in the lists above."""
    if is_known(word):
        return
    if "/" in word or word.endswith((".py", ".md")):
        places = (ROOT, ROOT / "vitdet", ROOT / "vitdet" / "data", ROOT / "vitdet" / "command")
        assert word == "datasets/shapes" or any(list(place.glob(word.rstrip("/"))) for place in places), word
    else:
        assert re.fullmatch(r"[\w.]+", word), f"say in test_words.py how `{word}` is checked"
        assert timm.is_model(word) or all(re.search(rf"\b{re.escape(part)}\b", SOURCE) for part in word.split(".")), (
            word
        )
