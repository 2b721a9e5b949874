"""What is known of a published model, and how its files are read.  # K classes"""

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
from vitdet.zoo.download import cache_folder, download
from vitdet.zoo.tensors import read_state


@dataclass(frozen=True)
class Base:
    """Weights that others give out on request, and that a model's own are differences from: the file's name in the cache folder, and the page to ask at."""

    filename: str
    page: str

    def read(self) -> dict[str, Tensor] | None:
        path = cache_folder() / self.filename
        return read_state(path) if path.is_file() else None

    @property
    def wanted(self) -> str:
        return f"its authors publish differences from {self.page}: ask for access there, and put its model.safetensors at {cache_folder() / self.filename}"


@dataclass(frozen=True)
class Card:
    """A published model.

    Attributes:
        url: where its authors offer the file; `digest`, if they publish one, is `sha256:…` or `md5:…`.
        score: as its authors report it, with `source`.
        parameters: in millions; `gflops` of one image of its own size, a multiplication and an addition counted as two.
        backbone: arguments of `Backbone`.
        head_class, head: the head and its arguments, for the classes that it knows.
        transform: size and resampling of images, see `EvalTransform`; all models want ImageNet's mean and deviation.
        labels: the classes that it knows.
        convert: the authors' tensors to ours, `backbone.…` and `head.…`.
        base: what its weights are differences from; `convert` then takes that, too.
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
        """What is done to an image: arguments of `EvalTransform`."""
        return {**self.transform, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}

    @property
    def filename(self) -> str:
        return self.name + Path(self.url).suffix

    def config(self) -> dict[str, Any]:
        """`backbone` and `head` as a config file has them."""
        return {
            "backbone": {"class_path": "vitdet.Backbone", "init_args": dict(self.backbone)},
            "head": {"class_path": self.head_class, "init_args": dict(self.head)},
        }

    def build(self) -> nn.ModuleDict:
        """The model with random weights: `backbone` and `head`."""
        config = self.config()
        backbone = build(config["backbone"])
        config["head"]["init_args"] |= {
            "in_channels": backbone.out_channels,
            "strides": backbone.strides,
            "num_classes": len(self.classes),
        }
        return nn.ModuleDict({"backbone": backbone, "head": build(config["head"])})

    def weights(self, path: str | Path | None = None) -> dict[str, Tensor]:
        """Its tensors by our names, from a file, or else from the cache or the network.

        Raises:
            CheckpointError: the file can't be read, or does not hold this model's weights.
            DownloadError: it can't be fetched.
        """
        base = () if self.base is None else (self.base.read(),)
        if path is None and base == (None,):
            raise CheckpointError(f"{self.name} can't be put together: {self.base.wanted}")
        file = Path(path) if path is not None else download(self.url, self.filename, digest=self.digest)
        try:
            state = read_state(file)
        except CheckpointError as error:
            hint = "; remove it, and it is downloaded again" if path is None else ""
            raise CheckpointError(f"{error}{hint}") from error
        try:
            return self.convert(state, *base)
        except (KeysError, KeyError, IndexError, RuntimeError) as error:  # names, or numbers of classes or channels
            hint = f"; {self.base.wanted}" if base == (None,) else ""
            raise CheckpointError(f"{file} does not hold the weights of {self.name}: {error}{hint}") from error

    def load(self, path: str | Path | None = None) -> nn.ModuleDict:
        """The model with its weights; raises as `weights`."""
        model, state = self.build(), self.weights(path)
        try:
            check_complete(state, model)
        except KeysError as error:
            raise CheckpointError(
                f"{path or self.filename} does not hold the weights of {self.name}: {error}"
            ) from error
        model.load_state_dict(state)
        return model
