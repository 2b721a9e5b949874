"""A mistake of the user's ends in one sentence and status 2; a fault of vitdet shows its traceback."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import TINY

from vitdet import cli
from vitdet.cli import main
from vitdet.command import ending
from vitdet.command.files import ConfigError
from vitdet.command.layers import read_layers
from vitdet.errors import UserError

ROOT = Path(__file__).parents[2]


BAD_PARTS = """
from vitdet import DETRHead

class Words(DETRHead):
    def __init__(self, in_channels, strides, num_classes, **options):
        raise ValueError("my own words")

class Key(DETRHead):
    def __init__(self, in_channels, strides, num_classes, **options):
        {}["gone"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `tiny.yaml`, and with the checkpoints of its run."""
    folder = tmp_path_factory.mktemp("mistakes")
    text = TINY.replace("ROOT", str(folder / "shapes")).replace("RUNS", str(folder / "runs"))
    (folder / "tiny.yaml").write_text(text)
    (folder / "bad_syntax.py").write_text("def (")
    (folder / "bad_import.py").write_text("import nothere")
    (folder / "bad_parts.py").write_text(BAD_PARTS)
    main(["train", str(folder / "tiny.yaml"), "--trainer.max_epochs", "1", "--trainer.pictures", "0"])
    return folder


@pytest.fixture
def told(folder, monkeypatch, capsys):
    """`told(words)`: what a command says that must fail."""
    monkeypatch.chdir(folder)

    def run(*argv):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in argv])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and "Traceback" not in error, error
        lines = [line for line in error.splitlines() if line.startswith("vitdet:")]
        assert len(lines) == 1
        return lines[0]

    return run


KEYS = [  # key, value, what the sentence holds
    ("model.lrr", "1", "--model.lrr: there is no key model.lrr; did you mean model.lr?"),
    ("modle.lr", "1", "there is no key modle.lr; did you mean model.lr?"),
    ("lr", "1", "did you mean model.lr?"),
    ("num_queries", "1", "did you mean model.head.num_queries?"),
    ("model.num_queries", "1", "did you mean model.head.num_queries?"),
    ("trainer.batch_size", "1", "did you mean data.batch_size?"),
    ("data.max_epochs", "1", "did you mean trainer.max_epochs?"),
    ("model.head.num_querys", "1", "did you mean model.head.num_queries?"),
    ("model.num_classes", "3", "the classes come from the data"),
    ("model.head.num_classes", "3", "the classes come from the data"),
    ("model.classes", "[a]", "model.classes comes from data.classes"),
    ("trainer.enable_progress_bar", "false", "trainer.progress"),
    ("trainer.enable_model_summary", "false", "vitdet benchmark"),
    ("trainer.epochs", "3", "trainer.max_epochs"),
    ("data.imgsz", "640", "data.size"),
    ("model.head.tile", "5", "EoMTHead, MaskDecoderHead, SemanticHead take it, DETRHead does not"),
    ("data.values", "[1]", "SemanticData, ShapesSemanticData take it, ShapesData does not"),
    ("model.head.num_queries", "many", "--model.head.num_queries is 'many'; wanted int"),
    ("model.lr", "fast", "--model.lr is 'fast'; wanted float"),
    ("model.lr", "null", "--model.lr is null; wanted float"),
    ("model.schedule.shape", "cosin", "wanted 'cosine' | 'linear'"),
    ("data.size", "big", "--data.size is 'big'; wanted int | dict[str, int] | None"),
    ("trainer.max_epochs", "x", "--trainer.max_epochs is 'x'; wanted int | None"),
    ("trainer.precision", "bf17", "'bf16-mixed'"),
    ("seed_everything", "abc", "seed_everything is 'abc'; wanted int"),
    ("model", "text", "model is the text 'text'; wanted its keys"),
    ("model.head", "5", "model.head is the number 5; wanted the name of a class, or its keys"),
    ("model.head", "DETRHeadd", "did you mean DETRHead?"),
    ("model.head", "nomodule.MyHead", "there is no module nomodule"),
    ("model.head", "vitdet.heads.Nothing", "there is no class Nothing in vitdet.heads"),
    ("model.head", "json.JSONDecoder", "json.JSONDecoder is no head of vitdet; give a subclass of vitdet.Head"),
    ("model.backbone", "DETRHead", "is no backbone of vitdet"),
    ("model.head", "detrhead", "did you mean DETRHead?"),
    ("model.head", "bad_syntax.Head", "bad_syntax can't be imported: SyntaxError"),
    ("model.head", "bad_import.Head", "bad_import can't be imported: ModuleNotFoundError: No module named 'nothere'"),
    ("model.head", "bad_parts.Words", "my own words"),
    ("model.head", "bad_parts.Key", "KeyError: 'gone'"),
    ("model.head.loss_weights.clas", "1", "loss_weights has ['clas']"),
    ("data.size.squar", "64", "size is {'squar': 64}"),
    ("model.checkpoint", ".", "checkpoint . is a folder"),
    ("model.checkpoint", "https://host/a.pth", "download it first"),
    ("data", "ShapesDat", "did you mean ShapesData?"),
    ("model.backbone.neck", "Projecter", "--model.backbone.neck: there is no class Projecter; did you mean Projector?"),
    ("model.backbone.neck", "foo", "there is no class foo; give CSPNeck, HybridNeck, Projector, Pyramid"),
    ("model.backbone.neck", "ConvStem", "vitdet.ConvStem is no neck of vitdet; give CSPNeck, HybridNeck"),
    ("model.backbone.neck.dept", "2", "no key model.backbone.neck.dept; did you mean model.backbone.neck.depth?"),
    ("model.backbone.neck.depth", "x", "--model.backbone.neck.depth is 'x'; wanted int"),
    ("model.head.selection.anchor_scal", "3", "did you mean model.head.selection.anchor_scale?"),
    ("model.head.masks.points", "null", "--model.head.masks.points is null; wanted int"),
    ("data.train.imags", "x", "--data.train.imags: there is no key data.train.imags; did you mean data.train.images?"),
    ("data", "Task", "is no data of vitdet"),
    ("data.classes", "[dsc]", "data.classes has 'dsc', which is no class of the data; did you mean 'disc'?"),
    ("data.rename", "{dics: a}", "data.rename has 'dics', which is no category of the data; did you mean 'disc'?"),
    ("data.balance", "2", "balance is 2.0; wanted a number from 0 to 1"),
    ("data.train", "[{imags: x}]", "--data.train[0] has imags, which is no key of it; did you mean images?"),
    ("data.train", "[{images: x}]", "--data.train[0].annotations is missing; wanted str"),
    ("data.train", "[x]", "--data.train[0] is 'x'; wanted a mapping with images, annotations, weight"),
    ("data.train", "[{images: x, annotations: y, weight: z}]", "--data.train[0].weight is 'z'; wanted float"),
    ("trainer.callbacks+", "EarlyStoping", "there is no class EarlyStoping"),
    ("trainer.callbacks+", "EarlyStopping", "monitor"),
    ("trainer.strategy", "foo", "invalid strategy name"),
    ("trainer.accelerator", "quantum", "invalid accelerator name"),
    ("model.backbone.name", "resnet50", "resnet50 is no plain ViT"),
    ("model.checkpoint", "nope", "there is no published model 'nope'"),
    ("ckpt_path", "nowhere.ckpt", "there is no checkpoint nowhere.ckpt"),
    ("ckpt_path", "", "--ckpt_path is empty; give a file, or `last`"),
    ("config", "nothere.yaml", "there is no config nothere.yaml"),
]


@pytest.mark.parametrize(("key", "value", "said"), KEYS, ids=[f"{key}={value}" for key, value, _ in KEYS])
def test_a_wrong_key_or_value(told, key, value, said):
    sentence = told("train", "tiny.yaml", f"--{key}", value)
    assert said in sentence
    assert f"did you mean {key}?" not in sentence  # never the word itself


COMMANDS = [
    (["trian"], "there is no verb 'trian'"),
    (["--foo"], "there is no verb '--foo'"),
    (["train"], "which config?"),
    (["train", "--model.lr", "1"], "which config?"),
    (["train", "tiny.yml"], "there is no config tiny.yml"),
    (["train", "https://host/tiny.yaml"], "is a URL"),
    (["train", "."], "is a folder; give a config file, such as tiny.yaml"),
    (["train", "runs/tiny/version_0/best.ckpt"], "is a checkpoint; wanted a config"),
    (["train", "tiny.yaml", "more"], "more is neither a key nor the value of one"),
    (["train", "tiny.yaml", "--model.lr"], "--model.lr has no value"),
    (["train", "tiny.yaml", "--ckpt_path", "last", "--trainer.name", "other"], "there is no last.ckpt under"),
    (["train", "tiny.yaml", "--trainer.max_epochs"], "--trainer.max_epochs has no value"),
    (["train", "tiny.yaml", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitr=a"], "takes no monitr"),
    (["test", "tiny.yaml"], "test needs a checkpoint"),
    (["test", "nothere.ckpt"], "nothere.ckpt does not exist"),
    (["predict"], "required: checkpoint, image"),
    (["predict", "nothere.ckpt", "shapes/val"], "nothere.ckpt does not exist"),
    (["predict", "runs/tiny/version_0/best.ckpt", "x.jpg"], "no image at x.jpg"),
    (["predict", "runs/tiny/version_0/best.ckpt", "shapes/val", "--treshold", "1"], "unrecognized arguments"),
    (["evaluate", "a.json", "b.json"], "a.json does not exist"),
    (["evaluate", "tiny.yaml", "tiny.yaml"], "tiny.yaml is not valid JSON"),
    (["benchmark", "nothere.yaml"], "there is no config nothere.yaml"),
    (["data", "gte"], "vitdet data has no subcommand 'gte'; did you mean get?"),
    (["data", "xyz"], "vitdet data has no subcommand 'xyz'; choose from "),
    (["data", "get", "--out", "x"], "unrecognized arguments: --out; `vitdet data get --help` says"),
    (["zoo", "more"], "unrecognized arguments: more"),
]


@pytest.mark.parametrize(("argv", "said"), COMMANDS, ids=[" ".join(argv) for argv, _ in COMMANDS])
def test_a_wrong_command(told, argv, said):
    assert said in told(*argv)


def _bomb() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi")]
    return "\n".join(lines)


FILES = [
    ("base: 7", "base is the number 7; wanted the path of another config"),
    ("base: [1]", "wanted the path of another config, or a list of paths"),
    ("base: {a: 1}", "base is a mapping"),
    ("base: wrong.yaml", "its own base"),
    ("base: nope.yaml", "there is no config"),
    ("trainer: [1]", "trainer is a list [1]; wanted its keys, such as trainer: {max_epochs: 10}"),
    ("data: 5", "data is the number 5; wanted its keys"),
    ("model: text", "model is the text 'text'; wanted its keys"),
    ("model: {head: [1]}", "model.head is a list [1]; wanted the name of a class, or its keys"),
    ("model: {head: {class_path: DETRHead, init_args: 5}}", "init_args the number 5"),
    ("model: {head: {class_path: 7}}", "class_path 7"),
    ("hello", "holds the text 'hello'; wanted keys such as model, data and trainer"),
    ("- a", "holds a list"),
    ("1: 2", "1 is no key"),
    ("model: {null: 2}", "None is no key"),
    ("model: {lr: 1, lr: 2}", "the key lr stands twice"),
    ("model:\n\tlr: 1", "line 2 is not valid YAML"),
    ("model: {lr: 1", "is not valid YAML"),
    ("model: !!python/object/apply:os.system ['echo']", "is not valid YAML"),
    ("model: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ("model: &m {x: *m}", "an alias holds itself"),
    (_bomb(), "more than 100,000 values"),
    (b"model: \0", "is not valid YAML"),
    (b"\xff\xfem\x00", "no text in UTF-8"),
]


@pytest.mark.parametrize(("content", "said"), FILES, ids=[str(content)[:30] for content, _ in FILES])
def test_a_config_of_any_wrong_shape(tmp_path, content, said):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as refused:
        read_layers(path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_config_with_a_byte_order_mark_or_a_date_reads(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfdata: {root: 2020-01-01}")
    assert read_layers(tmp_path / "a.yaml")["data"]["init_args"] == {"root": "2020-01-01"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("two\n  lines"), "two lines"),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/last.ckpt"),
            "run/last.ckpt: No space left on device; the disk is full",
        ),
        (OSError(errno.EROFS, "Read-only file system", "x"), "choose another folder"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied; you may not"),
        (FileNotFoundError("checkpoint x does not exist"), "checkpoint x does not exist"),
    ],
)
def test_what_is_said_of_an_error(error, said):
    assert said in ending.sentence(error)


def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch, capsys):
    def broken(_):
        return {}["gone"]

    monkeypatch.setitem(cli._RUN, "zoo", broken)
    with pytest.raises(SystemExit) as stopped:
        main(["zoo"])
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and "KeyError: 'gone'" in error and "please report it" in error


def test_debug_shows_every_traceback(told, folder, monkeypatch, capsys):
    monkeypatch.setenv("VITDET_DEBUG", "1")
    with pytest.raises(SystemExit) as stopped:
        main(["train", "nothere.yaml"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" in error and "vitdet: there is no config nothere.yaml" in error


def test_whoever_reads_the_output_may_leave():
    command = f"{sys.executable} -m vitdet zoo | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
