"""`vitdet serve`: a model as an HTTP service."""

import inspect
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from vitdet.command.parser import Parser


def run(argv: Sequence[str]) -> None:
    """Serves until SIGINT or SIGTERM."""
    from vitdet.serve import Limits, serve

    options = vars(parser().parse_args(argv))
    limits = Limits(**{limit.name: options.pop(limit.name) for limit in fields(Limits)})
    serve(options.pop("model"), **options, limits=limits)


def parser() -> Parser:
    """The arguments of the verb; their defaults are those of `vitdet.serve.serve` and `Limits`."""
    from vitdet.cli import VERBS
    from vitdet.serve import Limits, serve

    default = {name: given.default for name, given in inspect.signature(serve).parameters.items()}
    made = Parser("serve", VERBS["serve"])
    made.add_argument("model", help="a checkpoint, an exported model, or the name of a published one")
    made.add_argument("--host", default=default["host"], help="address to listen at (%(default)s)")
    made.add_argument("--port", type=int, default=default["port"], help="0 for any that is free (%(default)s)")
    made.add_argument("--device", help="cpu, cuda, cuda:1, …; the best there is, if not given")
    limits = made.add_argument_group("limits", "what is above them gets the status in parentheses")
    for limit in fields(Limits):
        kind = float if limit.type in (float, "float") else int
        limits.add_argument(
            f"--{limit.name}", type=kind, default=limit.default, help=f"{limit.metadata['help']} (%(default)s)"
        )
    access = made.add_argument_group("access", "the variable VITDET_API_KEY holds the key, or keys with commas")
    several: dict[str, Any] = {"nargs": "+", "default": ()}
    access.add_argument(
        "--urls", metavar="WHERE", **several, help="fetch images from `public` addresses, or a network like 10.1.0.0/16"
    )
    access.add_argument("--cors", metavar="ORIGIN", **several, help="pages of other servers that may use this one")
    access.add_argument("--allow_host", metavar="NAME", **several, help="further names of this server, behind a proxy")
    return made
