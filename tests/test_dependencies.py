"""Every library that vitdet imports is declared in pyproject.toml, and every declared library is imported, or there is
a reason for it."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# pytest brings tomli where the standard library has no tomllib yet
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE = sorted((ROOT / "vitdet").rglob("*.py"))
# the name under which a library is imported, where it is not the one under which it is installed
INSTALLED_AS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml"}
NOT_IMPORTED = {
    "torchmetrics": "Lightning needs it; the bound is ours",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """The libraries of `dependencies`, and those of these extras."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {normal(re.match(r"[\w.-]+", text)[0]) for texts in lists for text in texts}


def libraries(tree: ast.AST) -> Iterator[str]:
    """The libraries that are imported anywhere in a file, functions included."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in (name.split(".")[0] for name in names):
            if name != "vitdet" and name not in sys.stdlib_module_names:
                yield normal(INSTALLED_AS.get(name, name))


IMPORTED = {path: set(libraries(ast.parse(path.read_text(encoding="utf-8")))) for path in PACKAGE}


def at_import(path: Path) -> set[str]:
    """The libraries that importing the file imports: those outside of functions."""
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    return {name for node in statements if isinstance(node, (ast.Import, ast.ImportFrom)) for name in libraries(node)}


def test_what_is_imported_is_declared():
    """At the head of a file only what is always installed; inside functions the extras, too."""
    # `vitdet serve` says which extra is missing before it imports that folder
    always = {path: declared("serve") if path.parent.name == "serve" else declared() for path in PACKAGE}
    ever = declared("serve", "export", "remote", "video", "supervision", "parity")
    missing = {f"{path.name}: {name}" for path in PACKAGE for name in at_import(path) - always[path]}
    missing |= {f"{path.name}: {name}" for path, names in IMPORTED.items() for name in names - ever}
    assert not missing, f"declare in pyproject.toml: {', '.join(sorted(missing))}"


def test_what_is_declared_is_imported():
    unused = declared() - set().union(*IMPORTED.values()) - set(NOT_IMPORTED)
    assert not unused, f"remove from pyproject.toml, or give a reason in NOT_IMPORTED: {', '.join(sorted(unused))}"


def test_the_tests_of_the_readme_need_no_other_implementation():
    assert declared("parity") - declared() == {"rfdetr", "transformers"}
    assert not declared("parity") & declared("test") - declared()
