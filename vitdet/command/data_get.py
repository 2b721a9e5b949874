"""`vitdet data get NAME…`: fetches published data sets."""

import difflib
import sys
from pathlib import Path

from vitdet.command.data import SUBCOMMANDS
from vitdet.command.parser import Parser
from vitdet.download.catalogue import SETS, Published
from vitdet.download.get import check_complete, check_login, check_space, describe, get, missing, needed, size
from vitdet.errors import UserError


def run(argv: list[str]) -> None:
    parser = Parser("data get", SUBCOMMANDS["get"][1])
    parser.add_argument("names", nargs="*", metavar="name", help=f"names of data sets, out of {', '.join(SETS)}")
    parser.add_argument(
        "--output", type=Path, default=Path("datasets"), help="the folder for all data sets (%(default)s)"
    )
    parser.add_argument("--yes", action="store_true", help="don't ask before fetching")
    parser.add_argument("--mirror", help="the address of a folder that has the same files, to fetch them from there")
    options = parser.parse_args(argv)
    sets = [_find(name) for name in dict.fromkeys(options.names)]
    if not sets:
        _list()
    for published in sets:
        _get(published, options.output, yes=options.yes, mirror=options.mirror)


def _find(name: str) -> Published:
    if name in SETS:
        return SETS[name]
    near = difflib.get_close_matches(name.lower(), SETS, 1, 0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SETS)}"
    raise UserError(f"vitdet data get knows no data set {name!r}; {hint}")


def _list() -> None:
    for published in SETS.values():
        whole = size(sum(archive.megabytes for archive in published.archives))
        login = ", needs a login" if published.login else ""
        print(f"{published.name:14} {whole:>8}{login}  {published.title}\n{'':14} {published.licence}")
    print("\n`vitdet data get NAME` fetches one into datasets/, where configs/ look for it, after a question.")


def _get(published: Published, output: Path, *, yes: bool, mirror: str | None) -> None:
    folder = output / published.folder
    print("\n".join(describe(published, output, mirror=mirror)))
    if missing(published, output):
        check_login(published, output, mirror=mirror)
        check_space(published, output)
        download, unpacked = needed(published, output)
        what = f"{size(download)} to fetch, {size(unpacked)} unpacked, into {folder}"
        if not yes:
            _ask(f"{what}. Go on?")
        get(published, output, tell=print, mirror=mirror)
    else:
        check_complete(published, folder)
    print(f"{published.name} is complete in {folder}; next: {published.use.format(folder=folder)}")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is nobody to ask; say --yes")
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("nothing was fetched")
