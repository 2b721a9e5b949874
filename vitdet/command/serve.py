"""`vitdet serve`: a model as an HTTP service."""

import inspect
from collections.abc import Sequence
from dataclasses import fields

from vitdet.command.parser import Parser
from vitdet.errors import UserError


def run(argv: Sequence[str]) -> None:
    """Serves until SIGINT or SIGTERM."""
    from vitdet.cli import VERBS

    try:
        from vitdet.serve import Limits, serve
    except ImportError as error:
        if (error.name or "").startswith("vitdet"):
            raise
        raise UserError(f"vitdet serve needs {error.name}: pip install 'vitdet[serve]'") from error
    default = {name: given.default for name, given in inspect.signature(serve).parameters.items()}
    parser = Parser("serve", VERBS["serve"])
    parser.add_argument("model", help="a checkpoint, an exported model, or the name of a published one")
    parser.add_argument("--host", default=default["host"], help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=default["port"], help="0 for any that is free (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; the best there is, if not given")
    limits = parser.add_argument_group("limits", "what is above them gets the status in parentheses")
    for limit in fields(Limits):
        kind = float if limit.type in (float, "float") else int
        limits.add_argument(
            f"--{limit.name}", type=kind, default=limit.default, help=f"{limit.metadata['help']} (%(default)s)"
        )
    access = parser.add_argument_group("access", "the variable VITDET_API_KEY holds the key, or keys with commas")
    several = {"nargs": "+", "default": ()}
    access.add_argument(
        "--urls", metavar="WHERE", **several, help="fetch images from `public` addresses, or a network like 10.1.0.0/16"
    )
    access.add_argument("--cors", metavar="ORIGIN", **several, help="pages of other servers that may use this one")
    access.add_argument("--allow_host", metavar="NAME", **several, help="further names of this server, behind a proxy")
    options = vars(parser.parse_args(argv))
    chosen = Limits(**{limit.name: options.pop(limit.name) for limit in fields(Limits)})
    serve(options.pop("model"), **options, limits=chosen)
