"""The command line: `vitdet <verb> …`. The scripts in `tools/` are its verbs.

Nothing heavy is imported before it is needed: `vitdet --help` answers at once.
"""

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitdet import signals
from vitdet.command import ending
from vitdet.command.parser import Parser
from vitdet.errors import UserError, check

VERBS = {
    "configs": "[NAME]: list the configs that come with vitdet, or print one",
    "new": "FILE --from NAME: begin a config of your own, on top of one that comes with vitdet",
    "train": "CONFIG [--key value …]: train, and score on the validation data",
    "test": "CHECKPOINT, or CONFIG --ckpt_path CHECKPOINT, [--key value …]: score a model, "
    "also the published one that CONFIG starts from; --engine FILE: an exported one",
    "predict": "CHECKPOINT|NAME IMAGE…: find objects in image files, folders or globs",
    "evaluate": "PREDICTIONS.json ANNOTATIONS.json: score a COCO results file",
    "report": "CHECKPOINT [--data FOLDER] [--output report.html]: score a model, and write a page that says why",
    "explain": "CHECKPOINT|NAME IMAGE [--object N | --point x,y] [--output explain.html]: what the model looked at",
    "export": "CHECKPOINT|NAME [--format onnx|openvino|pt2|safetensors]: a file for other engines, scored in them, or "
    "a folder to share",
    "compare": "A B [--data FOLDER | --annotations FILE]: what is better in B, and whether it is more than noise",
    "thresholds": "CHECKPOINT [--rule f1] [--data FOLDER]: choose and save the scores from which detections count",
    "data": "SUBCOMMAND …: what is done with data sets besides training; `vitdet data` lists it",
    "benchmark": "CONFIG|CHECKPOINT [--key value …]: size, speed and memory of a model",
    "push": "CHECKPOINT|FOLDER USER/NAME: share a model on the Hugging Face hub",
    "serve": "CHECKPOINT|NAME [--host …] [--port …]: answer HTTP requests, with a page to try it",
    "replay": "FOLDER [--device cpu]: run a step again that was not finite, and name where that begins",
    "zoo": "list the published models that load by name",
}


def main(argv: list[str] | None = None) -> None:
    """Runs a verb; a mistake of the user's ends in one line on standard error and exit status 2.

    With `VITDET_DEBUG=1` the traceback shows where it was found.
    """
    try:
        _main(sys.argv[1:] if argv is None else list(argv))
    except signals.Stopped as stopped:
        # in a process of its own
        if argv is None:
            ending.leave(128 + stopped.number)
        raise
    except (Exception, KeyboardInterrupt) as error:
        ending.end(error)


def _main(argv: list[str]) -> None:
    if argv[:1] == ["--version"]:
        print(versions())
        return
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it hides nothing: a head of the user's own is found there
    argv = _import(argv)
    verb, rest = (argv or ["--import"])[0], argv[1:]
    if verb not in VERBS:
        raise UserError(f"there is no verb {verb!r}; choose from {', '.join(VERBS)}")
    if verb in _RUN:
        _RUN[verb](rest)
        return
    with _reports(ranks=False):
        importlib.import_module(f"vitdet.command.{verb}").run(rest)


def _import(argv: list[str]) -> list[str]:
    """Imports what `--import MODULE` names, for the classes of the user's own in a checkpoint; gives the other words.

    Raises:
        UserError: there is no such module.
    """
    left, words = [], iter(argv)
    for word in words:
        option, equals, name = word.partition("=")
        if option != "--import":
            left.append(word)
            continue
        name = name if equals else next(words, "")
        check("--import", name, all(map(str.isidentifier, name.split("."))), "the name of a module, such as my_heads")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # the module itself may import what is not there: that is a fault of its own
            if not f"{name}.".startswith(f"{error.name}."):
                raise
            raise UserError(
                f"there is no module {error.name} (--import {name}) in this folder, or installed"
            ) from error
    return left


