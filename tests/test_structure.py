"""The order of the parts, which part may import which library, and how long files and functions may be, read from the
syntax tree."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "vitdet").rglob("*.py"))
SCRIPTS = sorted((ROOT / "tools").glob("*.py"))
MAX_FILE, MAX_FUNCTION, MAX_SCRIPT, MAX_ARGUMENTS = 300, 40, 30, 15

RANKS = [
    {
        "atomic",
        "checksum",
        "errors",
        "bounds",
        "handshake",
        "images",
        "kept",
        "pixels",
        "fetch",
        "progress",
        "ranges",
        "signals",
        "structures",
        "prediction",
        "detections",
        "thresholds",
        "boxes",
        "masks",
        "segmentations",
        "draw",
        "plates",
        "pages",
        "trust",
        "contents",
        "entry",
        "within",
        "config",
        "remote",
        "renamed",
    },
    {"backbone"},
    {"losses"},
    {"heads"},
    {"annotations", "checkpoint", "model_folder"},
    {"data", "download", "metrics", "zoo"},
    {"report"},
    {"training"},
    {"deploy", "share"},
    {"serve", "explain"},
    {"command", "cli", "__main__"},
]
RANK = {part: rank for rank, parts in enumerate(RANKS) for part in parts}
LIBRARIES = {  # a library: the paths under vitdet/ that may import it
    "timm": ("backbone/", "zoo/"),
    "lightning": ("data/module.py", "training/", "cli.py", "command/run.py"),
    "pytorch_lightning": (),
    "jsonargparse": ("command/",),
    "albumentations": ("data/transforms/adapter.py", "data/transforms/trial.py"),
    "pycocotools": ("metrics/",),
    "pycocotools.mask": ("masks.py", "metrics/", "data/"),
    "hotcoco": ("metrics/", "report/"),
    "torchmetrics": ("metrics/",),
    "supervision": ("prediction.py", "deploy/tracking.py"),
    "trackers": ("deploy/tracking.py",),
    "fsspec": ("remote/",),
    "av": ("deploy/frames.py", "deploy/encoding.py"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "h11", "prometheus_client"), ("serve/",)),
}


def imports(tree: ast.AST):
    """Dotted names of all that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports out, from vitdet.…"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def library_faults(place: str, names) -> list[str]:
    faults = []
    for name in names:
        owner = "pycocotools.mask" if name.startswith("pycocotools.mask") else name.split(".")[0]
        allowed = LIBRARIES.get(owner)
        if allowed is not None and not place.startswith(allowed):
            faults.append(f"vitdet/{place} imports {name}; only {', '.join(allowed) or 'nobody'} may")
    return faults


def order_faults(place: str, names) -> list[str]:
    part = place.split("/")[0].removesuffix(".py")
    if part == "__init__":
        return []
    faults = [] if part in RANK else [f"vitdet/{place}: {part} has no rank; give it one in RANKS"]
    for name in names:
        other = name.split(".")[1] if name.startswith("vitdet.") else None
        if other in RANK and RANK.get(part, 99) < RANK[other]:
            faults.append(f"vitdet/{place} imports {name}: {part} comes before {other}")
    return faults


def long_functions(tree: ast.AST):
    """Name and number of lines, docstring aside, of the functions over the limit."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > MAX_FUNCTION:
                yield node.name, lines


def long_constructors(tree: ast.AST):
    """Name and number of arguments of the classes whose constructor takes more than the limit; `**options` is none."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        count = 0
        if any("dataclass" in ast.unparse(word) or "options" in ast.unparse(word) for word in node.decorator_list):
            count = sum(isinstance(field, ast.AnnAssign) for field in node.body)
        for init in (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"):
            count = len(init.args.posonlyargs + init.args.args + init.args.kwonlyargs) - 1
        if count > MAX_ARGUMENTS:
            yield node.name, count


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("faults", [order_faults, library_faults])
def test_imports_point_one_way(faults):
    found = [
        fault
        for path in PACKAGE
        for fault in faults(path.relative_to(ROOT / "vitdet").as_posix(), imports(parsed(path)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", PACKAGE + SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    limit = MAX_SCRIPT if path in SCRIPTS else MAX_FILE
    assert lines <= limit, f"{lines} lines, at most {limit}: split it by idea"
    long = [f"{name} has {count} lines, at most {MAX_FUNCTION}" for name, count in long_functions(parsed(path))]
    assert not long, "; ".join(long)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_constructors_take_few_arguments(path):
    long = [f"{name} takes {count}, at most {MAX_ARGUMENTS}" for name, count in long_constructors(parsed(path))]
    assert not long, f"{'; '.join(long)}: group what belongs together as a part"


def test_the_rules_find_what_breaks_them():
    code = (
        "import timm\nfrom vitdet.training import Task\nfrom pycocotools import mask\n"
        "def f():\n    import lightning.pytorch as L\n"
    )
    names = list(imports(ast.parse(code)))
    assert len(order_faults("heads/x.py", names)) == 1 and not order_faults("deploy/x.py", names)
    assert len(library_faults("heads/x.py", names)) == 3
    assert [fault.split()[2].strip(";") for fault in library_faults("data/x.py", names)] == [
        "timm",
        "lightning.pytorch",
    ]
    assert order_faults("stray.py", []) and not order_faults("__init__.py", names)
    body = "\n".join(["    x = 1"] * (MAX_FUNCTION + 1))
    assert list(long_functions(ast.parse(f"def f():\n    'docs'\n{body}"))) == [("f", MAX_FUNCTION + 1)]
    names = [f"a{i}" for i in range(MAX_ARGUMENTS + 1)]
    many = f"class A:\n    def __init__(self, {', '.join(names)}, **more): ..."
    fields = "@options(RANGES)\nclass B:\n" + "\n".join(f"    {name}: int" for name in names)
    assert [*long_constructors(ast.parse(f"{many}\n{fields}"))] == [("A", len(names)), ("B", len(names))]


def test_every_part_is_ranked_and_there():
    parts = {path.relative_to(ROOT / "vitdet").parts[0].removesuffix(".py") for path in PACKAGE} - {"__init__"}
    assert parts == set(RANK)


def test_no_two_files_of_tests_share_a_name():
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1], "pytest can't collect both"
