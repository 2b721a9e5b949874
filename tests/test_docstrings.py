"""The examples in the docstrings of vitdet run, and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "vitdet").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


def module_of(path: Path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return importlib.import_module(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    """Each in a folder of its own; `...` stands for any text, and white space may differ."""
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(exclude_empty=True).find(module_of(path))
    examples = [test for test in found if test.examples]
    assert examples, "no docstring holds the example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples:
        torch.manual_seed(0)
        runner.run(test)
    assert not runner.failures, capsys.readouterr().out