def _usage() -> str:
    lines = "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items())
    more = "`vitdet train CONFIG --help` lists the keys of a config, `vitdet --version` says what is installed.\n"
    more += "With `--import MODULE`, every verb takes checkpoints with classes of that module, your own."
    return f"usage: vitdet VERB …\n\n{lines}\n\n{more}"


def versions() -> str:
    """vitdet's version, and those of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from vitdet import __version__

    parts = [f"vitdet {__version__}", f"Python {platform.python_version()}"]
    for name in ("torch", "lightning", "timm"):
        with contextlib.suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
    return ", ".join(parts)


@contextlib.contextmanager
def _reports(*, ranks: bool = True) -> Iterator[None]:
    """Shows on standard error what the package reports (which weights were resampled, …), on the first rank only.

    `ranks` says whether there may be several processes; the import that tells which is the first takes seconds.
    """
    level = logging.INFO
    if ranks:
        from lightning.pytorch.utilities import rank_zero_only

        level = logging.INFO if rank_zero_only.rank == 0 else logging.WARNING
    log, handler = logging.getLogger("vitdet"), logging.StreamHandler()
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


def _config(verb: str, argv: list[str]) -> Any:
    """The task, data and trainer of `CONFIG --key value …`; nothing where only help was asked for."""
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: vitdet {verb} {VERBS[verb]}\n\n`vitdet {verb} CONFIG --help` lists the keys of a config.")
        return None
    from vitdet.command.run import print_keys, read_command

    if any(word in ("-h", "--help") for word in argv[1:]):
        print_keys(verb, argv)
        return None
    return read_command(verb, argv)


def _train(argv: list[str]) -> None:
    # from the start, so that a signal that comes before the training has the same status as one that comes later
    with signals.listening(), _reports() if argv else contextlib.nullcontext():
        cli = _config("train", argv)
        if cli is not None:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)


def _test(argv: list[str]) -> None:
    with _reports():
        if any(word.partition("=")[0] == "--engine" for word in argv):
            from vitdet.command.test_engine import run

            run(argv)
            return
        cli = _config("test", argv)
        if cli is None:
            return
        if cli.ckpt_path is None and cli.model.new_classes:
            raise UserError("test needs a checkpoint: --ckpt_path runs/…/best.ckpt, or --ckpt_path last")
        if cli.ckpt_path is None:
            print(f"scoring {cli.model.checkpoint} as it is; --ckpt_path scores what was trained from it")
        cli.trainer.test(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True, verbose=False)


def _evaluate(argv: list[str]) -> None:
    parser = _parser("evaluate")
    parser.add_argument("predictions", help="a COCO results file")
    parser.add_argument("annotations", help="the COCO annotation file")
    parser.add_argument("--iou_type", choices=["bbox", "segm"], help="boxes or masks; masks where the file has some")
    options = parser.parse_args(argv)
    from vitdet.metrics import evaluate, print_scores

    with _reports(ranks=False):
        print_scores(*evaluate(options.predictions, options.annotations, iou_type=options.iou_type))


def _benchmark(argv: list[str]) -> None:
    with _reports():
        cli = _config("benchmark", argv)
        if cli is not None:
            from vitdet.deploy.benchmark import benchmark

            benchmark(cli.model, cli.datamodule)


def _zoo(argv: list[str]) -> None:
    _parser("zoo").parse_args(argv)
    from vitdet.zoo.listing import print_cards

    print_cards()


def _parser(verb: str) -> Parser:
    return Parser(verb, VERBS[verb])


def load_config(path: str | Path, overrides: list[str] | None = None) -> tuple[Any, Any]:
    """The task and the data module that a config file describes.

    Raises:
        ConfigError: the file, or an override (`["--model.lr", "1e-4"]`), is wrong.
    """
    from vitdet.command.run import read_command

    cli = read_command("load", [str(path), *(overrides or [])])
    return cli.model, cli.datamodule


# the verbs that are not run by a module of their name in `vitdet.command`
_RUN = {
    "train": _train,
    "test": _test,
    "evaluate": _evaluate,
    "benchmark": _benchmark,
    "zoo": _zoo,
}

if __name__ == "__main__":
    main()
