"""The public names, the ways to start the command, and what each costs to import."""

import ast
import inspect
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import TINY

import vitdet
from vitdet import trust
from vitdet.cli import load_config, main
from vitdet.command.keys import keys_of, sections
from vitdet.command.layers import read_layers
from vitdet.command.run import complete

ROOT = Path(__file__).parent.parent
HEADS = [name for name in vitdet.__all__ if name.endswith("Head") and name != "Head"]
DATA = [name for name in vitdet.__all__ if name.endswith("Data")]


def test_names_are_those_that_type_checkers_see():
    tree = ast.parse((ROOT / "vitdet" / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in guarded.body for alias in node.names}
    assert seen == {name: f"vitdet.{place}" for name, place in vitdet._PLACE_OF.items()}
    assert sorted(seen) == sorted(vitdet.__all__) and set(vitdet.__all__) <= set(dir(vitdet))
    for name in vitdet.__all__:
        assert getattr(vitdet, name) is not None
    with pytest.raises(AttributeError):
        vitdet.Nothing  # noqa: B018


def _seconds(*words: str) -> float:
    """The least of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT)
        times.append(time.perf_counter() - start)
    return min(times)


def test_nothing_heavy_is_imported_early():
    code = "import sys, vitdet, vitdet.cli; print(sorted({'torch', 'lightning', 'timm', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    assert _seconds("-m", "vitdet", "--help") - _seconds("-c", "pass") < 0.3


@pytest.mark.parametrize("words", [["-m", "vitdet"], ["-m", "vitdet.cli"]])
def test_the_module_is_the_command(words):
    done = subprocess.run([sys.executable, *words, "--version"], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith(f"vitdet {vitdet.__version__}, Python ") and "torch" in done.stdout


def test_the_tools_can_be_imported_by_workers_that_are_spawned():
    for path in (ROOT / "tools").glob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body[1:]  # behind the docstring
        assert all(isinstance(node, (ast.Import, ast.ImportFrom, ast.If)) for node in body), path


@pytest.mark.parametrize("name", HEADS)
def test_a_head_has_its_own_defaults(name, tmp_path):
    """What YAML resolves is what the signature says, whichever head the file named before."""
    text = TINY.replace("ROOT", str(tmp_path / "shapes"))
    other = "DEIMHead" if name == "PlainDETRHead" else "PlainDETRHead"
    small = "dim: 32, num_queries: 20, num_layers: 1, decoder: {num_heads: 4, ffn_dim: 32}"
    (tmp_path / "a.yaml").write_text(text.replace(small, f"class_path: {other}, dim: 8, num_queries: 3"))
    tail = ["--model.backbone.tail", "1", "--model.backbone.depth", "3", "--model.backbone.neck", "null"]
    words = ["--model.head", name, *(tail if name == "EoMTHead" else [])]
    if name == "SemanticHead":
        words += ["--data", "ShapesSemanticData", "--data.root", str(tmp_path / "shapes")]
    task, _ = load_config(tmp_path / "a.yaml", words)
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(getattr(vitdet, name)).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert type(task.head).__name__ == name
    assert {key: task.head.init_args[key] for key in defaults} == defaults


SHORT = "{class_path: SemanticHead, dim: 24}"


def test_short_classes_on_the_command_line_and_in_a_second_config(tmp_path):
    (tmp_path / "a.yaml").write_text(TINY.replace("ROOT", str(tmp_path / "shapes")))
    (tmp_path / "b.yaml").write_text(f"data: ShapesSemanticData\nmodel: {{head: {SHORT}}}")
    root = ["--data.root", str(tmp_path / "shapes")]
    for words in (["--data", "ShapesSemanticData", "--model.head", SHORT], ["--config", str(tmp_path / "b.yaml")]):
        task, data = load_config(tmp_path / "a.yaml", [*words, *root])
        assert task.head.init_args["dim"] == 24 and data.batch_size == 4  # the head's own, and what all data have
    task, _ = load_config(tmp_path / "a.yaml", ["--config", str(tmp_path / "b.yaml"), *root, "--model.head.dim", "16"])
    assert task.head.init_args["dim"] == 16


def test_a_head_in_the_folder_of_the_command_is_found(tmp_path):
    code = (
        "from vitdet import DETRHead\n\n"
        "class MyHead(DETRHead):\n"
        "    def __init__(self, in_channels, strides, num_classes, *, num_queries: int = 7):\n"
        "        super().__init__(in_channels, strides, num_classes, dim=32, num_queries=num_queries, num_layers=1, "
        "decoder={'num_heads': 4, 'ffn_dim': 32})\n"
    )
    (tmp_path / "my_heads.py").write_text(code)
    (tmp_path / "a.yaml").write_text(TINY.replace("ROOT", "shapes").replace("RUNS", "runs"))
    command = [
        str(Path(sys.executable).parent / "vitdet"),
        "train",
        "a.yaml",
        "--model.head",
        "my_heads.MyHead",
        "--trainer.max_steps",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_head_of_the_users_own_is_imported_where_the_user_names_it(tmp_path, monkeypatch, capsys):
    """A checkpoint alone does not: who sends it would decide which code of the working folder is run."""
    (tmp_path / "my_own_heads.py").write_text(
        "from vitdet import DETRHead\n\nclass MyHead(DETRHead):\n    imported = 'here'\n"
    )
    text = TINY.replace("ROOT", str(tmp_path / "shapes")).replace("RUNS", str(tmp_path / "runs"))
    (tmp_path / "a.yaml").write_text(text.replace("max_epochs: 2", "max_epochs: 1, pictures: 0"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    named = ["a.yaml", "--model.head", "{class_path: my_own_heads.MyHead, dim: 32}"]
    main(["train", *named])
    best = str(next(tmp_path.rglob("best.ckpt")))
    image = str(next((tmp_path / "shapes").rglob("*.jpg")))
    module = sys.modules.pop("my_own_heads")
    monkeypatch.setattr(trust, "_allowed", set())
    for argv in (["predict", best, image], ["train", "a.yaml", "--model.checkpoint", best], ["benchmark", best]):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and "on the command line: --import my_own_heads" in said, said
    assert "my_own_heads" not in sys.modules
    # the config names it
    main(["train", *named, "--model.checkpoint", best, "--trainer.max_epochs", "1"])
    assert sys.modules.pop("my_own_heads") is not module
    monkeypatch.setattr(trust, "_allowed", set())
    main(["predict", "--import", "my_own_heads", best, image, "--device", "cpu"])
    for argv, said in (
        (["--import", "no_such"], "there is no module no_such"),
        (["--import=a-b"], "the name of a module"),
    ):
        with pytest.raises(SystemExit):
            main(["predict", best, image, *argv])
        assert said in capsys.readouterr().err


def test_help_lists_every_key_of_the_config(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(TINY)
    main(["train", str(tmp_path / "a.yaml"), "--help"])
    shown = capsys.readouterr().out
    for line in (
        "--model.lr  float = 0.0002",
        "--model.head.num_queries  int = 20",
        "--data.train_images  int = 12",
        "--trainer.max_epochs  int | None = 2",
        "queries of an image: at most so many objects can be found",
    ):
        assert line in shown
    for section in sections(complete(read_layers(tmp_path / "a.yaml"), None)):
        assert all(f"--{key.name}  " in shown for key in section.keys)


CLASSES = [("model.head", name) for name in HEADS] + [("data", name) for name in DATA]
CLASSES += [("model.backbone", "Backbone"), ("model", "Task"), ("trainer", "Trainer")]


@pytest.mark.parametrize(("section", "name"), CLASSES, ids=[name for _, name in CLASSES])
def test_every_key_says_what_it_does(section, name):
    keys = keys_of(section, getattr(vitdet, name))
    assert keys and not [key.name for key in keys if not key.text or not key.type]
