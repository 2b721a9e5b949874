"""`vitdet export`: a model as a file for other engines, judged by its score in the engine."""

import argparse
from pathlib import Path

from vitdet.cli import VERBS
from vitdet.command.card_options import add_options, of_card
from vitdet.command.parser import Parser
from vitdet.errors import UserError, check
from vitdet.ranges import number, whole

FORMATS = ("onnx", "openvino", "pt2", "safetensors")
# options that say how a model is computed in an engine, and mean nothing for a folder of weights
OF_ENGINES = ("half", "int8", "preprocessing", "size", "images", "threads", "loss", "checkpoint")
# … and those of a model card, which such a folder alone has
OF_CARDS = ("title", "licence", "dataset", "picture")


def run(argv: list[str]) -> None:
    """Exports a model, and scores it before and after.

    Raises:
        UserError: the model can't be exported so, a library is missing, or the exported model has lost too much.
    """
    options, words = _parser().parse_known_args(argv)
    _find_model(options)
    if options.format == "safetensors":
        _share(options, words)
        return
    kinds = [name for name in ("half", "int8", "preprocessing", "size") if getattr(options, name) not in (None, False)]
    if options.format == "pt2" and kinds:
        raise UserError(f"--{kinds[0]} goes with --format onnx or openvino, and the format is pt2; leave it out")
    if options.half and options.int8 is not None:
        raise UserError("--half and --int8 are both given; choose one")
    _check_numbers(options)
    _check_unused(options, words)
    # these take seconds to import
    from vitdet.command.export_steps import Export

    Export(options, words).run()


def _find_model(options: argparse.Namespace) -> None:
    # it stands where `--int8` takes it for its data: `vitdet export --int8 best.ckpt`
    if options.model is None and options.int8:
        options.model, options.int8 = options.int8, ""
    if options.model is None:
        raise UserError("which model? vitdet export MODEL; a checkpoint of a run, or a name that `vitdet zoo` lists")
    if options.checkpoint and options.model.endswith(".ckpt"):
        raise UserError(
            f"--checkpoint is for the name of a published model, and {options.model} has its own weights; leave it out"
        )


def _check_numbers(options: argparse.Namespace) -> None:
    ok = number(0)[0](options.loss) if options.loss is not None else True
    check("--loss", options.loss, ok, "points of the score, from 0")
    positive, wanted = whole(1)
    for name in ("images", "threads"):
        value = getattr(options, name)
        check(f"--{name}", value, value is None or positive(value), wanted)
    for side in options.size or ():
        check("--size", side, positive(side), f"{wanted}, for height and width")


def _check_unused(options: argparse.Namespace, words: list[str]) -> None:
    """Raises a `UserError` where something is given that the export would not use."""
    if card := [name for name in OF_CARDS if getattr(options, name)]:
        raise UserError(f"--{card[0]} is for a model card, which --format safetensors writes; leave it out")
    if options.format == "onnx" and options.int8:
        raise UserError(
            f"--int8 is {options.int8}, but files of the format onnx find their ranges while they run, without images; "
            "give --int8 alone, or --format openvino"
        )
    if options.check:
        return
    given = [f"--{name}" for name in ("images", "loss") if getattr(options, name) is not None]
    if options.int8 != "":
        given += words
    if given:
        raise UserError(f"{given[0]} is not used: it may be about the score, which --no-check leaves out")


def _share(options: argparse.Namespace, words: list[str]) -> None:
    given = [f"--{name}" for name in OF_ENGINES if getattr(options, name) not in (None, False)] + words
    if given:
        raise UserError(f"{given[0]} does not go with --format safetensors, which writes the weights as they are")
    # it takes seconds to import
    from vitdet.share import save

    named = Path(options.model.partition("@")[0])
    folder = options.output or f"{(named.parent.parent if named.suffix == '.ckpt' else named).name}-shared"
    print("\n".join(save(options.model, folder, **of_card(options)).lines))
    print(f"next: vitdet predict {folder} IMAGE, or vitdet push {folder} USER/NAME")


def _parser() -> Parser:
    parser = Parser("export", VERBS["export"])
    parser.add_argument("model", nargs="?", help="a checkpoint of a run, or the name of a published model")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="what is written (%(default)s)")
    parser.add_argument("--output", help="the file; by default the name of the model, in the current folder")
    parser.add_argument("--checkpoint", help="a file with the weights of the published model")
    parser.add_argument(
        "--half", action="store_true", help="weights in 16 bits, computed in 16 bits where that is fast"
    )
    parser.add_argument(
        "--int8",
        nargs="?",
        const="",
        metavar="DATA",
        help="matrix products in whole numbers of 8 bits, whose ranges come from the images of DATA, a folder or a "
        "config; by default the training images of the model's own data. Of the format onnx, without DATA: the ranges "
        "are found while it runs",
    )
    parser.add_argument(
        "--preprocessing", action="store_true", help="the graph takes RGB images of 8 bits, see the docs"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="fix the size of images; by default any is possible",
    )
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not score the exported model")
    parser.add_argument(
        "--loss", type=float, metavar="POINTS", help="how many points of the score may be lost (0.1; 1 with --int8)"
    )
    parser.add_argument("--images", type=int, help="score only about so many images")
    parser.add_argument(
        "--threads", type=int, help="threads of the engine that is scored; one for each core by default"
    )
    add_options(parser)
    parser.epilog = "--data FOLDER, or --data.key value …: labelled images for the score; by default the model's own"
    return parser
