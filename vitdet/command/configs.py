"""`vitdet configs`: the configs that come with vitdet, and what is in one."""

from pathlib import Path

from vitdet.cli import VERBS
from vitdet.command import shipped
from vitdet.command.parser import Parser
from vitdet.command.recipes import recipe

MORE = """
`vitdet train NAME` trains one, `vitdet configs NAME` prints it, and `vitdet new my.yaml --from NAME` begins a config of
your own on top of it. `vitdet train rf_detr/nano` names a published model, too; `vitdet zoo` lists those."""


def run(argv: list[str]) -> None:
    parser = Parser("configs", VERBS["configs"])
    parser.add_argument("name", nargs="?", help="a config to print, such as finetune")
    name = parser.parse_args(argv).name
    if name is None:
        _list()
        return
    path, model = recipe(name)
    if model:
        print(f"# {name} is this config with --model.checkpoint {model}")
    print(Path(path).read_text(encoding="utf-8"), end="")


def _list() -> None:
    names = shipped.names()
    width = max(map(len, names))
    for name in names:
        text = (shipped.folder() / f"{name}.yaml").read_text(encoding="utf-8")
        print(f"{name:{width}}  {shipped.purpose(text)}")
    print(MORE)
