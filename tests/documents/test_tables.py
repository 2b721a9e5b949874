"""Every row of every table on the pages; those of tasks ("to … say …") are in test_tasks.py."""

import functools
import inspect
import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import fields
from pathlib import Path

import pages
import pytest
import timm
import tiny
import torch
import yaml
from commands import BEST, CONFIG
from test_dependencies import declared
from test_structure import RANK

import vitdet
from vitdet.cli import load_config
from vitdet.command.export import _parser
from vitdet.data.check import CODES
from vitdet.data.formats import find
from vitdet.data.formats.foreign import MODULES
from vitdet.data.label_sets import label_set
from vitdet.data.label_sets.scenes import ADE20K_PANOPTIC
from vitdet.deploy.files import FORMATS as FORMATS_OF_RESULTS
from vitdet.serve.description import REFUSALS
from vitdet.serve.limits import Limits
from vitdet.zoo import CARDS

ROOT = tiny.ROOT
sys.path.append(str(ROOT / "tests" / "data" / "formats"))
from exports import RICH, classes, read, write  # noqa: E402
from folders import MAKERS  # noqa: E402

SPLITS = {
    "CocoData": {"images": "{split}", "annotations": "annotations/instances_{split}.json"},
    "SemanticData": {"images": "{split}", "labels": "semantic_{split}"},
    "PanopticData": {
        "images": "{split}",
        "annotations": "annotations/panoptic_{split}.json",
        "segments": "panoptic_{split}",
    },
}
SHOWN = {"box AP": "COCO box AP", "mask AP": "COCO mask AP", "mean IoU": "mIoU", "PQ": "PQ_stuff"}


def segmentation(row, site):
    """Each head trains on the data of its row, and is scored so."""
    _, data, heads, score, config = row.cells
    (data, *_), (config,) = pages.spans(data), pages.spans(config)
    shapes = site.folder / "datasets" / "shapes"
    splits = {
        split: {key: str(shapes / form.format(split=split)) for key, form in SPLITS[data].items()}
        for split in ("train", "val")
    }
    needs = next(w.text for w in pages.of_kind("word") if w.text.startswith("backbone: {tail"))
    for head, extra in re.findall(r"`(\w+)`(?: with `(.*?)`)?", heads):
        own = {
            "base": config,
            "data": {"class_path": data, **splits}
            | ({"classes": ["disc", "square"]} if data == "SemanticData" else {}),
            "model": {"head": {"class_path": head, **(yaml.safe_load(extra) if extra else {})}},
        }
        if head == "EoMTHead":
            own["model"] |= yaml.safe_load(needs)
        Path("row.yaml").write_text(yaml.safe_dump(own))
        out = site.main("train", "row.yaml", *site.small("row.yaml", train=True), "--trainer.max_steps", "1")
        assert SHOWN[score] in out, f"{row}: {head} on {data}"


def licences(row, site):
    *_, names, licence = row.cells
    for name in pages.spans(names):
        assert timm.get_pretrained_cfg(name, allow_unregistered=False).license == licence


def published(row, site):
    """The models of a row are in the zoo, with this licence and number of classes."""
    names, what, licence = row.cells
    found = [CARDS[name] for form in pages.spans(names) for name in CARDS if fits(form, name)]
    assert found and all(len([n for n in CARDS if fits(form, n)]) >= 1 for form in pages.spans(names))
    for card in found:
        assert card.licence.split()[0].strip(",;") == re.split(r"[;,]", licence)[0].strip(), card.name
        if counts := re.findall(r"(\d+)(?: panoptic)? classes|, (\d+) and", what):
            assert str(len(card.classes)) in {n for pair in counts for n in pair} | set(re.findall(r"\d+", what))


def fits(form, name):
    pattern = re.sub(r"\\\{(.*?)\\\}", lambda m: f"({m[1].replace(',', '|')})", re.escape(form)).replace("…", ".*")
    return re.fullmatch(pattern, name)


