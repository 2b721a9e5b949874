"""The configs that come with vitdet: where they lie, their names, and what each is for. Imports nothing heavy."""

import atexit
import functools
import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

# configs of this folder are parts of others
PARTS_FOLDER = "_base"


@functools.cache
def folder() -> Path:
    """The folder of the configs: inside of the package where vitdet was installed, beside it in a clone.

    Where vitdet lies in an archive, it is a copy that goes when the process ends.
    """
    package = resources.files("vitdet")
    inside = package / "configs"
    if not inside.is_dir():
        return Path(str(package)).parent / "configs"
    if isinstance(inside, Path):
        return inside
    copy = Path(tempfile.mkdtemp(prefix="vitdet-configs-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    _copy(inside, copy)
    return copy


def _copy(source: Any, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for item in source.iterdir():
        if item.is_dir():
            _copy(item, target / item.name)
        else:
            (target / item.name).write_bytes(item.read_bytes())


def names() -> list[str]:
    """The names of all configs that can be trained, such as `coco/detr_vit_small`; those at the top come first."""
    found = [path.relative_to(folder()) for path in folder().rglob("*.yaml") if path.parent.name != PARTS_FOLDER]
    return [path.with_suffix("").as_posix() for path in sorted(found, key=lambda path: (len(path.parts), path))]


def find(name: str) -> Path | None:
    """The file of the config that a name means, or nothing: `finetune`, `finetune.yaml` or `configs/finetune.yaml`.

    Example:
        >>> find("configs/coco/detr_vit_small.yaml").name, find("detr") is None
        ('detr_vit_small.yaml', True)
    """
    short = name.replace("\\", "/").removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    if not short or ".." in short.split("/") or short.startswith("/"):
        return None
    path = folder() / f"{short}.yaml"
    return path if path.is_file() else None


def base_of(path: Path, base: str) -> Path:
    """The file that `base:` means in the file `path`: one beside it, before a config that comes with vitdet."""
    beside = path.parent / base
    return beside if beside.is_file() else find(base) or beside


def purpose(text: str) -> str:
    """What a config is for: the first sentence of the comment at its head, after the command, without brackets.

    Example:
        >>> purpose("# vitdet train mine --data DIR\\n# Birds (10), from scratch. Not run.\\ndata: CocoData")
        'Birds, from scratch'
    """
    head = re.match(r"(#.*\n)*", text)
    lines = [line.removeprefix("#").strip() for line in (head[0] if head else "").replace("\\\n#", "").splitlines()]
    words = " ".join(line for line in lines if not line.startswith("vitdet "))
    return re.split(r"[.:](\s|$)", re.sub(r"\s*\([^)]*\)", "", words), maxsplit=1)[0]
