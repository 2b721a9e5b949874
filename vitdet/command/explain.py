"""`vitdet explain`: draws what a model looked at for the objects and places of an image."""

from pathlib import Path

from vitdet.cli import VERBS
from vitdet.command.parser import Parser
from vitdet.errors import UserError


def run(argv: list[str]) -> None:
    """Explains an image, and writes the page.

    Raises:
        UserError: a model, an image, or what is to be explained does not exist.
    """
    options = _parser().parse_args(argv)
    output = Path(options.output)
    if output.is_file() and output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output is {output}, which is a file; wanted a folder, or a file such as explain.html")
    from vitdet.deploy import load
    from vitdet.explain import explain, write_page

    blocks = "all" if "all" in (options.block or ()) else options.block
    found = explain(
        load(options.checkpoint, device=options.device),
        options.image,
        objects=options.object,
        points=options.point or (),
        blocks=blocks,
        threshold=options.threshold,
    )
    title = f"What {Path(options.checkpoint).name} looked at in {Path(options.image).name}"
    files = write_page(found, output, title=title, head=options.head)
    for line in (*found.notes, *(subject.title for subject in found.subjects)):
        print(line)
    print(f"page: {files[0]}" + (f", and {len(files) - 1} pictures" if len(files) > 1 else ""))


def _parser() -> Parser:
    parser = Parser("explain", VERBS["explain"])
    parser.add_argument("checkpoint", help="a checkpoint of a run, or the name of a published model")
    parser.add_argument("image", help="an image file, a URL, or - for standard input")
    parser.add_argument(
        "--object",
        action="append",
        type=int,
        metavar="N",
        help="an object, 0 is the best that was found; several times for more (the three best)",
    )
    parser.add_argument(
        "--point", action="append", type=_point, metavar="x,y", help="a place, in pixels; several times for more"
    )
    parser.add_argument(
        "--block",
        action="append",
        type=_block,
        metavar="N",
        help="a block of the ViT, -1 is the last; several times for more, or all (the last of each quarter)",
    )
    parser.add_argument("--head", type=int, metavar="N", help="a head of the attention (the mean of all)")
    parser.add_argument("--threshold", type=float, help="objects that score at least this (the model's thresholds)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; the best there is, if not given")
    parser.add_argument(
        "--output", default="explain.html", help="the page; a folder has its pictures as files, too (%(default)s)"
    )
    return parser


def _point(text: str) -> tuple[float, float]:
    x, y = text.split(",")
    return float(x), float(y)


def _block(text: str) -> int | str:
    return text if text == "all" else int(text)


# what a wrong value is said to be
_point.__name__, _block.__name__ = "x,y in pixels", "number of a block, or all"
