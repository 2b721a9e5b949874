"""An image's way to its loss runs through few files."""

import runpy
from pathlib import Path

import pytest

from vitdet import heads

TRACE = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "trace.py"))
FILES = {
    "PlainDETRHead": 12,
    "DETRHead": 15,
    "DEIMHead": 18,
    "MaskDecoderHead": 15,
    "EoMTHead": 14,
    "SemanticHead": 11,
}


@pytest.mark.parametrize(("name", "most"), FILES.items())
def test_an_image_gets_to_its_loss_in_few_files(name, most):
    files = TRACE["executed"](TRACE["training_step"](getattr(heads, name)))
    assert {"structures.py", "heads/base.py", "backbone/backbone.py"} <= set(files)
    assert len(files) <= most, "\n".join(files)


def test_lines_are_counted_once():
    def twice():
        for _ in range(2):
            heads.layers.class_bias()

    assert TRACE["executed"](twice) == {"heads/layers.py": 1}
