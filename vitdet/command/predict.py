"""`vitdet predict`: its options, and which function runs it."""

from vitdet.cli import VERBS
from vitdet.command.parser import Parser
from vitdet.errors import UserError


def parser() -> Parser:
    """The options of the verb; those that are given are the arguments of `predict_files`."""
    parser = Parser("predict", VERBS["predict"])
    parser.add_argument("checkpoint", help="a checkpoint of a run, or the name of a published model")
    parser.add_argument(
        "images", nargs="+", metavar="image", help="image files, folders, globs, URLs, or - for standard input"
    )
    parser.add_argument(
        "--output", default="predictions", help="folder for drawings and predictions.json (%(default)s)"
    )
    parser.add_argument(
        "--format",
        dest="formats",
        type=lambda text: [name for name in text.split(",") if name],
        help="coco, yolo, labelme, labelstudio, csv or crops; several with commas between (coco)",
    )
    parser.add_argument("--no_drawings", dest="drawings", action="store_false", help="don't draw on the images")
    known = "those that were chosen on validation data, by class, else 0.3"
    parser.add_argument("--threshold", type=float, help=f"draw and count what scores at least this ({known})")
    parser.add_argument("--annotations", help="a COCO file whose images these are: the results then have its image ids")
    parser.add_argument("--batch_size", type=int, default=8, help="images at a time (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; the best there is, if not given")
    parser.add_argument(
        "--tile", type=int, help="see images larger than this in overlapping tiles of this side, in pixels"
    )
    parser.add_argument("--overlap", type=float, help="… which overlap by at least this share of the side (0.2)")
    parser.add_argument("--whole", action="store_true", default=None, help="… and see the whole image, too")
    return parser


def run(argv: list[str]) -> None:
    """Runs the verb; the exit status is 1 where no image could be read."""
    options = {key: value for key, value in vars(parser().parse_args(argv)).items() if value is not None}
    tiling = {key: options.pop(key) for key in ("tile", "overlap", "whole") if key in options}
    if tiling and "tile" not in tiling:
        raise UserError(f"--{min(tiling)} is about tiles; give their side, such as --tile 640")
    from vitdet.deploy import predict_files

    done = predict_files(**options, tiling=tiling or None)
    if done.unreadable and not done.read:
        # what could not be read has been said
        raise SystemExit(1)
