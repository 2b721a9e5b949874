"""What mkdocs adds to the pages of this folder: those at the root of the repository, and the keys of a config."""

import html
import inspect
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

import vitdet
from vitdet.command.keys import COMMON, REQUIRED, TITLES, Key, keys_of

ROOT = Path(__file__).resolve().parents[1]
FROM_THE_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# section of a config: the ending of the names of the classes that may stand there
SECTIONS = {"model": "Task", "model.backbone": "Backbone", "model.head": "Head", "data": "Data", "trainer": "Trainer"}
PLACE_OF_KEYS = "<!-- every key -->"


def on_files(files: Files, config) -> Files:
    """Adds the pages at the root."""
    for source, page in FROM_THE_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Links to the root's pages lead to what they became; the place of the keys is filled."""
    for source, page in FROM_THE_ROOT.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}", f"]({page}", markdown)
    return markdown.replace(PLACE_OF_KEYS, every_key()) if PLACE_OF_KEYS in markdown else markdown


def every_key() -> str:
    """A table for each class that a config may name."""
    lines = ["## Beside the sections", "", *table(COMMON, "")]
    for section, ending in SECTIONS.items():
        lines += ["", f"## `{section}`: {TITLES[section]}"]
        for name in vitdet.__all__:
            cls = getattr(vitdet, name)
            if inspect.isclass(cls) and name.endswith(ending) and name != "Head":
                lines += ["", f"### {name}", "", summary(cls), "", *table(keys_of(section, cls), f"{section}.")]
    return "\n".join(lines)


def summary(cls: type) -> str:
    """The first sentence of a docstring."""
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def code(value: object) -> str:
    """As code in a cell of a table, where backquotes do not hide a bar."""
    return f"<code>{html.escape(str(value)).replace('|', '&#124;')}</code>"


def table(keys: "tuple[Key, ...] | list[Key]", prefix: str) -> list[str]:
    rows = ["| key | type | default | what it does |", "|---|---|---|---|"]
    for key in keys:
        default = "required" if key.default is REQUIRED else code(key.default)
        cells = [f"`{key.name.removeprefix(prefix)}`", code(key.type), default, key.text.replace("|", "\\|")]
        rows.append("| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |")
    return rows
