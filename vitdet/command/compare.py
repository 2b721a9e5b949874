"""`vitdet compare A B`: what is better in one of two models, and whether it is more than noise."""

from pathlib import Path
from typing import Any

from vitdet.cli import VERBS
from vitdet.command.parser import Parser
from vitdet.errors import UserError


def run(argv: list[str]) -> None:
    """Compares two results files, or scores two models on the same images and compares these.

    Raises:
        UserError: a model, a file or the data can't be used, or do not fit each other.
    """
    parser = Parser("compare", VERBS["compare"])
    what = "a checkpoint, an exported model, the name of a published one, or a COCO results file"
    parser.add_argument("first", metavar="A", help=what)
    parser.add_argument("second", metavar="B", help="the other one")
    parser.add_argument("--annotations", metavar="FILE", help="the COCO annotation file of two results files")
    parser.add_argument("--iou_type", choices=["bbox", "segm"], help="boxes or masks of results files")
    parser.add_argument("--resamples", type=int, default=1000, help="how often the images are drawn (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of these draws (%(default)s)")
    parser.add_argument("--device", help="where models run: cpu, cuda, …; the best there is, if not given")
    parser.epilog = "Models are scored on the data of A, or on --data FOLDER, or --data.key value as in a config."
    options, words = parser.parse_known_args(argv)
    files = [is_results(name) for name in (options.first, options.second)]
    if any(files) and not all(files):
        raise UserError("compare needs two models or two results files; `vitdet test` writes the results of a model")
    if all(files) and words:
        raise UserError(f"{words[0]} is no option for results files; `vitdet compare --help` says what there is")
    from vitdet.metrics.compare import compare, print_comparison

    truth, first, second, images, protocol = (_read if all(files) else _score)(options, words)
    draws = {"resamples": options.resamples, "seed": options.seed}
    differences = compare(truth, first, second, images=images, **draws)
    line = f"{protocol}, {options.resamples} draws of the images, seed {options.seed}"
    print_comparison(differences, first.name, second.name, line)


def is_results(name: str) -> bool:
    """Whether an argument is a results file, which has the suffix .json."""
    return name.lower().endswith(".json") and not Path(name).is_dir()


def _read(options: Any, words: list[str]) -> tuple:
    """Ground truth, what both have found, the images, and the protocol line, of two results files."""
    if options.annotations is None:
        raise UserError("results files need the annotation file that they are scored against: --annotations FILE")
    from vitdet.metrics.compare import Found
    from vitdet.metrics.protocol import protocol
    from vitdet.metrics.results import read_results

    kind, read = options.iou_type, []
    for name in (options.first, options.second):
        read.append(read_results(name, options.annotations, kind))
    if (read[0][2] is None) != (read[1][2] is None):
        raise UserError("one of the results files has masks, the other has none; --iou_type bbox compares their boxes")
    found = [Found(name, rows, masks) for name, (_, rows, masks, _) in zip((options.first, options.second), read)]
    truth = read[0][0]
    kind = "box" if found[0].masks is None else "mask"
    return truth, *found, None, protocol(truth, max_dets=100, images=len(truth), kind=kind)


def _score(options: Any, words: list[str]) -> tuple:
    """The same of two models, which are run on the same images."""
    if options.annotations is not None or options.iou_type is not None:
        raise UserError("--annotations and --iou_type are about results files; models have --data FOLDER")
    from vitdet.command.data_only import read_data
    from vitdet.deploy import load
    from vitdet.deploy.score import score
    from vitdet.metrics.compare import Found

    saved = data_of(options.first) or data_of(options.second)
    found: list[Found] = []
    metric: Any = None
    for name in (options.first, options.second):
        detector = load(name, device=options.device)
        if detector.predicts not in ("boxes", "masks"):
            raise UserError(f"{name} predicts {detector.predicts}; compare is about boxes and masks of instances")
        # a data module takes on the size of the detector's images
        data = read_data("compare", words, saved=saved, name=options.first)
        if not found:
            print("\n".join([data.describe(), *data.files.summary()]))
        metric = score(detector, data).metric
        found.append(Found(name, *metric.found()))
    if (found[0].masks is None) != (found[1].masks is None):
        raise UserError("one of the models predicts masks, the other only boxes; compare two of a kind")
    return metric.truth, *found, None, metric.protocol()


def data_of(name: str) -> dict[str, Any] | None:
    """The configuration of the data that a checkpoint was trained on, if it is one and knows them."""
    from vitdet.checkpoint import Checkpoint

    return Checkpoint.read(name).data if name.endswith(".ckpt") and Path(name).is_file() else None
