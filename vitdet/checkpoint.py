"""The format of vitdet's checkpoints: writing, reading, checking, and building the model again.

No other module knows this format. A checkpoint is a file of Lightning's with the weights (`state_dict`), optionally
their average (`ema_state_dict`), and an entry `vitdet` of plain values, which `vitdet.model_folder` writes, too:

    format          FORMAT of the vitdet that wrote the file
    model           backbone and head: the public name of the class, and its arguments
    classes         class names, indexed by label
    category_ids    ids of the classes in the data set, indexed by label
    eval_transform  the arguments of `EvalTransform` for validation
    mean, std       normalisation of RGB values in [0, 1] that the backbone expects
    training        the training arguments of the task
    data            configuration of the data module, if it can be built again
    thresholds      the lowest score of a detection that counts: `values`, indexed by label, and the `rule` behind them
"""

import dataclasses
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.serialization import config as serialization

from vitdet import checksum, kept, model_folder
from vitdet.backbone.weights import read_file
from vitdet.checksum import DamagedError
from vitdet.config import build, check_parts, config_of
from vitdet.contents import WEIGHTS, average_of, optimizers_of, weights_of
from vitdet.entry import fetching_nothing, misfit, wrong_run, wrong_tensors
from vitdet.errors import UserError
from vitdet.renamed import renew, renew_arguments
from vitdet.within import Within

# Since format 3, files hold public class names and grouped options; `vitdet.renamed` translates those of format 2.
FORMAT, OLDEST = 3, 2
# arguments of a head that are derived from the backbone and the data
DERIVED = frozenset({"in_channels", "strides", "num_classes", "task"})
WANTED = "wanted a best.ckpt or last.ckpt of a run"
_ENTRY = "vitdet"
_NEEDED = {"format", "model", "classes", "category_ids"}


