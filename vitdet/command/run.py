"""Config files to objects: Lightning's CLI on the layers, and errors of one line."""

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from vitdet import zoo
from vitdet.checkpoint import Checkpoint
from vitdet.command import folder
from vitdet.command.files import ConfigError
from vitdet.command.keys import LINKED, part_class, print_help
from vitdet.command.layers import (
    SECTIONS,
    Setting,
    apply_settings,
    at,
    full_name,
    merge,
    read_layers,
    read_words,
)
from vitdet.command.mistakes import Checked, explain
from vitdet.command.recipes import recipe
from vitdet.data import ImageData
from vitdet.model_folder import is_shared
from vitdet.renamed import OldOptionError, renew
from vitdet.training import Task, Trainer
from vitdet.training.folder import find, runs
from vitdet.training.quiet import quiet
from vitdet.trust import classes_in, how_to_trust, is_known
from vitdet.within import Within

# the verbs that score a checkpoint as it is
SCORING = ("test", "report")
DEFAULT_CLASSES = {"data": "CocoData", "model.backbone": "Backbone", "model.head": "DETRHead"}


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config beside the checkpoints, with what the run started from.

    It has no version, so that training it again is another run.
    """

    start: str | None = None

    def setup(self, trainer: Trainer, pl_module: Task, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            config = self.config.clone()
            config["trainer.version"], config["ckpt_path"] = None, None
            config["model.checkpoint"] = self.start
            for section in SECTIONS:
                config[section] = _plain(config[section])
            trainer.run_folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(config, trainer.run_folder / "config.yaml", skip_unset=False, overwrite=True)


def _plain(value: Any) -> Any:
    """A config in words that YAML knows, without enumerations and devices of Lightning's, and with public classes."""
    if isinstance(value, Namespace):
        plain = Namespace({key: _plain(item) for key, item in vars(value).items()})
        if isinstance(path := plain.get("class_path"), str):
            plain["class_path"] = _shortest(path)
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, torch.device) else value


def _shortest(path: str) -> str:
    """The path of a class in the first of its packages that has it: `vitdet.DETRHead`, wherever its module lies."""
    modules, name, cls = path.split(".")[:-1], path.rpartition(".")[2], part_class(path)
    packages = (".".join(modules[: count + 1]) for count in range(len(modules)))
    return next((f"{p}.{name}" for p in packages if getattr(importlib.import_module(p), name, None) is cls), path)


class CLI(LightningCLI):
    """A task, a data module and a trainer from one config; the classes come from the data."""

    ckpt_path: str | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str, default=None, help="a checkpoint to go on from, or `last`")
        for name in sorted(LINKED):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")


def read_command(verb: str, argv: list[str]) -> CLI:
    """`CONFIG --key value …` as a CLI with `model`, `datamodule`, `trainer` and `ckpt_path`.

    Raises:
        ConfigError: whatever is wrong with it.
    """
    if not argv or argv[0].startswith("-"):
        raise ConfigError(f"which config? vitdet {verb} CONFIG [--key value …]; `vitdet configs` lists them")
    quiet()
    path, settings, flags = _command(argv)
    try:
        config = _layers(verb, path, settings)
    except OldOptionError as error:
        raise ConfigError(f"{path}: {error}") from error
    for key in LINKED & set(config.get("model") or {}):
        raise ConfigError(f"{path}: model.{key} comes from data.{key} and can't be set")
    given = {"ckpt_path": config.get("ckpt_path"), "model.checkpoint": at(config, "model").get("checkpoint")}
    for key, value in given.items():
        if not isinstance(value, (str, type(None))):
            raise ConfigError(f"{path}: {key} is {value!r}; wanted a name or a path")
    config.setdefault("trainer", {}).setdefault("name", Path(path).stem)
    checkpoint = _resume(config, {setting.key for setting in settings}, verb)
    try:
        config, start = _begin(config, checkpoint)
    except OldOptionError as error:
        raise ConfigError(f"{path}: {error}") from error
    Checked(config, path, settings).check()
    # a model that a file describes is built no larger than its weights explain
    source = start and (checkpoint or start)
    bound = Within(Checkpoint.read(source).weights) if source and is_checkpoint(source) else nullcontext()
    with _mistakes(path, start, settings), bound:
        cli = _build(verb, config, flags, start)
    cli.ckpt_path = checkpoint
    return cli


def _command(argv: list[str]) -> tuple[str, list[Setting], list[str]]:
    """The config file, the settings and the flags of `CONFIG --key value …`."""
    path, model = recipe(argv[0])
    settings, flags = read_words(argv[1:])
    # below what is typed
    return path, [Setting("model.checkpoint", model), *settings] if model else settings, flags


def _layers(verb: str, path: str, settings: list[Setting]) -> dict[str, Any]:
    config = config_of_checkpoint(path, verb) if is_checkpoint(path) else read_layers(path)
    starts = at(config, "model").get("checkpoint") or any(key == "model.checkpoint" for key, _ in settings)
    if not starts:
        # the arguments of a class that the file does not name are those of the default class
        config = complete(config, None, layer=True)
    return folder.look(apply_settings(config, settings))


def print_keys(verb: str, argv: list[str]) -> None:
    """What `CONFIG … --help` shows: every key of the config's own classes."""
    path, settings, _ = _command([word for word in argv if word not in ("-h", "--help")])
    config = _layers(verb, path, settings)
    print_help(complete(config, at(config, "model").get("checkpoint")), argv[0], verb)


