"""The base of all metrics, which gathers the predictions of all processes and counts every image once."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from vitdet.errors import UserError
from vitdet.structures import Prediction, Target


class Metric(torchmetrics.Metric):
    """Base of the metrics that score predictions of images, each of which counts once for any number of processes.

    A subclass stores what it needs of an image in `_add`. Its `_pack` turns the stored values of some images into the
    states, which torchmetrics then gathers from all processes, before `compute` scores them or `save` writes them.

    Args:
        total: the number of images in the data set.
        seen_only: whether only images that were given to `update` are scored, as for sanity checks and
            `limit_val_batches`.

    Attributes:
        images: the ids of the scored images, `(I,)` for I images; set within `compute`.
        repeated: the number of images that several processes had; set within `compute`.
    """

    # whether `save` is possible
    saves = False
    full_state_update = False
    # a state to concatenate: a list with a tensor, or, within `sync_context`, the tensor
    images: Any
    # a run without any image has scores, too: nothing is found
    update_called = True  # pyright: ignore[reportAssignmentType]

    def __init__(self, total: int, *, seen_only: bool = False) -> None:
        # no cache: the states are dropped after `compute`, and a second call computes the scores again
        super().__init__(dist_sync_fn=gather, compute_with_cache=False)
        self.total, self.seen_only = total, seen_only
        # the ids of the images in the order in which they were given
        self._seen: dict[int, None] = {}
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("repeated", torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def _add(self, image_id: int, prediction: Prediction) -> None:
        """Store what is needed of the prediction for an image, which is on the CPU."""

    @abstractmethod
    def _pack(self, images: list[int]) -> None:
        """Set the states from what is stored of these images; a state to concatenate is a list with a single tensor."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The scores by name, the main score first. All processes must call it, and get equal scores."""

    @abstractmethod
    def protocol(self) -> str:
        """A line that describes how the last `compute` counted."""

    def save(self, path: str | Path) -> None:
        """Write all predictions to a file, if `saves`; all processes must call it, and rank 0 writes."""
        raise NotImplementedError(f"{type(self).__name__} saves no predictions")

    def reset(self) -> None:
        """Forget all predictions."""
        super().reset()
        self._seen.clear()

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target] | None = None) -> None:
        """Add the predictions of some images.

        Args:
            predictions: a prediction for each image.
            targets: the targets of these images, from which the image ids are taken; by default the ids come from the
                predictions.

        Raises:
            UserError: an image was given twice, or its prediction can't be scored.
        """
        if targets is not None and len(targets) != len(predictions):
            raise UserError(
                f"got {len(predictions)} predictions for {len(targets)} targets; wanted one of each per image"
            )
        ids = [int(item.image_id) for item in (predictions if targets is None else targets)]
        for image_id, prediction in zip(ids, predictions):
            if image_id in self._seen:
                raise UserError(f"image id {image_id} was given twice; call reset() before another evaluation")
            self._add(image_id, prediction.cpu())
            self._seen[image_id] = None

    @contextmanager
    def sync_context(self, *args: Any, **options: Any) -> Iterator[None]:
        """A context with the states of all processes. Outside of it they are empty, so nothing is stored twice."""
        counted = self._counted()
        self.images = [torch.tensor(counted, dtype=torch.int64)]
        self.repeated = torch.tensor(len(self._seen) - len(counted))
        self._pack(counted)
        with super().sync_context(*args, **options):
            for name, default in self._defaults.items():
                if isinstance(default, list):
                    state = getattr(self, name)
                    setattr(
                        self, name, state[0] if isinstance(state, list) and len(state) == 1 else dim_zero_cat(state)
                    )
            yield
        for name, default in self._defaults.items():
            setattr(self, name, [] if isinstance(default, list) else default.clone())

    def _counted(self) -> list[int]:
        """The images of this process that no lower rank has: samplers repeat images to give all ranks equal shares."""
        if not distributed():
            return list(self._seen)
        parts = gather(torch.tensor(list(self._seen), dtype=torch.int64))
        before = set(torch.cat(parts[: rank()] or [torch.empty(0)]).tolist())
        return [image_id for image_id in self._seen if image_id not in before]


def gather(value: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors of all processes, in the order of their ranks, on the CPU; only their first dimension may differ."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else value.device
    return [part.cpu() for part in gather_all_tensors(value.to(device), group)]


def distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if distributed() else 0
