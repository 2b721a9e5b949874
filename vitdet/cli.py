"""The command line: `vitdet <verb> …`. The scripts in `tools/` are its verbs.

A config file may begin with `base: other.yaml` (or a list), relative to itself: that is read first, and the file says what differs.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

VERBS = {
    "train": "CONFIG [--key value …]: train, and score on the validation data",
    "test": "CONFIG --ckpt_path CHECKPOINT [--key value …]: score a checkpoint, or the published model that CONFIG starts from",
    "predict": "CHECKPOINT|NAME IMAGE…: find objects in image files, folders or globs",
    "evaluate": "PREDICTIONS.json ANNOTATIONS.json: score a COCO results file",
    "benchmark": "CONFIG [--key value …]: size, speed and memory of a model",
    "zoo": "list the published models that load by name",
}


def main(argv: list[str] | None = None) -> None:
    """Run one verb; a user's mistake ends in one line on standard error and exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in VERBS:
        lines = "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items())
        text = f"usage: vitdet VERB …\n\n{lines}\n\n`vitdet train CONFIG --help` lists the keys of a config."
        if argv and argv[0] not in ("-h", "--help"):
            _fail(f"no verb {argv[0]!r}\n{text}")
        print(text)
        return
    verb, rest = argv[0], argv[1:]
    from vitdet.configuration import ConfigError
    from vitdet.data.images import ImageError
    from vitdet.zoo import CheckpointError, DownloadError

    try:
        with _reports():
            _RUN[verb](rest)
    except (ConfigError, CheckpointError, DownloadError, ImageError, FileNotFoundError, FileExistsError) as error:
        _fail(str(error))


@contextlib.contextmanager
def _reports() -> Iterator[None]:
    """Shows what the package reports, such as which weights were resampled, on standard error; of DDP's ranks only the first."""
    from lightning.pytorch.utilities import rank_zero_only

    log, handler = logging.getLogger("vitdet"), logging.StreamHandler()
    log.addHandler(handler)
    log.setLevel(logging.INFO if rank_zero_only.rank == 0 else logging.WARNING)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


def _fail(message: str) -> NoReturn:
    print(f"vitdet: {message}", file=sys.stderr)
    raise SystemExit(2)


def _train(argv: list[str]) -> None:
    from vitdet.configuration import read_command

    cli = read_command("train", argv)
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)


def _test(argv: list[str]) -> None:
    from vitdet.configuration import read_command

    cli = read_command("test", argv)
    if cli.ckpt_path is None and cli.model.new_classes:
        _fail("test needs a checkpoint: --ckpt_path runs/…/best.ckpt, or --ckpt_path last")
    if cli.ckpt_path is None:
        print(f"scoring {cli.model.checkpoint} as it is; --ckpt_path scores what was trained from it")
    cli.trainer.test(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True, verbose=False)


def _predict(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("vitdet predict", description=VERBS["predict"])
    parser.add_argument("checkpoint", help="a checkpoint of a run, or the name of a published model")
    parser.add_argument("images", nargs="+", metavar="image", help="image files, folders of images, or globs")
    parser.add_argument(
        "--output", default="predictions", help="folder for drawings and predictions.json (%(default)s)"
    )
    parser.add_argument("--threshold", type=float, default=0.3, help="draw what scores at least this (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; the best there is, if not given")
    options = parser.parse_args(argv)
    from vitdet.deploy import predict_files

    predict_files(**vars(options))


def _evaluate(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("vitdet evaluate", description=VERBS["evaluate"])
    parser.add_argument("predictions", help="a COCO results file")
    parser.add_argument("annotations", help="the COCO annotation file")
    parser.add_argument("--iou_type", choices=["bbox", "segm"], help="boxes or masks; masks where the file has some")
    options = parser.parse_args(argv)
    from vitdet.metrics import evaluate, print_scores

    try:
        scores, protocol = evaluate(options.predictions, options.annotations, iou_type=options.iou_type)
    except ValueError as error:
        _fail(str(error))
    print_scores(scores, protocol)


def _benchmark(argv: list[str]) -> None:
    from vitdet.configuration import read_command
    from vitdet.deploy.benchmark import benchmark

    cli = read_command("benchmark", argv)
    benchmark(cli.model, cli.datamodule)


def _zoo(argv: list[str]) -> None:
    argparse.ArgumentParser("vitdet zoo", description=VERBS["zoo"]).parse_args(argv)
    from vitdet.zoo.listing import print_cards

    print_cards()


def load_config(path: str | Path, overrides: list[str] | None = None) -> tuple[Any, Any]:
    """The task and the data module that a config file describes.

    Raises:
        ConfigError: the file, or an override (`["--model.lr", "1e-4"]`), is wrong.
    """
    from vitdet.configuration import read_command

    cli = read_command("load", [str(path), *(overrides or [])])
    return cli.model, cli.datamodule


_RUN = {
    "train": _train,
    "test": _test,
    "predict": _predict,
    "evaluate": _evaluate,
    "benchmark": _benchmark,
    "zoo": _zoo,
}
