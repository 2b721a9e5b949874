"""The data module of a config, a checkpoint or an exported model alone, for scoring without a task and a trainer."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from vitdet.command import folder
from vitdet.command.files import ConfigError
from vitdet.command.layers import apply_settings, at, read_words
from vitdet.command.mistakes import explain
from vitdet.command.run import _command, _layers, complete, moved
from vitdet.data import ImageData
from vitdet.errors import UserError


def read_data(
    verb: str, words: Sequence[str], *, config: str | None = None, saved: dict[str, Any] | None = None, name: str = ""
) -> ImageData:
    """Builds the data module that a command names.

    Args:
        verb: the verb, for messages.
        words: keys and values, `--data FOLDER` or `--data.key value`, on top of the data.
        config: a config or a checkpoint, whose data are meant.
        saved: without `config`, the class and the arguments of the data that `name`, a model, was trained on.
        name: the model, for messages.

    Raises:
        UserError: the config is wrong, a word is no key of the data, or no data are given.
    """
    settings, flags = read_words(words)
    if others := [*flags, *(f"--{key}" for key, _ in settings if key.partition(".")[0] not in ("data", "config"))]:
        raise ConfigError(f"{others[0]} is no option of vitdet {verb} here; its keys are --data and --data.…")
    if config is not None:
        layers = _layers("test", *_command([config, *words])[:2])
    else:
        if not saved and not any(key in ("data", "config") for key, _ in settings):
            raise ConfigError(
                f"{name} does not know its data; give a folder, --data FOLDER, or the config or checkpoint first: "
                f"vitdet {verb} CONFIG …"
            )
        layers = folder.look(apply_settings({"data": saved} if saved else {}, settings))
    made = complete(layers, at(layers, "model").get("checkpoint"))
    return _build(made["data"], config or name or "the data")


def _build(data: dict[str, Any], where: str) -> ImageData:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data", required=True)
    try:
        return parser.instantiate(parser.parse_object({"data": data})).data
    except UserError:
        raise
    except (ArgumentError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        message = explain(error, where)
        raise ConfigError(moved(message, where) or message) from error
