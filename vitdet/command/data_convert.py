"""`vitdet data convert FOLDER OUT`: writes COCO JSON for a folder of labelled images."""

from vitdet.command.data import SUBCOMMANDS
from vitdet.command.parser import Parser


def run(argv: list[str]) -> None:
    # torch, which this needs, takes long to import
    from vitdet.data.formats.convert import convert
    from vitdet.data.formats.find import KINDS
    from vitdet.data.formats.splits import FRACTION

    parser = Parser("data convert", SUBCOMMANDS["convert"][1])
    parser.add_argument("folder", help="the folder of images and labels, in any layout that --data FOLDER takes")
    parser.add_argument("out", help="the folder to write, which must not be there yet")
    parser.add_argument(
        "--copy", action="store_true", help="copy the images, so that --data OUT can train on the result"
    )
    # the long names are those that errors tell of
    parser.add_argument(
        "--kind", "--data.kind", dest="kind", choices=KINDS, help="the kind of labels, where the folder has several"
    )
    parser.add_argument(
        "--layout", "--data.layout", dest="layout", help="the layout, where the folder has several, such as YOLO"
    )
    parser.add_argument(
        "--val-fraction",
        "--data.val_fraction",
        dest="val_fraction",
        type=float,
        default=FRACTION,
        help="the share of the images that validate, where the folder has no split (default: %(default)s)",
    )
    arguments = vars(parser.parse_args(argv))
    convert(arguments.pop("folder"), arguments.pop("out"), **arguments)
