"""Config files to objects: Lightning's CLI, with `base:`, short class names, and errors of one line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from vitdet import zoo
from vitdet.checkpoint import Checkpoint
from vitdet.command.keys import at, print_help
from vitdet.command.layers import CLASSES, ConfigError, apply_overrides, merge, read_layers, spell_out
from vitdet.command.mistakes import Said, check_config, explain
from vitdet.data import ImageData
from vitdet.training import Task, Trainer
from vitdet.training.folder import find, runs
from vitdet.training.quiet import quiet

DEFAULT_CLASSES = dict(zip(CLASSES, ("CocoData", "Backbone", "DETRHead")))
LINKED = {"classes", "category_ids"}  # of the model, which has them from the data
IDENTITY = ("name", "root", "version")  # the arguments of a trainer that say which run it is


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config beside the checkpoints: what the run started from, and no version, so that training it again is another run."""

    start: str | None = None

    def setup(self, trainer: Trainer, pl_module: Task, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            config = self.config.clone()
            config["trainer.version"], config["ckpt_path"] = None, None
            config["model.checkpoint"] = self.start
            config["trainer"] = _plain(config["trainer"])
            trainer.run_folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(config, trainer.run_folder / "config.yaml", skip_unset=False, overwrite=True)


def _plain(value: Any) -> Any:
    """A config whose enumerations and devices, defaults of Lightning's callbacks, are the words that YAML knows."""
    if isinstance(value, Namespace):
        return Namespace({key: _plain(item) for key, item in vars(value).items()})
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, torch.device) else value


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
        raise ConfigError(f"which config? vitdet {verb} configs/detr_vit.yaml [--key value …]")
    quiet()
    path = argv[0]
    config, rest, keys = _layers(verb, argv)
    for key in LINKED & set(config.get("model") or {}):
        raise ConfigError(f"{path}: model.{key} comes from data.{key} and can't be set")
    for key, value in (
        ("ckpt_path", config.get("ckpt_path")),
        ("model.checkpoint", at(config, "model").get("checkpoint")),
    ):
        if not isinstance(value, (str, type(None))):
            raise ConfigError(f"{path}: {key} is {value!r}; wanted a name or a path")
    trainer = config.setdefault("trainer", {})
    trainer.setdefault("name", Path(path).stem)
    checkpoint = _resume(config, rest, verb)
    config, start = _begin(config, checkpoint, verb)
    said = Said(config, path, keys, rest)
    check_config(said)
    with _mistakes(said, start):
        cli = _build(verb, config, rest, start)
    cli.ckpt_path = checkpoint
    return cli


def _layers(verb: str, argv: list[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    config = config_of_checkpoint(argv[0], verb) if is_checkpoint(argv[0]) else read_layers(argv[0])
    words = argv[1:]
    if _option(words, "model.checkpoint") is None and not at(config, "model").get("checkpoint"):
        config = complete(
            config, None
        )  # the arguments of a class that the file does not name are those of the default one
    return apply_overrides(config, words)


def print_keys(verb: str, argv: list[str]) -> None:
    """What `CONFIG … --help` shows: every key of the config's own classes."""
    config, _, _ = _layers(verb, [word for word in argv if word not in ("-h", "--help")])
    print_help(complete(config, at(config, "model").get("checkpoint")), argv[0], verb)


def _build(verb: str, config: dict[str, Any], rest: list[str], start: str | None) -> CLI:
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
        args=["--config", json.dumps(config), *rest],  # as text: a temporary file can't be read twice on Windows
        run=False,
    )


@contextmanager
def _mistakes(said: Said, start: str | None) -> Iterator[None]:
    """What the parser, or a constructor, refuses becomes one sentence."""
    try:
        yield
    except zoo.CheckpointError:
        raise
    except (ArgumentError, MisconfigurationException, ValueError, TypeError, KeyError, AttributeError) as error:
        hint = f"; it starts from {start}, and what it says of backbone and head goes on top" if start else ""
        raise ConfigError(explain(error, said) + hint) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(explain(error, said)) from error


def is_checkpoint(path: str | Path) -> bool:
    """Whether it is a file of a model rather than a config, by its name."""
    return Path(path).suffix in (".ckpt", ".pt", ".pth", ".safetensors")


def config_of_checkpoint(path: str, verb: str) -> dict[str, Any]:
    """The config that a checkpoint alone is: its model, with its weights, and the data that it was trained on.

    Raises:
        CheckpointError: it can't be used.
        ConfigError: it does not know its data, or the verb needs more.
    """
    if verb == "train":
        raise ConfigError(
            f"{path} is a checkpoint; wanted a config, followed by --model.checkpoint {path} to start from its weights, or --ckpt_path {path} to go on"
        )
    saved = Checkpoint.read(path)
    if not saved.data:
        option = "ckpt_path" if verb == "test" else "model.checkpoint"
        raise ConfigError(
            f"{path} does not know its data; say what config it was trained with: vitdet {verb} CONFIG --{option} {path}"
        )
    return {"model": {"checkpoint": path}, "data": saved.data, "ckpt_path": path if verb == "test" else None}


def _resume(config: dict[str, Any], rest: list[str], verb: str) -> str | None:
    """The file that `--ckpt_path` means, in the run that all of the config and the command line name; `last` and `best` are those of the newest run."""
    trainer = config["trainer"]
    said = {name: _option(rest, f"trainer.{name}") for name in IDENTITY}
    which = {**{name: trainer.get(name) for name in IDENTITY}, **{k: v for k, v in said.items() if v is not None}}
    root, name, version = which["root"] or "runs", which["name"], which["version"]
    option, said_there = _option(rest, "ckpt_path"), config.pop("ckpt_path", None)
    given = said_there if option is None else option
    if given in (None, "null"):
        return None
    if not given.strip():
        raise ConfigError("--ckpt_path is empty; give a file, or `last` for that of the newest run, or leave it out")
    if given in ("last", "best"):
        place = Path(root) / name
        folders = runs(root, name) if version in (None, "null") else [place / f"version_{version}"]
        return str(find(given, folders, folders[0] if version not in (None, "null") else place))
    if not Path(given).is_file():
        raise ConfigError(f"there is no checkpoint {given}; give a file, or `last` for that of the newest run")
    if (
        verb == "train" and said["version"] is None and any(said.values())
    ):  # a run of its own, that starts where another was
        trainer["version"] = len(runs(root, name)) and int(runs(root, name)[-1].name.removeprefix("version_")) + 1
    return given


def _option(words: list[str], name: str) -> str | None:
    """The last value that `--name value` or `--name=value` gives."""
    value = None
    for i, word in enumerate(words):
        if word == f"--{name}" and i + 1 < len(words):
            value = words[i + 1]
        elif word.startswith(f"--{name}="):
            value = word.partition("=")[2]
    return value


def _begin(config: dict[str, Any], checkpoint: str | None, verb: str) -> tuple[dict[str, Any], str | None]:
    """The config of a model that starts from something, `model.checkpoint`, or goes on from `checkpoint`, which has all weights; and from what."""
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
    config = read_layers(path)
    return complete(config, at(config, "model").get("checkpoint"))


def complete(config: dict[str, Any], start: str | None) -> dict[str, Any]:
    """The config on top of what it starts from, if that is something; the classes that it does not name are the default ones."""
    if start:
        config = merge(zoo.architecture(*zoo.of(start)), config)
    config.setdefault("model", {})
    for keys, default in DEFAULT_CLASSES.items():
        spell_out(config, keys, default)
    return config
