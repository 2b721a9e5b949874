"""`vitdet data <subcommand>`: what is done with data sets besides training on them.

Each subcommand stands in a module of its own, which is imported when the subcommand is called.
"""

import difflib
import importlib

from vitdet.errors import UserError

# the subcommand: the module whose `run(argv)` does it, and its line of help
SUBCOMMANDS = {
    "show": ("vitdet.command.data_show", "CONFIG: draw training samples exactly as the model sees them"),
    "check": ("vitdet.command.data_check", "FOLDER|CONFIG: find what is wrong with images and labels, before training"),
    "convert": ("vitdet.command.data_convert", "FOLDER OUT: write the labels of a folder as COCO JSON"),
    "get": ("vitdet.command.data_get", "NAME…: fetch published data sets into datasets/; without a name, list them"),
}


def run(argv: list[str]) -> None:
    """Runs the subcommand that the first word names on the words after it.

    Raises:
        UserError: there is no such subcommand.
    """
    if not argv or argv[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:8} {text}" for name, (_, text) in SUBCOMMANDS.items())
        print(f"usage: vitdet data SUBCOMMAND …\n\n{lines}\n\n`vitdet data SUBCOMMAND --help` lists its options.")
        return
    name, *rest = argv
    if name not in SUBCOMMANDS:
        near = difflib.get_close_matches(name, SUBCOMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(SUBCOMMANDS)}"
        raise UserError(f"vitdet data has no subcommand {name!r}; {hint}")
    importlib.import_module(SUBCOMMANDS[name][0]).run(rest)