class CheckpointError(UserError):
    """A model or a checkpoint that can't be used; the message names the file and suggests what to do."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read; its tensors stay on disk until they are used.

    Attributes:
        name: the path of the file, for messages.
        contents: the entire contents of the file, in the format of Lightning.
        saved: the entry `vitdet` of the file.
    """

    name: str
    contents: Mapping[str, Any]
    saved: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "Checkpoint":
        """Reads the checkpoint at `path`, or a shared model, without running any code in it.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged, was not written by vitdet, or by a version with another format.
            SharedModelError: the shared model can't be fetched or read.
        """
        if model_folder.is_shared(path):
            weights, saved = model_folder.read(path)
            return cls.of({WEIGHTS: weights, _ENTRY: saved}, path)
        if Path(path).is_dir() and str(path):
            inside = next((name for name in ("best.ckpt", "last.ckpt") if Path(path, name).is_file()), "last.ckpt")
            raise CheckpointError(f"checkpoint {path} is a folder; {WANTED}, such as {Path(path, inside)}")
        if not Path(path).is_file():
            url = re.match(r"\w+:/+", str(path))
            fix = "download it first, and give the file" if url else "give the best.ckpt or last.ckpt of a run"
            raise FileNotFoundError(f"checkpoint {path} does not exist; {fix}")
        try:
            contents = checksum.whole(path, lambda: _contents(path))
        except DamagedError as error:
            raise CheckpointError(str(error)) from error
        except RuntimeError as error:
            reason = type(error.__cause__ or error).__name__
            raise CheckpointError(
                f"{path} can't be read: it is damaged, or no checkpoint of vitdet ({reason}); {WANTED}"
            ) from error
        return cls.of(contents, path)

    @classmethod
    def of(cls, contents: Any, path: Any) -> "Checkpoint":
        """Wraps the contents that have been read from `path`, after checking them.

        Raises:
            CheckpointError: the file was not written by vitdet, or by a version with another format.
        """
        saved = contents.get(_ENTRY) if isinstance(contents, dict) else None
        if not isinstance(saved, dict) or WEIGHTS not in contents:
            raise CheckpointError(f"{path} was not written by vitdet; {WANTED}")
        run = optimizers_of(contents) or None, contents.get("callbacks")
        if wrong := misfit(saved) or wrong_tensors(contents[WEIGHTS], average_of(contents)) or wrong_run(*run):
            raise CheckpointError(f"{path} was not written by vitdet, or changed: {wrong}")
        if (number := saved.get("format", OLDEST)) > FORMAT:
            raise CheckpointError(f"{path} has format {number}, this vitdet reads {FORMAT}: update vitdet")
        if number < OLDEST:
            raise CheckpointError(
                f"{path} has format {number}, of models whose parts were others: train again, or use the vitdet of then"
            )
        if missing := _NEEDED - saved.keys():
            raise CheckpointError(f"{path} is no whole checkpoint of vitdet, it has no {min(missing)}; {WANTED}")
        return cls(str(path), contents, fetching_nothing(renew(saved)))

    @property
    def classes(self) -> list[str]:
        """Class names, indexed by label."""
        return self.saved["classes"]

    @property
    def category_ids(self) -> list[int]:
        """Ids of the classes in the data set, indexed by label."""
        return self.saved["category_ids"]

    @property
    def settings(self) -> dict[str, Any]:
        """The training arguments of the task."""
        return renew_arguments("vitdet.Task", self.saved.get("training") or {})

    @property
    def data(self) -> dict[str, Any] | None:
        """The configuration of the data module, or `None` where it can't be built again."""
        return self.saved.get("data")

    @property
    def eval_transform(self) -> dict[str, Any]:
        """The arguments of `EvalTransform` for validation."""
        expected = {key: self.saved[key] for key in ("mean", "std") if key in self.saved}
        return {**expected, **self.saved.get("eval_transform", {})}

    @property
    def model(self) -> dict[str, Any]:
        """The class and all arguments of `backbone` and `head`."""
        return self.saved["model"]

    @property
    def thresholds(self) -> list[float] | None:
        """The lowest score of a detection that counts, indexed by label; `None` if none were chosen."""
        return None if self.chosen is None else list(self.chosen["values"])

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The thresholds with how they were chosen, see `vitdet.metrics.thresholds.choose`; `None` if none were."""
        return self.saved.get("thresholds")

    def config(self) -> dict[str, Any]:
        """Returns `backbone` and `head` as in a config file, without arguments derived from the backbone and the data.

        Raises:
            CheckpointError: the model uses classes that are not parts of vitdet.
        """
        try:
            check_parts(self.model)
        except (TypeError, ImportError, AttributeError, LookupError) as error:
            raise CheckpointError(f"{self.name}: its model can't be built: {error}") from error
        head = self.model["head"]
        options = {key: value for key, value in head["init_args"].items() if key not in DERIVED}
        return {**self.model, "head": {**head, "init_args": options}}

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The weights as the optimiser left them."""
        return weights_of(self.contents)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights for inference: their average, if the file holds it, otherwise the weights themselves."""
        return self.average or self.state_dict

    @property
    def average(self) -> dict[str, Tensor]:
        """The average of the weights; empty if the file holds none."""
        return average_of(self.contents)

    @property
    def optimizer_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the optimiser, for resuming; empty if the file holds only weights."""
        states = optimizers_of(self.contents)
        return states[0].get("param_groups", []) if states and self.contents.get("lr_schedulers") else []

    def callback(self, key: str) -> dict[str, Any] | None:
        """Returns the state of a callback of the run, or `None` if the file holds none."""
        return self.contents.get("callbacks", {}).get(key)

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Builds the backbone and the head, and loads their weights, averaged if the file holds an average.

        Raises:
            CheckpointError: the model needs a part that is not installed, or the weights do not fit the model.
        """
        try:
            with Within(self.weights):
                parts = nn.ModuleDict({name: build(self.model[name]) for name in ("backbone", "head")})
        except (ImportError, AttributeError, TypeError, LookupError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"{self.name}: its model can't be built: {reason}; install or import what it was trained with"
            ) from error
        try:
            parts.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CheckpointError(f"{self.name}: its weights do not fit its model: {error}") from error
        return parts["backbone"], parts["head"]


def _contents(path: str | Path) -> Any:
    kept.verify(path)
    with serialization.patch({"load.mmap": zipfile.is_zipfile(path)}):
        return read_file(path)


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
    thresholds: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Adds the entry `vitdet` to the contents of a checkpoint.

    Args:
        contents: the contents that Lightning saves. The weights of `backbone` and `head` are added if they are missing.
        backbone, head: the model.
        classes, category_ids: class names and ids of the data set, indexed by label.
        eval_transform: the arguments of `EvalTransform` for validation.
        settings: the training arguments of the task.
        data: the configuration of the data module, if it can be built again.
        thresholds: `values`, the lowest score of a detection that counts for each class, and the `rule` by which they
            were chosen.

    Returns:
        `contents`.

    Raises:
        TypeError: an argument of the backbone or the head can't be saved.
    """
    if WEIGHTS not in contents:
        contents[WEIGHTS] = nn.ModuleDict({"backbone": backbone, "head": head}).state_dict()
    contents[_ENTRY] = {
        "format": FORMAT,
        "model": {"backbone": config_of(backbone), "head": config_of(head)},
        "data": data,
        "training": dict(settings or {}),
        "classes": list(classes),
        "category_ids": list(category_ids),
        "eval_transform": dict(eval_transform),
        "thresholds": None if thresholds is None else dict(thresholds),
        "mean": [float(value) for value in backbone.mean],
        "std": [float(value) for value in backbone.std],
    }
    return contents


def write_thresholds(path: str | Path, thresholds: Mapping[str, Any]) -> None:
    """Replaces the thresholds in a checkpoint, whose other contents stay.

    Raises:
        CheckpointError: the file is no checkpoint, or can't be written.
    """
    saved = Checkpoint.read(path)
    contents = {**saved.contents, _ENTRY: {**saved.contents[_ENTRY], "thresholds": dict(thresholds)}}
    try:
        # what a link points to, and not the link
        checksum.write(Path(path).resolve(), lambda file: torch.save(contents, file))
    except OSError as error:
        raise CheckpointError(f"{path} can't be written: {error.strerror or error}") from error
