"""Descriptions of published models, and how their files are read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitdet.backbone.keys import KeysError, check_complete
from vitdet.checkpoint import CheckpointError
from vitdet.config import build
from vitdet.data.label_sets import LabelSet
from vitdet.data.module import IMAGENET_MEAN, IMAGENET_STD
from vitdet.download.files import cache_folder, check_again, download
from vitdet.zoo.tensors import read_state

# what else can be done with a file that was fetched by hand
BY_HAND = ", or give its path: vitdet.load(name, checkpoint=path), or model.checkpoint_file in YAML"


@dataclass(frozen=True)
class Base:
    """Weights that must be requested from their authors; the file of a model holds only differences from them.

    Attributes:
        filename: name of the file in the cache folder.
        page: web page where access is requested.
    """

    filename: str
    page: str

    def read(self) -> dict[str, Tensor] | None:
        path = cache_folder() / self.filename
        return read_state(path) if path.is_file() else None

    @property
    def wanted(self) -> str:
        return (
            f"its authors publish differences from {self.page}: ask for access there, "
            f"and put its model.safetensors at {cache_folder() / self.filename}"
        )


@dataclass(frozen=True)
class Card:
    """The description of a published model.

    Attributes:
        name: the name by which `vitdet.load` finds the model.
        url: where its authors publish the file.
        licence: the licence of the weights.
        score: the score that its authors report.
        source: where the score is reported.
        parameters: the number of parameters in millions.
        gflops: the arithmetic of an image of the model's size in 10⁹ floating-point operations; a multiply-add is two.
        backbone: the arguments of `Backbone`.
        head_class: the public name of the class of the head.
        head: the arguments of the head.
        transform: size and resampling of images, see `EvalTransform`. All models use ImageNet's mean and deviation.
        labels: the classes of the model.
        convert: translates the authors' tensors to vitdet's names, `backbone.…` and `head.…`.
        digest: the digest of the file, `sha256:…` or `md5:…`, if its authors publish it.
        base: the weights from which the file holds differences, if so; `convert` takes these as its second argument.
    """

    name: str
    url: str
    licence: str
    score: str
    source: str
    parameters: float
    gflops: float
    backbone: dict[str, Any]
    head_class: str
    head: dict[str, Any]
    transform: dict[str, Any]
    labels: LabelSet
    convert: Callable[..., dict[str, Tensor]]
    digest: str | None = None
    base: Base | None = None

    @property
    def classes(self) -> list[str]:
        return self.labels.classes

    @property
    def category_ids(self) -> list[int]:
        return self.labels.ids

    @property
    def eval_transform(self) -> dict[str, Any]:
        """The arguments of `EvalTransform` for this model."""
        return {**self.transform, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}

    @property
    def filename(self) -> str:
        return self.name + Path(self.url).suffix

    def config(self) -> dict[str, Any]:
        """Returns `backbone` and `head` as in a config file."""
        return {
            "backbone": {"class_path": "vitdet.Backbone", "init_args": dict(self.backbone)},
            "head": {"class_path": self.head_class, "init_args": dict(self.head)},
        }

    def build(self) -> nn.ModuleDict:
        """Builds the model, `backbone` and `head`, with random weights."""
        config = self.config()
        backbone = build(config["backbone"])
        config["head"]["init_args"] |= {
            "in_channels": backbone.out_channels,
            "strides": backbone.strides,
            "num_classes": len(self.classes),
        }
        return nn.ModuleDict({"backbone": backbone, "head": build(config["head"])})

    def weights(self, path: str | Path | None = None) -> dict[str, Tensor]:
        """Returns the tensors with vitdet's names, from a file or, by default, from the cache or the network.

        Raises:
            CheckpointError: the file can't be read, or does not hold the weights of this model.
            DownloadError: the file can't be downloaded, or is damaged.
        """
        base = () if self.base is None else (self.base.read(),)
        if path is None and base == (None,):
            raise CheckpointError(f"{self.name} can't be put together: {self.base.wanted}")
        file = Path(path) if path is not None else download(self.url, self.filename, digest=self.digest, advice=BY_HAND)
        if path is None:
            check_again(file, self.digest)
        try:
            state = read_state(file)
        except CheckpointError as error:
            hint = "; remove it, and it is downloaded again" if path is None else ""
            raise CheckpointError(f"{error}{hint}") from error
        try:
            return self.convert(state, *base)
        except (KeysError, KeyError, IndexError, RuntimeError) as error:
            # names differ, or the numbers of classes or channels
            hint = f"; {self.base.wanted}" if base == (None,) else ""
            raise CheckpointError(f"{file} does not hold the weights of {self.name}: {error}{hint}") from error

    def load(self, path: str | Path | None = None) -> nn.ModuleDict:
        """Builds the model and loads its weights; raises as `weights`."""
        model, state = self.build(), self.weights(path)
        try:
            check_complete(state, model)
        except KeysError as error:
            raise CheckpointError(
                f"{path or self.filename} does not hold the weights of {self.name}: {error}"
            ) from error
        model.load_state_dict(state)
        return model
