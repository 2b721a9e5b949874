"""docs/your_data.ipynb without running it: it is short, holds no outputs, and its commands and calls are there.

`.ci/wheel` runs it, with vitdet installed from the wheel, in an empty folder.
"""

import ast
import json
import re

import tiny

from vitdet.cli import VERBS
from vitdet.command.layers import read_words

NOTEBOOK = tiny.ROOT / "docs" / "your_data.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_short_and_has_no_outputs():
    assert NOTEBOOK.stat().st_size < 20_000 and len(CODE) < 12
    for cell in CELLS:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in CELLS) == 1


def test_its_python_compiles_and_its_commands_are_verbs():
    for source in CODE:
        lines = source.splitlines()
        ast.parse("\n".join(line for line in lines if not line.startswith("!")))
        for words in (line.removeprefix("!vitdet ").split() for line in lines if line.startswith("!")):
            assert words[0] in VERBS, words
            if words[0] == "train":
                settings, flags = read_words([word for word in words[2 : words.index("2>&1")] if word != "{MORE}"])
                assert settings and not flags


def test_its_text_names_verbs_that_exist():
    text = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    named = re.findall(r"`!?vitdet (\w+)", text)
    assert named and set(named) <= set(VERBS)
