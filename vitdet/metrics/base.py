"""The base of all metrics: what is kept of each image, and how processes put it together.  # I images"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    """Scores predictions of images, of which each counts once, however many processes there are.

    A derived class keeps what it needs of an image in `_add`. `_pack` makes that of some images the states, which
    torchmetrics then puts together over the processes, before `compute` scores them or `save` writes them.

    Args:
        total: how many images the data has.
        seen_only: score only the images that `update` was given, as for sanity checks and `limit_val_batches`.

    Attributes:
        images: `(I,)` ids of the images that are scored, in `compute`.
        repeated: how many of them several processes had, in `compute`.
    """

    saves = False  # whether it has `save(path)`
    full_state_update = False
    update_called = True  # without any image there is a score, too: nothing is found

    def __init__(self, total: int, *, seen_only: bool = False) -> None:
        # a score that is asked for twice is computed twice: what it is computed of is not kept
        super().__init__(dist_sync_fn=gather, compute_with_cache=False)
        self.total, self.seen_only = total, seen_only
        self._seen: dict[int, None] = {}  # ids of the images, in the order in which they came
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("repeated", torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def _add(self, image_id: int, prediction: Prediction) -> None:
        """Keep what is needed of one image; the prediction is on the CPU."""

    @abstractmethod
    def _pack(self, images: list[int]) -> None:
        """Make what is kept of these images the states; those that are put one behind the other are a list of one tensor."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The scores by name, the main one first; all processes must call it, and all get the same."""

    @abstractmethod
    def protocol(self) -> str:
        """One line that says how the last `compute` counted."""

    def reset(self) -> None:
        """Forget all predictions."""
        super().reset()
        self._seen.clear()

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target] | None = None) -> None:
        """Add the predictions of some images; image ids come from `targets` where given, else from the predictions.

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
        """In it, the states are those of all processes; outside of it there are none, so that nothing is kept twice."""
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
        """Those of this process's images that no process before it had: samplers repeat some for equal shares."""
        if not distributed():
            return list(self._seen)
        parts = gather(torch.tensor(list(self._seen), dtype=torch.int64))
        before = set(torch.cat(parts[: rank()] or [torch.empty(0)]).tolist())
        return [image_id for image_id in self._seen if image_id not in before]


def gather(value: Tensor, group: Any = None) -> list[Tensor]:
    """A tensor of every process, in the order of their ranks, on the CPU; only their first sizes may differ."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else value.device
    return [part.cpu() for part in gather_all_tensors(value.to(device), group)]


def distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if distributed() else 0
