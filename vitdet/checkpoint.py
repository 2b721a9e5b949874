"""What a checkpoint of vitdet holds: how it is written, read, checked, and built again. No other module knows its layout.

It is a file of Lightning's with the weights (`state_dict`), perhaps their average (`ema_state_dict`), and an entry `vitdet` of plain values:

    format          FORMAT of the vitdet that wrote it
    model           backbone and head: the public name of the class, and its arguments
    classes         names, by label; category_ids: the data set's ids, by label
    eval_transform  what validation does to an image; mean, std: what the backbone expects
    training        the arguments of the task that say how it learns
    data            the data module, as far as it can be built again
"""

import dataclasses
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.serialization import config as serialization

from vitdet.backbone.weights import read_file
from vitdet.config import build, check_parts, config_of
from vitdet.errors import UserError
from vitdet.renamed import renew, renew_arguments

# from 3 on, files name public classes, and options in parts; what 2 calls them is in `renamed`
FORMAT, OLDEST = 3, 2
# arguments of a head that follow from the backbone and the data
DERIVED = frozenset({"in_channels", "strides", "num_classes", "task"})
WANTED = "wanted a best.ckpt or last.ckpt of a run"
_ENTRY, _WEIGHTS, _AVERAGE = "vitdet", "state_dict", "ema_state_dict"
_NEEDED = {"format", "model", "classes", "category_ids"}


