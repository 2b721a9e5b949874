"""The options of the command line that say what a model card can't know by itself."""

import argparse
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--title`, `--licence`, `--dataset` and `--picture`."""
    group = parser.add_argument_group("for the model card")
    group.add_argument("--title", help="the title; by default the name of the folder")
    group.add_argument("--licence", "--license", help="the licence of the weights, such as apache-2.0")
    group.add_argument(
        "--dataset",
        action="append",
        default=[],
        help="a data set of the training, on the hub if it is there; repeatable",
    )
    group.add_argument("--picture", help="an image file, or none; by default the newest picture of the run")


def of_card(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `vitdet.share.save` that these options mean."""
    picture = True if options.picture is None else False if options.picture == "none" else options.picture
    return {"title": options.title, "licence": options.licence, "datasets": options.dataset, "picture": picture}
