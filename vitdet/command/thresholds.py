"""`vitdet thresholds CHECKPOINT`: chooses the scores from which a detection counts, and saves them with the model."""

from typing import Any

from vitdet.cli import VERBS
from vitdet.command.parser import Parser
from vitdet.errors import UserError


def run(argv: list[str]) -> None:
    """Scores a checkpoint on the validation images, chooses the thresholds, prints and saves them.

    Raises:
        UserError: the checkpoint or the data can't be used, there is no such rule, or nothing right was found.
    """
    parser = Parser("thresholds", VERBS["thresholds"])
    parser.add_argument("checkpoint", help="a best.ckpt or last.ckpt of a run")
    parser.add_argument("--rule", default="f1", help="f1, precision=P or recall=R, such as precision=0.9 (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, …; the best there is, if not given")
    parser.epilog = "The images are those of the training's validation, or of --data FOLDER or --data.key value."
    options, words = parser.parse_known_args(argv)
    # these take seconds to import
    from vitdet.metrics.thresholds import check_rule, choose, print_thresholds

    if check_rule(options.rule) is None:
        raise UserError("there is no rule to choose by")
    from vitdet.checkpoint import Checkpoint, write_thresholds
    from vitdet.command.data_only import read_data
    from vitdet.deploy import load
    from vitdet.deploy.score import category_ids, score
    from vitdet.metrics.thresholds import by_label

    saved = Checkpoint.read(options.checkpoint)
    detector = load(options.checkpoint, device=options.device)
    if detector.predicts not in ("boxes", "masks"):
        raise UserError(f"{options.checkpoint} predicts {detector.predicts}, which has no threshold of a class")
    data = read_data("thresholds", words, saved=saved.data, name=options.checkpoint)
    print("\n".join([data.describe(), *data.files.summary()]))
    metric: Any = score(detector, data, split="val").metric
    chosen = None if metric.matches is None else choose(metric.matches, options.rule)
    if chosen is None:
        raise UserError(f"{options.checkpoint} finds nothing right in these images, so there is nothing to choose by")
    chosen = by_label(chosen, metric.truth.category_ids, category_ids(detector, data))
    print_thresholds(chosen, detector.classes)
    print(metric.protocol())
    write_thresholds(options.checkpoint, chosen)
    print(f"saved in {options.checkpoint}")