class CheckpointError(UserError):
    """A model or a file that can't be used; the message names it, and says what to do."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read. Its tensors stay on disk until they are used.

    Attributes:
        name: the file, for messages.
        contents: all of the file, as Lightning has it.
        saved: the entry of vitdet's.
    """

    name: str
    contents: Mapping[str, Any]
    saved: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "Checkpoint":
        """The checkpoint at `path`. Code in it is never run.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, was not written by vitdet, or by another version of it.
        """
        if Path(path).is_dir() and str(path):
            inside = next((name for name in ("best.ckpt", "last.ckpt") if Path(path, name).is_file()), "last.ckpt")
            raise CheckpointError(f"checkpoint {path} is a folder; {WANTED}, such as {Path(path, inside)}")
        if not Path(path).is_file():
            url = re.match(r"\w+:/+", str(path))
            fix = "download it first, and give the file" if url else "give the best.ckpt or last.ckpt of a run"
            raise FileNotFoundError(f"checkpoint {path} does not exist; {fix}")
        try:
            with serialization.patch({"load.mmap": zipfile.is_zipfile(path)}):
                contents = read_file(path)
        except RuntimeError as error:
            reason = type(error.__cause__ or error).__name__
            raise CheckpointError(
                f"{path} can't be read: it is damaged, or no checkpoint of vitdet ({reason}); {WANTED}"
            ) from error
        return cls.of(contents, path)

    @classmethod
    def of(cls, contents: Any, path: Any) -> "Checkpoint":
        """What Lightning has read from `path`.

        Raises:
            CheckpointError: it was not written by vitdet, or by another version of it.
        """
        saved = contents.get(_ENTRY) if isinstance(contents, dict) else None
        if not isinstance(saved, dict) or _WEIGHTS not in contents:
            raise CheckpointError(f"{path} was not written by vitdet; {WANTED}")
        if saved.get("format", OLDEST) > FORMAT:
            raise CheckpointError(f"{path} has format {saved['format']}, this vitdet reads {FORMAT}: update vitdet")
        if saved.get("format", OLDEST) < OLDEST:
            raise CheckpointError(
                f"{path} has format {saved['format']}, of models whose parts were others; this vitdet reads {OLDEST} "
                f"to {FORMAT}: train again, or use the vitdet of then"
            )
        if missing := _NEEDED - saved.keys():
            raise CheckpointError(f"{path} is no whole checkpoint of vitdet, it has no {min(missing)}; {WANTED}")
        return cls(str(path), contents, renew(saved))

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        return self.saved["classes"]

    @property
    def category_ids(self) -> list[int]:
        """The data set's ids, by label."""
        return self.saved["category_ids"]

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the task that say how it learns."""
        return renew_arguments("vitdet.Task", self.saved.get("training") or {})

    @property
    def data(self) -> dict[str, Any] | None:
        """How the data module is built again, where that is known."""
        return self.saved.get("data")

    @property
    def eval_transform(self) -> dict[str, Any]:
        """What validation does to an image: the arguments of `EvalTransform`."""
        expected = {key: self.saved[key] for key in ("mean", "std") if key in self.saved}
        return {**expected, **self.saved.get("eval_transform", {})}

    @property
    def model(self) -> dict[str, Any]:
        """Class and arguments of `backbone` and `head`, all that they were built with."""
        return self.saved["model"]

    def config(self) -> dict[str, Any]:
        """`backbone` and `head` as a config file has them, without what follows from the backbone and the data.

        Raises:
            CheckpointError: it names something else than parts of vitdet.
        """
        try:
            check_parts(self.model)
        except (TypeError, ImportError, AttributeError) as error:
            raise CheckpointError(f"{self.name}: its model can't be built: {error}") from error
        head = self.model["head"]
        options = {key: value for key, value in head["init_args"].items() if key not in DERIVED}
        return {**self.model, "head": {**head, "init_args": options}}

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The weights as the optimiser left them."""
        return self.contents[_WEIGHTS]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to use: their average, where there is one."""
        return self.average or self.state_dict

    @property
    def average(self) -> dict[str, Tensor]:
        """The average of the weights; empty where there is none."""
        return average_of(self.contents)

    @property
    def optimizer_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the optimiser, which a training goes on with; none in a file of weights only."""
        states = self.contents.get("optimizer_states")
        return states[0]["param_groups"] if states and self.contents.get("lr_schedulers") else []

    def callback(self, key: str) -> dict[str, Any] | None:
        """The state of a callback of the run."""
        return self.contents.get("callbacks", {}).get(key)

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Backbone and head with their weights, the averaged ones if there are some.

        Raises:
            CheckpointError: the model needs a part that is not installed, or the weights are not its.
        """
        try:
            parts = nn.ModuleDict({name: build(self.model[name]) for name in ("backbone", "head")})
        except (ImportError, AttributeError, TypeError, RuntimeError, UserError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{self.name}: its model can't be built: {reason}; install or import what it was trained with"
            ) from error
        try:
            parts.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CheckpointError(f"{self.name}: its weights do not fit its model: {error}") from error
        return parts["backbone"], parts["head"]


def write(
    contents: dict[str, Any],
    backbone: nn.Module,
    head: nn.Module,
    *,
    classes: Sequence[str],
    category_ids: Sequence[int],
    eval_transform: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Adds to what Lightning saves all that `Checkpoint` needs beside the weights.

    Args:
        contents: what is saved, with the weights of `backbone` and `head`, which are added where they are not in it.

    Raises:
        TypeError: an argument of a part can't be saved.
    """
    if _WEIGHTS not in contents:
        contents[_WEIGHTS] = nn.ModuleDict({"backbone": backbone, "head": head}).state_dict()
    contents[_ENTRY] = {
        "format": FORMAT,
        "model": {"backbone": config_of(backbone), "head": config_of(head)},
        "data": data,
        "training": dict(settings or {}),
        "classes": list(classes),
        "category_ids": list(category_ids),
        "eval_transform": dict(eval_transform),
        "mean": [float(value) for value in backbone.mean],
        "std": [float(value) for value in backbone.std],
    }
    return contents


def write_weights(contents: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Lets these be the weights that are saved."""
    contents[_WEIGHTS] = dict(weights)


def write_average(contents: dict[str, Any], average: Mapping[str, Tensor]) -> None:
    """Adds the average of the weights, under the names of the weights."""
    contents[_AVERAGE] = dict(average)


def average_of(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    """The average of the weights in what Lightning has read; empty where there is none."""
    return contents.get(_AVERAGE) or {}
