"""The comparison with the authors' code, and the table of it: `pytest tests/zoo -k outputs --parity`."""

import pytest

TOLERANCE = 1e-4


def pytest_addoption(parser):
    parser.addoption("--parity", action="store_true", help="print the largest relative error of each output")


@pytest.fixture
def parity(request):
    """`parity(model, oracle, theirs, ours, where, logits=(found, wanted), …)` checks the outputs of a model.

    No output may differ by more than a ten thousandth of its largest value. `theirs` and `ours` are numbers of tensors
    in the state dicts, `where` is the size of the image.
    """

    def compare(model, oracle, theirs, ours, where, **outputs):
        errors = {
            name: float((found - wanted).abs().max() / wanted.abs().max()) for name, (found, wanted) in outputs.items()
        }
        shown = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
        row = f"| `{model}` | {len(theirs)} → {len(ours)} | {oracle} | {where} | {shown} |"
        request.node.user_properties.append(("parity", row))
        assert max(errors.values()) <= TOLERANCE, shown

    return compare


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    rows = [row for report in reports for name, row in report.user_properties if name == "parity"]
    if rows and config.getoption("--parity", default=False):
        terminalreporter.section("parity")
        terminalreporter.write_line(
            "| model | keys, theirs → ours | beside | at | largest relative error |\n|---|---|---|---|---|"
        )
        for row in sorted(rows):
            terminalreporter.write_line(row)
