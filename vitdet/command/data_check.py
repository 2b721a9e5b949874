"""`vitdet data check`: what is checked, and where the report goes."""

import argparse
import contextlib
import difflib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitdet.command.parser import Parser
from vitdet.data.check import Place, Plan, check
from vitdet.data.check.page import page
from vitdet.data.check.run import Watch, long_side
from vitdet.data.check.text import show
from vitdet.errors import DataError, UserError

EPILOG = (
    "The exit status is 0 if no error was found, 1 if there was one (or, with --strict, a warning), and 2 if the data "
    "could not be checked."
)
# the keys that say what is in a folder
OF_FOLDERS = [
    ("data", key)
    for key in (
        "kind",
        "layout",
        "val_fraction",
        "train",
        "val",
        "test",
        "classes",
        "values",
        "reading",
        "label_suffix",
    )
]


def run(argv: list[str]) -> None:
    """Checks a data set and prints what was found.

    Raises:
        UserError: it is not clear what is to be checked.
        SystemExit: with status 1, if an error was found.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    plan = _plan(options, rest)
    out = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)
    with _progress() as watch:
        report = check(plan, decode=options.decode, watch=watch)
    if options.json:
        text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n", encoding="utf-8")
    if options.json != "-":
        show(report, out)
    if options.html:
        Path(options.html).write_text(page(report, exif=plan.exif), encoding="utf-8")
        print(f"page: {options.html}", file=sys.stderr if options.json == "-" else sys.stdout)
    if report.count("error") or (options.strict and report.count("warning")):
        raise SystemExit(1)


def _parser() -> Parser:
    parser = Parser("data check", "find what is wrong with images and labels, before training")
    parser.epilog = EPILOG
    parser.add_argument("source", nargs="?", help="a folder of labelled images, or a config, with --data.key value …")
    parser.add_argument("--images", help="instead: the folder of the images")
    parser.add_argument(
        "--annotations", help="… with a COCO JSON of instances, or with --segments of panoptic segments"
    )
    parser.add_argument("--segments", help="… with the folder of the PNGs of panoptic segments")
    parser.add_argument("--labels", help="… or with a folder of semantic label maps")
    parser.add_argument("--classes", help="… and their classes: a,b,c or ade20k or cityscapes")
    parser.add_argument("--values", help="… and the pixel value of each: 1,2,3; by default from 0")
    parser.add_argument(
        "--decode", action="store_true", help="decode all images: finds damage, and images that look alike"
    )
    parser.add_argument("--size", type=int, help="the long side at which the model sees images; by default their own")
    parser.add_argument("--patch", type=int, help="the side of a patch of the model (16)")
    parser.add_argument("--queries", type=int, help="how many objects the model can find in an image")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print the report as JSON, or write it to FILE"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures of what was found")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 for warnings, too")
    return parser


def _plan(options: argparse.Namespace, rest: list[str]) -> Plan:
    from vitdet.data.check.places import on_disk

    explicit = options.images or options.annotations or options.labels
    on_disk(options.source, options.images, options.annotations, options.labels, options.segments)
    if bool(explicit) == bool(options.source):
        wanted = "wanted a folder, a config, or --images DIR with --annotations JSON or --labels DIR"
        raise UserError(f"{'there is nothing to check' if not explicit else 'a source is given twice'}; {wanted}")
    if explicit or Path(options.source).expanduser().is_dir():
        if explicit and rest:
            raise UserError(f"{rest[0]} is no option of vitdet data check; keys of a config go with a config")
        plan = _paths(options) if explicit else _folder(options.source, rest)
    else:
        _check_config(Path(options.source))
        from vitdet.command.data_config import plan_of_config

        plan = plan_of_config(options.source, rest)
    given = {"patch": options.patch, "queries": options.queries}
    given["size"] = None if options.size is None else long_side(options.size)
    for name in ("size", "patch", "queries"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} is {value}; wanted a whole number from 1")
    return plan.with_model(**{name: value for name, value in given.items() if value is not None})


def _check_config(path: Path) -> None:
    """Raises:
    UserError: a file is one of annotations, or a path with folders leads nowhere.
    """
    from vitdet.data.formats.tree import checked_folder

    if path.suffix.lower() == ".json" and path.is_file():
        raise UserError(f"{path} is an annotation file; give its folder, or --images DIR --annotations {path}")
    near = path.parent.is_dir() and any(place.is_dir() and _alike(place, path) for place in path.parent.iterdir())
    if not path.exists() and not path.suffix and near:
        # the name of a folder that is misspelt; else it is the name of a config
        checked_folder(path)


def _alike(place: Path, path: Path) -> bool:
    return bool(difflib.get_close_matches(path.name.lower(), [place.name.lower()], 1, 0.8))


def _paths(options: argparse.Namespace) -> Plan:
    if not options.images or bool(options.annotations) == bool(options.labels):
        raise UserError("wanted --images DIR with either --annotations JSON or --labels DIR")
    for name in ("images", "segments", "labels"):
        if (folder := getattr(options, name)) and not Path(folder).is_dir():
            raise UserError(f"--{name} is {folder}, which is no folder")
    images = Path(options.images)
    if options.annotations:
        segments = Path(options.segments) if options.segments else None
        kind = "panoptic" if segments else "instances"
        return Plan(options.annotations, kind, {"all": Place(images, Path(options.annotations), segments)})
    if not options.classes:
        raise UserError("--labels needs --classes: a,b,c, or ade20k or cityscapes")
    from vitdet.data.label_sets import label_set

    names = options.classes.split(",")
    try:
        values = [int(value) for value in options.values.split(",")] if options.values else None
    except ValueError as error:
        raise UserError(f"--values is {options.values}; wanted whole numbers with commas between them") from error
    names, values = label_set(names[0] if len(names) == 1 else names, values)
    return Plan(options.labels, "semantic", {"all": Place(images, Path(options.labels))}, names=names, values=values)


def _folder(source: str, words: list[str]) -> Plan:
    """What is to be checked in a folder; the words are keys such as `--data.kind panoptic`."""
    from vitdet.command.layers import read_words
    from vitdet.data.check.places import nested, plan_of
    from vitdet.data.formats.open import resolve
    from vitdet.data.formats.refused import refused

    settings, flags = read_words(words)
    if wrong := [f"--{key}" for key, _ in settings if tuple(key.split(".")[:2]) not in OF_FOLDERS] + flags:
        known = ", ".join(".".join(key) for key in OF_FOLDERS)
        raise UserError(
            f"{wrong[0]} is no option of vitdet data check, and no key that says how a folder is read: {known}"
        )
    given = nested({key.removeprefix("data."): value for key, value in settings})
    try:
        found, arguments = resolve(source, given)
    except DataError as error:
        # training stops at the first fault; the check is to find all of them
        found = refused(source, error, given.get("kind"))
        arguments = dict(found.splits)
    plan = plan_of(source, found.kind, arguments)
    # a class that the folder itself leaves out is told by its lines
    chosen = plan.lines if any(key == "data.classes" for key, _ in settings) else []
    return replace(plan, lines=[*found.lines, *chosen])


@contextlib.contextmanager
def _progress() -> Iterator[Watch]:
    """A bar on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images")
        yield lambda total, done: bar.update(task, total=total, completed=done)