def data_sets(row, site):
    """Numbers of classes, and of the built-in data that of images."""
    name, images, classes, *_ = row.cells
    classes = [int(n) for n in re.findall(r"\d+", classes)]
    if name == "built-in":
        defaults = inspect.signature(vitdet.ShapesData).parameters
        assert images == f"{defaults['train_images'].default} / {defaults['val_images'].default}"
        assert [vitdet.ShapesData(root="datasets/shapes", **drawn()).num_classes] == classes
    elif name.startswith("COCO"):
        assert classes == [len(CARDS["rf-detr-nano"].category_ids)]
    elif name.startswith("ADE20K"):
        assert classes == [len(label_set("ade20k", None)[0]), 100] and len(ADE20K_PANOPTIC) == 150
    else:
        assert classes == [len(label_set("cityscapes", None)[0]), 8]


def drawn():
    return {f"{split}_images": count for split, count in tiny.IMAGES.items()}


def folders(row, site):
    """The files are there; who may import what is test_structure.py's."""
    for name in pages.spans(row.cells[0]):
        assert (ROOT / "vitdet" / name).exists(), name


# the columns of "size and speed" are named after these configs
BUILT_IN = ("detr_vit", "instance_vit", "semantic_vit", "panoptic_vit")


def speed(row, site):
    """Measured; but numbers of parameters are counted again."""
    if row.cells[0] == "parameters":
        for column, cell in zip(row.table[1:], row.cells[1:], strict=True):
            config = f"configs/{column.strip('`')}.yaml"
            sizes = [word for key, value in drawn().items() for word in (f"--data.{key}", str(value))]
            with torch.device("meta"):
                task, _ = load_config(config, sizes)
            count = sum(p.numel() for part in (task.backbone, task.head) for p in part.parameters())
            assert cell == f"{count / 1e6:.2f} M", column


def measured(row, site):
    """Hours of work, or other people's programs; the configs that it names are there."""
    for name in pages.spans(row.cells[0]):
        if name.endswith(".yaml"):
            assert (ROOT / name).is_file() or (ROOT / "configs" / name).is_file()


def scored(row, site):
    """The comment at the top of the config names the same steps and scores."""
    (name,) = pages.spans(row.cells[0])
    config = ROOT / "configs" / name
    head = " ".join(line.lstrip("# ") for line in config.read_text().splitlines() if line.startswith("#")).lower()
    for figure in [f"after {row.cells[1]} steps", *re.split(r"[,;] ", row.cells[2].lower())]:
        assert figure in head, f"{row}: {config} says {head!r}"


def parity(row, site):
    """Printed by `pytest tests/zoo -k outputs --parity`; its models are in the zoo, or small ones of a test."""
    (name,) = pages.spans(row.cells[0])
    assert name.split(",")[0] in CARDS or name.startswith("EoMT")
    errors = [float(number) for number in re.findall(r"\d+e[-+]\d+", row.cells[-1])]
    assert errors and max(errors) <= 1e-4


DOWNLOADS = {  # the row begins with this; the test that shows it
    "the connection is cut": "test_a_cut_connection_is_reported_and_resumed",
    "the file changed meanwhile": "test_what_was_begun_is_begun_anew_if_the_rest_would_not_fit",
    "what is there is longer": "test_a_part_that_is_longer_than_the_file_is_thrown_away",
    "wrong checksum": "test_a_wrong_checksum_leaves_nothing_behind",
    "404, refused": "test_a_missing_file_and_no_network_say_what_to_do",
    "a proxy": "test_the_proxy_of_the_environment_is_used",
    "the folder can't be written": "test_a_folder_that_cannot_be_written_is_no_network_error",
    "two processes": "test_two_processes_fetch_one_file_once",
    "a truncated file": "test_files_that_are_no_weights_are_refused",
    "gated weights": "test_what_is_missing_is_said",
}
COMPARED = {"RF-DETR": "test_rf_detr", "LW-DETR": "test_lw_detr", "DEIMv2": "test_deimv2", "ViTDet": "test_relative"}
COMPARED |= {"EoMT, DINOv2": "test_eomt_zoo", "EoMT, DINOv3": "test_eomt_dinov3"}


