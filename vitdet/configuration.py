"""Config files to objects: Lightning's CLI, with `base:`, short class names, and errors of one line."""

import difflib
import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import vitdet
from vitdet import zoo
from vitdet.data import ImageData
from vitdet.errors import UserError
from vitdet.training import Task, Trainer
from vitdet.training.folder import runs
from vitdet.training.quiet import quiet
from vitdet.unknown import explain

DEFAULT_CLASSES = {("data",): "CocoData", ("model", "backbone"): "Backbone", ("model", "head"): "DETRHead"}


class ConfigError(UserError):
    """A config file or an override is wrong; the message says what to do."""


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config beside the checkpoints."""

    def setup(self, trainer: Trainer, pl_module: Task, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            trainer.run_folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, trainer.run_folder / "config.yaml", skip_unset=False, overwrite=True)


class CLI(LightningCLI):
    """A task, a data module and a trainer from one config; the classes come from the data."""

    ckpt_path: str | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str, default=None, help="a checkpoint to go on from, or `last`")
        for name in ("classes", "category_ids"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")


def read_command(verb: str, argv: list[str]) -> CLI:
    """`CONFIG --key value …` as a CLI with `model`, `datamodule`, `trainer` and `ckpt_path`.

    Raises:
        ConfigError: whatever is wrong with it.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise ConfigError(f"which config? vitdet {verb} configs/detr_vit.yaml [--key value …]")
    quiet()
    help_only = argv[0] in ("-h", "--help")
    path = None if help_only else Path(argv[0])
    config = {} if path is None else read_layers(path)
    trainer = config.setdefault("trainer", {})
    trainer.setdefault("name", path.stem if path else "name")
    checkpoint = _checkpoint(_option(argv, "ckpt_path"), trainer, _option(argv, "trainer.root"))
    if verb == "train" and checkpoint is not None:
        trainer.update(_same_run(checkpoint))
    config, argv, start = _begin(config, argv, checkpoint)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        try:
            cli = CLI(
                Task,
                ImageData,
                save_config_callback=SaveConfig if verb == "train" else None,
                trainer_class=Trainer,
                seed_everything_default=0,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_kwargs={"exit_on_error": False, "prog": f"vitdet {verb}"},
                args=argv if help_only else ["--config", file.name, *argv[1:]],
                run=False,
            )
        except zoo.CheckpointError:
            raise
        except (ArgumentError, ValueError, TypeError, FileNotFoundError) as error:
            hint = f"; it starts from {start}, and what it says of backbone and head goes on top" if start else ""
            raise ConfigError(explain(str(error), str(path)) + hint) from error
    cli.ckpt_path = checkpoint
    return cli


def _begin(
    config: dict[str, Any], argv: list[str], checkpoint: str | None
) -> tuple[dict[str, Any], list[str], str | None]:
    """Config and words for a model that starts from something, `model.checkpoint`, or goes on from `checkpoint`, which has all weights; and from what."""
    start = _option(argv, "model.checkpoint") or (config.get("model") or {}).get("checkpoint")
    start = None if start == "null" else start
    config = complete(config, start and (checkpoint or start))
    if start and checkpoint is not None:
        config["model"].pop("checkpoint", None)
        argv = _without(argv, "model.checkpoint")
    return config, argv, start


def _option(argv: list[str], name: str) -> str | None:
    """The value that `--name value` or `--name=value` gives."""
    for i, word in enumerate(argv):
        if word == f"--{name}" and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def _without(argv: list[str], name: str) -> list[str]:
    """The words without `--name value` and `--name=value`."""
    kept = [word for word in argv if not word.startswith(f"--{name}=")]
    while f"--{name}" in kept:
        at = kept.index(f"--{name}")
        del kept[at : at + 2]
    return kept


def _same_run(checkpoint: str) -> dict[str, Any]:
    """Trainer arguments that let a resumed training go on in the folder of its run, where its best checkpoint is."""
    run = Path(checkpoint).parent
    number = run.name.removeprefix("version_")
    if not number.isdigit():
        return {}
    return {"root": str(run.parent.parent), "name": run.parent.name, "version": int(number)}


