# `just` lists the recipes; `pip install -e '.[dev]'` brings everything that they call.

_list:
    @just --list --unsorted

# the parts, without the command line
rooms := "tests/losses tests/heads tests/backbone tests/data tests/metrics"
root := "tests/test_boxes.py tests/test_masks.py tests/test_config.py tests/test_structure.py tests/test_docstrings.py"

# every test that the installed extras allow
test *options:
    pytest {{options}}

# the tests of the parts alone, without training runs, processes and pages: about 40 s on 2 free cores
test-quick *options:
    pytest -m 'not parity and not slow' {{rooms}} {{root}} {{options}}

# the comparisons with other libraries: pip install -e '.[test,parity]'
test-parity *options:
    pytest -m parity {{options}}

# which lines and branches the tests reach; shown, not gated
cov *options:
    pytest --cov --cov-report=term-missing:skip-covered {{options}}

# ruff, checks and format
lint:
    ruff check . && ruff format --check .

# pyright's errors, of which there may be no more than .ci/types.json says
types:
    python .ci/types

# the pages, with warnings as errors
docs *options:
    mkdocs build --strict {{options}}

# the size and speed of the default model
bench *options:
    vitdet benchmark configs/detr_vit.yaml {{options}}

# the wheel in a fresh environment and an empty folder: trained, tested, predicted, and the notebook
wheel:
    bash .ci/wheel

# what must hold before a change goes in, in a fresh environment
ci:
    bash .ci/run