def downloads(row, site):
    (test,) = [test for start, test in DOWNLOADS.items() if row.cells[0].startswith(start)]
    assert any(f"def {test}(" in path.read_text() for path in (ROOT / "tests" / "zoo").glob("test_*.py")), test


def compared(row, site):
    (test,) = [test for start, test in COMPARED.items() if row.cells[0].startswith(start)]
    assert list((ROOT / "tests").rglob(f"{test}.py"))


EMPTY = "--data.train.images data/train --data.train.annotations empty.json"
EMPTY += " --data.val.images data/val --data.val.annotations val.json"
GONE = EMPTY.replace("empty.json", "gone.json")
SPOIL = """
import lightning as L

class Spoil(L.Callback):
    def on_train_batch_end(self, trainer, task, *_):
        next(task.head.parameters()).data.fill_(float("nan"))
"""
HIGH = "--model.lr 1e30 --trainer.gradient_clip_val null --trainer.limit_val_batches 0 --trainer.max_steps 9"
ERRORS = {  # what the message has: a command that ends in it
    "there is no key": f"train {CONFIG} --model.head.num_querys 5",
    "there is no class": f"train {CONFIG} --model.head DETRHaed",
    "the classes come from the data": f"train {CONFIG} --model.head.num_classes 5",
    "no data is given": "train configs/custom.yaml",
    "there is no folder": f"train {CONFIG} --data datasets/shaeps",
    "is an address": f"train {CONFIG} --data s3://birds/all",
    "say which to take": f"train {CONFIG} --data datasets/coco",
    "is not a COCO file": f"train configs/custom.yaml {EMPTY}",
    "did you mean": f"train {CONFIG} --data.bach_size 2",
    "can't be read as an image": f"train configs/custom.yaml {GONE}",
    "more than data.reading.max_bad allows": f"train configs/custom.yaml {GONE} --data.reading.on_bad_image skip",
    "seem to be fractions": f"train configs/custom.yaml {GONE.replace('gone', 'fractions')}",
    "wanted a whole number from 1": f"train {CONFIG} --data.batch_size 0",
    "does not exist; give the best.ckpt or last.ckpt of a run": "test runs/nowhere.ckpt",
    "is damaged": "test damaged.ckpt",
    "there is no last.ckpt": f"train {CONFIG} --trainer.name other --ckpt_path last",
    "which nothing logs": f"train {CONFIG} --trainer.monitor val/AP51",
    "compile is true, but on a CPU": f"train {CONFIG} --model.compile true",
    "steps in a row were skipped": f"train {CONFIG} {HIGH} --trainer.skip_steps 2",
    "the weights are not finite": f"train {CONFIG} --trainer.callbacks+=spoil.Spoil",
    "torch finds no GPU": f"train {CONFIG} --trainer.accelerator gpu",
    "no image at": f"predict {BEST} nowhere",
    "is this an annotation file?": "evaluate val.json val.json",
    "mend or remove it": "evaluate found.json broken.json",
    "wanted 0, 1, true or false": "evaluate found.json flag.json",
}