def _checkpoint(given: str | None, trainer: dict[str, Any], root: str | None) -> str | None:
    """The file that `--ckpt_path` means; `last` is that of the newest run of this config."""
    if given != "last":
        if given is not None and not Path(given).is_file():
            raise ConfigError(f"there is no checkpoint {given}")
        return given
    root = root or trainer.get("root", "runs")
    found = [run / "last.ckpt" for run in runs(root, trainer["name"]) if (run / "last.ckpt").is_file()]
    if not found:
        raise ConfigError(f"there is no last.ckpt under {root}/{trainer['name']}; train without --ckpt_path first")
    return str(found[-1])


def read_config(path: str | Path) -> dict[str, Any]:
    """A YAML file merged into those that its `base:` names, and into the model that it starts from, classes spelt out.

    Raises:
        ConfigError: a file is missing, is no mapping, or is its own base.
        CheckpointError: there is no such model to start from.
    """
    config = read_layers(path)
    return complete(config, (config.get("model") or {}).get("checkpoint"))


def complete(config: dict[str, Any], start: str | None) -> dict[str, Any]:
    """The config on top of what it starts from, if that is something; the classes that it does not name are the default ones."""
    if start:
        config = merge(zoo.architecture(*zoo.of(start)), config)
    for keys, default in DEFAULT_CLASSES.items():
        _spell_out(config, keys, default)
    return config


def read_layers(path: str | Path, *, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file merged into those that its `base:` names; a base need not name a class, the file on top of it may."""
    path = Path(path)
    if path.resolve() in above:
        raise ConfigError(f"{path} is its own base")
    if not path.is_file():
        near = difflib.get_close_matches(str(path), [str(p) for p in Path("configs").rglob("*.yaml")], 1, 0.4)
        raise ConfigError(f"there is no config {path}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        own = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(own, dict):
        raise ConfigError(f"{path} holds a {type(own).__name__}; wanted keys such as model, data and trainer")
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    own = _numbers(own)
    for keys in DEFAULT_CLASSES:
        _spell_out(own, keys, None)
    config: dict[str, Any] = {}
    for layer in [*(read_layers(path.parent / base, above=(*above, path.resolve())) for base in bases), own]:
        _keep_common(config, layer)
        config = merge(config, layer)
    return config


def _spell_out(config: dict[str, Any], keys: tuple[str, ...], default: str | None) -> None:
    """`DETRHead` or `{class_path: DETRHead, dim: 8}`, or just `{dim: 8}`, to `{class_path: …, init_args: …}`."""
    for key in keys[:-1]:
        config = config.get(key) or {}
    value = config.get(keys[-1])
    if isinstance(value, str):
        config[keys[-1]] = {"class_path": _full(value), "init_args": {}}
    elif isinstance(value, dict):
        rest = {k: v for k, v in value.items() if k not in ("class_path", "init_args")}
        spelt = {"init_args": {**rest, **(value.get("init_args") or {})}}
        name = value.get("class_path") or default
        config[keys[-1]] = {"class_path": _full(name), **spelt} if name else spelt


def _keep_common(base: dict[str, Any], own: dict[str, Any]) -> None:
    """Another data class takes over what all data have: sizes, batches, augmentation; so a config changes its task in one line."""
    before, after = base.get("data") or {}, own.get("data") or {}
    if "class_path" in after and "class_path" in before and after["class_path"] != before["class_path"]:
        common = inspect.signature(ImageData).parameters
        kept = {key: value for key, value in before["init_args"].items() if key in common}
        after["init_args"] = merge(kept, after["init_args"])


def _full(name: str) -> str:
    if "." in name or name not in vitdet.__all__:
        return name
    cls = getattr(vitdet, name)
    return f"{cls.__module__}.{cls.__qualname__}"


def _numbers(value: Any) -> Any:
    """`4e-4` is a number, though YAML 1.1 reads it as text."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `base`, key by key; another class takes no arguments over (but see `_keep_common`); lists, and sizes, which are one rule, are replaced."""
    if "class_path" in own and own["class_path"] != base.get("class_path", own["class_path"]):
        return own
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "size"
        merged[key] = merge(base[key], value) if both else value
    return merged