def _build(verb: str, config: dict[str, Any], flags: list[str], start: str | None) -> CLI:
    saver = type("SaveConfig", (SaveConfig,), {"start": start})
    return CLI(
        Task,
        ImageData,
        save_config_callback=saver if verb == "train" else None,
        trainer_class=Trainer,
        seed_everything_default=0,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        parser_kwargs={"exit_on_error": False, "prog": f"vitdet {verb}"},
        # as text, so that it needs no file
        args=["--config", json.dumps(config), *flags],
        run=False,
    )


@contextmanager
def _mistakes(path: str, start: str | None, settings: list[Setting]) -> Iterator[None]:
    """What a constructor, or the parser, refuses becomes one sentence."""
    try:
        yield
    except zoo.CheckpointError:
        raise
    except (ArgumentError, MisconfigurationException, ValueError, TypeError, KeyError, AttributeError) as error:
        message = explain(error, path, settings)
        hint = f"; it starts from {start}, and what it says of backbone and head goes on top" if start else ""
        raise ConfigError(moved(message, path) or message + hint) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(explain(error, path)) from error


def moved(message: str, path: str) -> str | None:
    """The message with what to do, if the data of the checkpoint `path` are no longer where its training found them."""
    if not is_checkpoint(path) or not re.search(r"data\.\S+ is .*, which is no folder", message):
        return None
    return f"{message}: its training found the data there; --data FOLDER says where they are now"


def is_checkpoint(path: str | Path) -> bool:
    """Whether it is a model rather than a config, by its name."""
    return is_shared(path) or Path(path).suffix in (".ckpt", ".pt", ".pth", ".safetensors")


def config_of_checkpoint(path: str, verb: str) -> dict[str, Any]:
    """The config that a checkpoint alone is: its model, with its weights, and the data that it was trained on.

    Raises:
        CheckpointError: it can't be used.
        ConfigError: it does not know its data, or the verb needs more.
    """
    if verb == "train":
        raise ConfigError(
            f"{path} is a checkpoint; wanted a config, followed by --model.checkpoint {path} to start from its "
            f"weights, or --ckpt_path {path} to go on"
        )
    saved = Checkpoint.read(path)
    if not saved.data:
        option = "ckpt_path" if verb in SCORING and not is_shared(path) else "model.checkpoint"
        raise ConfigError(
            f"{path} does not know its data; say what config it was trained with: "
            f"vitdet {verb} CONFIG --{option} {path}"
        )
    if unknown := next((name for name in classes_in(saved.data) if not is_known(name)), None):
        raise ConfigError(f"{path}: its data need {unknown}, which is no part of vitdet; {how_to_trust(unknown)}")
    return {"model": {"checkpoint": path}, "data": saved.data, "ckpt_path": path if verb in SCORING else None}


def _resume(config: dict[str, Any], typed: set[str], verb: str) -> str | None:
    """The file that `ckpt_path` means, in the run that the config names; `last` and `best` are those of the newest run.

    Args:
        typed: the keys that the command line sets.
    """
    trainer, given = config["trainer"], config.pop("ckpt_path", None)
    root, name, version = trainer.get("root") or "runs", trainer["name"], trainer.get("version")
    if given is None:
        return None
    if not given.strip():
        raise ConfigError("--ckpt_path is empty; give a file, or `last` for that of the newest run, or leave it out")
    if given in ("last", "best"):
        place = Path(root) / name
        folders = runs(root, name) if version is None else [place / f"version_{version}"]
        return str(find(given, folders, place if version is None else folders[0]))
    if not Path(given).is_file():
        raise ConfigError(f"there is no checkpoint {given}; give a file, or `last` for that of the newest run")
    if verb == "train" and "trainer.version" not in typed and typed & {"trainer.name", "trainer.root"}:
        # another name or place is another run, which starts where that of the checkpoint was
        earlier = runs(root, name)
        trainer["version"] = int(earlier[-1].name.removeprefix("version_")) + 1 if earlier else 0
    return given


def _begin(config: dict[str, Any], checkpoint: str | None) -> tuple[dict[str, Any], str | None]:
    """The config of a model with what it starts from, `model.checkpoint`, or goes on from, `checkpoint`; and the start.

    A checkpoint that training goes on from has all weights, so that those of the start are not read.
    """
    start = at(config, "model").get("checkpoint")
    config = complete(config, start and (checkpoint or start))
    if start and checkpoint is not None:
        config["model"].pop("checkpoint", None)
    return config, start


def read_config(path: str | Path) -> dict[str, Any]:
    """A YAML file merged into those that its `base:` names, and into the model that it starts from, classes spelt out.

    Raises:
        ConfigError: a file is missing, is no mapping, or is its own base.
        CheckpointError: there is no such model to start from.
    """
    config = folder.look(read_layers(path))
    return complete(config, at(config, "model").get("checkpoint"))


def complete(config: dict[str, Any], start: str | None, *, layer: bool = False) -> dict[str, Any]:
    """The config on top of what it starts from, if anything; classes that it does not name are the default ones.

    Args:
        layer: more is to come on top, see `renew`.
    """
    if start:
        config = merge(zoo.architecture(*zoo.of(start)), config)
    for name, default in DEFAULT_CLASSES.items():
        owner, _, key = name.rpartition(".")
        holder = config.setdefault(owner, {}) if owner else config
        holder[key] = {"class_path": full_name(default), "init_args": {}, **(holder.get(key) or {})}
    # what only became known now: of which class the options of a file without a class are
    return renew(config, layer=layer)