def write_wrong_files():
    """Files that the commands of `ERRORS` name."""
    Path("spoil.py").write_text(SPOIL)
    Path("empty.json").write_text('{"images": [], "annotations": [], "categories": []}')
    square = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}
    Path("found.json").write_text(json.dumps([{**square, "score": 0.5}]))
    images, classes = [{"id": 1, "width": 20, "height": 20}], [{"id": 1, "name": "cat"}]
    for name, wrong in (("broken", {"segmentation": [[1, 1, 9]]}), ("flag", {"iscrowd": "0"})):
        content = {"images": images, "categories": classes, "annotations": [square, {**square, **wrong}]}
        Path(f"{name}.json").write_text(json.dumps(content))
    checkpoint = Path(BEST).read_bytes()
    Path("damaged.ckpt").write_bytes(checkpoint[:-1])
    content = json.loads(Path("val.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.3, 0.4]
    Path("fractions.json").write_text(json.dumps(content))
    for image in content["images"]:
        image["file_name"] = f"gone/{image['file_name']}x"
    Path("gone.json").write_text(json.dumps(content))


def errors(row, site):
    """The command ends in this message, and not in a traceback."""
    text = row.cells[0].strip('"')
    if "GPU" in text and torch.cuda.is_available():
        return
    write_wrong_files()
    words = ERRORS[text].split()
    small = site.small(words[1], train=True) if words[1] == CONFIG else []
    with pytest.raises(AssertionError) as error:
        site.main(words[0], *words[1:2], *small, *words[2:])
    printed = str(error.value)
    assert text in printed.splitlines()[-1] and "Traceback" not in printed


def extras(row, site):
    """It is declared; `.ci/wheel` shows what commands say without it."""
    (name,) = pages.spans(row.cells[0])
    assert declared(name)


def other_tools(row, site):
    """The names of vitdet's side are words, which test_words.py checks, or links."""
    assert pages.spans(row.cells[1]) or "](" in row.cells[1] or row.cells[1].startswith("nothing"), row


def contents(row, site):
    (target,) = re.findall(r"\]\((.*?)\)", row.cells[0])
    assert (ROOT / target).is_file()


def found(row, site):
    """`tests/data/test_check.py` plants each of them."""
    code, *said = row.cells
    assert said == list(CODES[code])


def layouts(row, site):
    """A folder of this layout is of this kind; tests/data/formats/test_open_folder.py compares its labels."""
    name, files, what = row.cells
    folder = Path("layouts") / str(list(MAKERS).index(name))
    truth = MAKERS[name](folder)
    for form in pages.spans(files):
        assert list(folder.glob(form)), f"{row}: {form}"
    found = find(folder)
    assert what.startswith(found.kind) and ("without a split" in what) == ("all" in truth)


@functools.cache
def parities():
    """The rows of the benchmark of scores on few cases, by name."""
    command = [sys.executable, str(ROOT / "benchmarks" / "evaluation.py"), "parity", "--cases", "4"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {cells[1]: float(cells[3]) for cells in (re.split(r" *\| *", line) for line in said.splitlines()[2:])}


def references(row, site):
    """A row is a row of the benchmark, and on few cases no difference is larger than what the page says of many."""
    name, count, largest = row.cells
    assert parities()[name] <= max(float(largest), 1e-12) and int(count.replace(",", "")) >= 100


FORMATS = {module.NAME: module for module in MODULES}


def formats(row, site):
    """Every kind of object is read, in classes of this order; an image without labels is a negative, or is left out."""
    name, order, _, bare = row.cells
    folder = write(Path("formats") / name, RICH[name])
    image = next(path for path in sorted(folder.rglob("*")) if path.suffix == ".jpg")
    (image.parent / "bare.jpg").write_bytes(image.read_bytes())
    split = next(iter(FORMATS[name].recognise(folder)))
    content, lines = read(FORMATS[name], folder, split)
    left_out = any(line.startswith("images without labels, left out: 1") for line in lines)
    assert left_out == (bare == "is left out")
    assert left_out != any(image["file_name"].endswith("bare.jpg") for image in content["images"])
    names = [*classes(content).values()]
    assert len(names) > 1 and (order.startswith("as in") or names == sorted(names))
    assert len(content["annotations"]) == OBJECTS[name] and (min(classes(content)) == 0) == ("from 0" in order)
    if "labels.txt" in order:
        (folder / "labels.txt").write_text("\n".join(names[::-1]))
        assert [*classes(read(FORMATS[name], folder, split)[0]).values()] == names[::-1]


# in the exports that tests write
OBJECTS = {"YOLO": 4, "Pascal VOC": 2, "LabelMe": 4, "CVAT for images": 4, "Supervisely": 3, "VGG Image Annotator": 4}


def written(row, site):
    """The files of a format are written."""
    (name,), files = pages.spans(row.cells[0]), pages.spans(row.cells[1])
    options = ["--format", name, "--no_drawings", "--output", f"as_{name}", "--threshold", "0"]
    site.main("predict", BEST, "folder", *options)
    assert files and all((site.folder / f"as_{name}" / file).exists() for file in files)
    assert name in FORMATS_OF_RESULTS


def limits(row, site):
    """As the help of the command says."""
    option, default, text = row.cells
    (limit,) = [limit for limit in fields(Limits) if f"`--{limit.name}`" == option]
    assert (default, text) == (
        f"{limit.default:g}" if limit.default < 1e4 else str(limit.default),
        limit.metadata["help"],
    )


def statuses(row, site):
    """tests/serve gets each of them; the interface describes those of `/predict`."""
    status, why = row.cells
    assert any(re.search(rf"\b{status}\b", path.read_text()) for path in (ROOT / "tests" / "serve").glob("test_*.py"))
    assert REFUSALS.get(int(status)) in (why, None) or status == "503"


def paths_of_state(row, site):
    with urllib.request.urlopen(f"{site.url}/openapi.json") as answer:
        assert json.load(answer)["paths"][pages.spans(row.cells[0])[0]]["get"]["summary"] == row.cells[1]


def options_of_requests(row, site):
    """tests/serve gets what each does; its values are those of the interface."""
    with urllib.request.urlopen(f"{site.url}/openapi.json") as answer:
        parameters = json.load(answer)["paths"]["/predict"]["post"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in parameters}
    schema = schemas[pages.spans(row.cells[0])[0]]
    assert set(schema.get("enum", [])) == set(pages.spans(row.cells[1]))
    assert [schema["default"]] == pages.spans(row.cells[2]) if "enum" in schema else "model's own" in row.cells[2]


def exported(row, site):
    """The formats and options are those of the command; tests/deploy/test_exporting.py writes each."""
    (kind,), option = pages.spans(row.cells[0]), pages.spans(row.cells[1])
    assert not _parser().parse_known_args(["best.ckpt", "--format", kind, *option])[1]


def not_here(row, site):
    """Not run: there is no such package or hardware; that there is a graph of a fixed size, which they take, is tested
    in tests/deploy/test_exporting.py."""
    assert "def test_a_fixed_size" in (ROOT / "tests" / "deploy" / "test_exporting.py").read_text()


def promised(row, site):
    """The tests of a promise run with all others; here, there is such a file, with tests that the long form extends."""
    (command,) = pages.spans(row.cells[2])
    program, path = command.split()
    text = (ROOT / path).read_text(encoding="utf-8")
    assert program == "pytest" and "def test_" in text and "rounds(" in text and row.cells[3]


def happened(row, site):
    """Such a line is written, with these facts; tests/training/test_events.py reads it."""
    (kind,), facts = pages.spans(row.cells[0]), pages.spans(row.cells[2])
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "vitdet" / "training").rglob("*.py"))
    assert re.search(rf"note\(\w+, \"{kind}\"", sources) and all(re.search(rf"\b{fact}\b", sources) for fact in facts)


SERVED = ("model", "clients", "batch", "images/s: predict, server", "CPU of an image: predict, server", "p50, p95")
SERVED += ("lost, mixed up",)
TABLES = {
    ("promise", "what holds, and what does not", "the test", "seen"): promised,
    ("kind", "when", "what else is in the line"): happened,
    ("`--format`", "files", "what is in them"): written,
    ("format", "option", "what is written", "runs on"): exported,
    ("engine", "command, not run here"): not_here,
    ("engine", "type", "val box AP", "batch 1", "batch 8", "file"): measured,
    ("engine", "type", "val mask AP", "batch 1", "batch 8"): measured,
    ("engine", "batch", "any size", "`--size`"): measured,
    ("limit", "default", "what is refused"): limits,
    ("status", "why"): statuses,
    ("path", "what it answers"): paths_of_state,
    ("option", "values", "by default"): options_of_requests,
    ("format", "order of the classes", "objects", "an image without labels"): formats,
    ("layout", "what it looks like", "what is recognised"): layouts,
    ("task", "data", "head", "score", "on the built-in data"): segmentation,
    ("weights", "name", "licence"): licences,
    ("models", "for", "licence of the weights"): published,
    ("data", "images: train / val", "classes", "download", "licence"): data_sets,
    ("folder", "what is in it", "may import"): folders,
    ("", *(f"`{name}`" for name in BUILT_IN)): speed,
    ("config", "steps of 4 images", "score"): scored,
    ("model", "steps of 4 images", "val box AP", "AP50", "AP75"): measured,
    ("model", "AP", "AP50"): measured,
    SERVED: measured,
    ("change, one after the other", "AP"): measured,
    ("", "vitdet", "rfdetr", "ratio"): measured,
    ("model", "keys, theirs → ours", "beside", "at", "largest relative error"): parity,
    ("what happens", "what you get"): downloads,
    ("code", "severity", "what was found", "what to do"): found,
    ("", "compared"): compared,
    ("cases", "number", "largest difference"): references,
    ("scoring", "CPU s", "× hotcoco", "MB", "× its memory"): measured,
    ("the message has", "why, and what to do"): errors,
    ("in YOLO", "in vitdet"): other_tools,
    ("in Detectron2", "in vitdet"): other_tools,
    ("in RF-DETR", "in vitdet"): other_tools,
    ("page", "what is on it"): contents,
    ("extra", "for"): extras,
}
ROWS = [piece for piece in pages.of_kind("row") if piece.table != ("to", "say")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row}: {row.cells[0]}")
def test_row(row, site):
    assert row.table in TABLES, f"{row}: say in TABLES of test_tables.py how a table of {row.table} is checked"
    TABLES[row.table](row, site)


def test_all_published_models_are_listed():
    forms = [form for row in ROWS if TABLES.get(row.table) is published for form in pages.spans(row.cells[0])]
    assert not [name for name in CARDS if not any(fits(form, name) for form in forms)]


def test_set_up_is_two_commands():
    commands = [b.text for b in pages.of_kind("indented") if b.page == "README.md" and b.text.startswith("pip")]
    assert commands == [
        "pip install -e . && python tools/train.py configs/detr_vit.yaml",
        "pip install -e '.[test]' && pytest",
    ]


def test_every_room_has_a_row():
    names = {name for row in ROWS if TABLES.get(row.table) is folders for name in pages.spans(row.cells[0])}
    assert {name.strip("/").removesuffix(".py") for name in names} == set(RANK) - {"__main__"}


def test_every_finding_of_a_check_has_a_row():
    assert [row.cells[0] for row in ROWS if TABLES.get(row.table) is found] == list(CODES)


def test_every_error_has_a_row():
    assert {row.cells[0].strip('"') for row in ROWS if TABLES.get(row.table) is errors} == set(ERRORS)


def test_every_kind_of_event_has_a_row():
    rows = {pages.spans(row.cells[0])[0] for row in ROWS if TABLES.get(row.table) is happened}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "vitdet").rglob("*.py"))
    assert rows >= {"started", "resumed", "finished"} <= set(re.findall(r"\bnote\(\s*\w+, \"(\w+)\"", sources))


def test_every_layout_has_a_row():
    assert {row.cells[0] for row in ROWS if TABLES.get(row.table) is layouts} == set(MAKERS)


def test_every_format_has_a_row():
    assert {row.cells[0] for row in ROWS if TABLES.get(row.table) is formats} == set(FORMATS)


def test_every_page_is_in_the_readme():
    """And in the navigation; `mkdocs build --strict` fails where a page is in neither."""
    linked = {
        target for row in ROWS if TABLES.get(row.table) is contents for target in re.findall(r"\((.*?)\)", row.text)
    }
    assert linked == {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/reference.md"}
