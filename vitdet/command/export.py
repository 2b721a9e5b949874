"""`vitdet export`: a model as a file for other engines, judged by its score in the engine."""

import sys
from pathlib import Path
from typing import Any

from vitdet.command.parser import Parser
from vitdet.errors import UserError

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
TEXT = "CHECKPOINT|NAME [--format FORMAT]: a file that other engines run, judged by its score there"


def run(argv: list[str]) -> None:
    """Exports a model, and scores it before and after.

    Raises:
        UserError: the model can't be exported so, a library is missing, or the exported model has lost too much.
    """
    options, words = _parser().parse_known_args(argv)
    if options.int8 is not None and (options.half or options.format == "pt2"):
        raise UserError(f"--int8 goes with --format onnx or openvino alone, not with {'--half' if options.half else 'pt2'}")
    if options.half and options.format == "pt2":
        raise UserError("--half goes with --format onnx or openvino; a pt2 package runs in the type of the model")
    # these take seconds to import
    from vitdet.command.export_steps import Export

    Export(options, words).run()


def _parser() -> Parser:
    parser = Parser("export", TEXT)
    parser.add_argument("model", help="a checkpoint of a run, or the name of a published model")
    parser.add_argument("--format", choices=list(FORMATS), default="onnx", help="what is written (%(default)s)")
    parser.add_argument("--output", help="the file; by default the name of the model, in the current folder")
    parser.add_argument("--checkpoint", help="a file with the weights of the published model")
    parser.add_argument("--half", action="store_true", help="weights in 16 bits, computed in 16 bits where that is fast")
    parser.add_argument(
        "--int8",
        nargs="?",
        const="",
        metavar="DATA",
        help="matrix products in whole numbers of 8 bits, whose ranges come from the images of DATA, a folder or a "
        "config; by default the training images of the model's own data",
    )
    parser.add_argument("--preprocessing", action="store_true", help="the graph takes RGB images of 8 bits, see the docs")
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not score the exported model")
    parser.add_argument("--images", type=int, help="score only about so many images")
    parser.add_argument("--threads", type=int, help="threads of the engine that is scored; one for each core by default")
    parser.epilog = "--data FOLDER, or --data.key value …: the labelled images for the score; by default the model's own"
    return parser
