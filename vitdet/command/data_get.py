"""`vitdet data get NAME…`: fetches published data sets."""

from vitdet.command.data import SUBCOMMANDS
from vitdet.command.parser import Parser
from vitdet.download.catalogue import SETS


def run(argv: list[str]) -> None:
    parser = Parser("data get", SUBCOMMANDS["get"][1])
    parser.add_argument("names", nargs="*", metavar="name", help="the names of data sets")
    parser.parse_args(argv)
    for published in SETS.values():
        print(f"{published.name:12}  {published.licence}")
