"""What mkdocs adds to the pages of this folder: the pages at the root of the repository, the keys of configs, and the
public classes."""

import dataclasses
import html
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.structure.files import File, Files

import vitdet
from vitdet.command.keys import COMMON, REQUIRED, Key, keys_of

ROOT = Path(__file__).resolve().parents[1]
FROM_THE_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


class Examples(griffe.Extension):
    """The section `Example:` of a docstring holds code: griffe knows it as `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def on_files(files: Files, config) -> Files:
    """Adds the pages at the root."""
    for source, page in FROM_THE_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Links to the root's pages lead to what they became, and the generated parts of pages are put in their places."""
    for source, page in FROM_THE_ROOT.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}", f"]({page}", markdown)
    for place, text in (("<!-- every key -->", every_key), ("<!-- every name -->", every_name)):
        if place in markdown:
            markdown = markdown.replace(place, "\n".join(text()))
    return markdown


def every_name() -> Iterator[str]:
    """The public names, by the room that they are in."""
    for place in vitdet._PLACES:
        yield f"\n## {place}\n"
        for name in vitdet._PLACES[place]:
            yield f"::: vitdet.{name}\n"


def every_key() -> Iterator[str]:
    """A table for each class that a config may name, and for each group of options."""
    yield "## Beside the sections\n"
    yield from table(COMMON)
    parts = {name: part for name in vitdet.__all__ if inspect.isclass(part := getattr(vitdet, name))}
    for title, is_there in SECTIONS.items():
        yield f"\n## {title}"
        for name, part in parts.items():
            if is_there(part):
                yield f"\n### {name}\n\n{summary(part)}\n"
                yield from table(keys_of("part", part, sizes=sizes_of(part)))


def is_options(part: type) -> bool:
    """A group of options is a dataclass of keywords."""
    kinds = {parameter.kind for parameter in inspect.signature(part).parameters.values()}
    return dataclasses.is_dataclass(part) and kinds == {inspect.Parameter.KEYWORD_ONLY}


def below(base: type):
    return lambda part: issubclass(part, base) and part is not base


# title: whether a class stands there
SECTIONS = {
    "`model`: how it is trained": lambda part: part is vitdet.Task,
    "`model.backbone`": lambda part: part is vitdet.Backbone,
    "`model.backbone.stem`": below(vitdet.Stem),
    "`model.backbone.neck`": below(vitdet.Neck),
    "`model.head`": below(vitdet.Head),
    "`data`": lambda part: part.__name__.endswith("Data"),
    "`data.train`, `data.val` and `data.test`": lambda part: part.__name__.endswith("Split"),
    "`data.size`": lambda part: part is vitdet.Size,
    "`trainer`: the run": lambda part: part is vitdet.Trainer,
    "Groups of options": lambda part: part.__name__ not in ("UserError", "Size") and is_options(part),
}


def sizes_of(part: type) -> int:
    """How many of its first arguments a part is given by what it stands in."""
    if not issubclass(part, (vitdet.Head, vitdet.Neck, vitdet.Stem)):
        return 0
    parameters = inspect.signature(part).parameters.values()
    return sum(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)


def summary(part: type) -> str:
    """The first paragraph of a docstring."""
    return (inspect.getdoc(part) or "").split("\n\n")[0].replace("\n", " ")


def code(value: object) -> str:
    """As code in a cell of a table, where backquotes do not hide a bar."""
    return f"<code>{html.escape(str(value)).replace('|', '&#124;')}</code>"


def table(keys: "tuple[Key, ...] | list[Key]") -> Iterator[str]:
    if not keys:
        yield "It takes no options."
        return
    yield "| key | type | default | what it does |\n|---|---|---|---|"
    for key in keys:
        default = "required" if key.default is REQUIRED else code(key.default)
        cells = [code(key.name.removeprefix("part.")), code(key.type), default, key.text.replace("|", "\\|")]
        yield "| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |"
