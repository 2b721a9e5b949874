"""Judges an exported model by its score in its engine, beside that of the model that it was exported from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitdet.boxes import pairwise_iou
from vitdet.data.shapes_scene import draw_scene
from vitdet.deploy.engines.base import EngineError
from vitdet.deploy.predict import Detector
from vitdet.deploy.score import Scores
from vitdet.structures import Prediction

# the part of the main score, in [0, 1], that an export may lose: a tenth of a point, and a point in 8 bits
LOSS, INT8_LOSS = 0.001, 0.01
# the share of predictions that must agree in 32 bits, where no labelled images are known
AGREE = 0.9


@dataclass(frozen=True)
class Verdict:
    """What an export lost.

    Attributes:
        before, after: the scores of the model in PyTorch, and of the exported one in its engine.
        allowed: the largest loss of the main score that is accepted, in [0, 1].
    """

    before: Scores
    after: Scores
    allowed: float

    @property
    def loss(self) -> float:
        return self.before.main[1] - self.after.main[1]

    @property
    def ok(self) -> bool:
        # scores that differ in their last digits, by the order of a sum, must not decide
        return self.loss <= self.allowed + 1e-9

    def lines(self) -> list[str]:
        """The scores before and after, and how they were counted."""
        (name, before), (_, after) = self.before.main, self.after.main
        times = f"{1e3 * self.before.seconds / self.before.images:.1f} ms"
        times += f" → {1e3 * self.after.seconds / self.after.images:.1f} ms an image"
        return [f"{name} {before:.4f} → {after:.4f} ({after - before:+.4f}), {times}", self.after.protocol]

    def fault(self, *, hint: str) -> str:
        name, value = self.before.main
        return (
            f"{name} falls by {100 * self.loss:.2f} points, from {value:.4f} to {self.after.main[1]:.4f}; "
            f"at most {100 * self.allowed:g} are accepted: {hint}"
        )


def compare(original: Detector, exported: Detector, *, count: int = 4) -> tuple[float, str]:
    """Compares predictions on drawn images, for where there are no labelled ones.

    Args:
        original, exported: the model in PyTorch, and in its engine.
        count: the number of images.

    Returns:
        The share of the predictions that agree, and a sentence about it.

    Raises:
        EngineError: a prediction is not finite.
    """
    images = [draw_scene(np.random.default_rng(i)).image for i in range(count)]
    pairs = list(zip(_all(original, images), _all(exported, images)))
    for _, found in pairs:
        if not (torch.isfinite(found.scores).all() and torch.isfinite(found.boxes_xyxy).all()):
            raise EngineError(f"{exported.runs_on} gives predictions that are not finite; export it in 32 bits")
    if original.kind == "semantic":
        share = float(np.mean([(a.semantic == b.semantic).float().mean().item() for a, b in pairs]))
        return share, f"{share:.2%} of the pixels of {count} drawn images have the same class"
    differences = torch.cat([agreement(a, b) for a, b in pairs])
    same = int((differences <= 0.01).sum())
    return same / max(len(differences), 1), (
        f"of the {len(differences)} best detections in {count} drawn images, {same} are found again, with a box of "
        "IoU 0.9 or more and a score within 0.01"
    )


def _all(detector: Detector, images: list[np.ndarray]) -> list[Prediction]:
    found = detector.predict(images, threshold=0.0)
    return found if isinstance(found, list) else [found]


def agreement(a: Prediction, b: Prediction, *, best: int = 20) -> torch.Tensor:
    """For each of the best detections of `a`, the difference of its score to the nearest one in `b` of its class and
    place, or 1 where there is none: `(T,)`."""
    count = min(best, len(a))
    if not count or not len(b):
        return torch.ones(count)
    same = (a.labels[:count, None] == b.labels) & (pairwise_iou(a.boxes_xyxy[:count], b.boxes_xyxy) >= 0.9)
    apart = (a.scores[:count, None] - b.scores).abs()
    return torch.where(same, apart, torch.ones_like(apart)).amin(1)


def unchecked(path: Path) -> Path:
    """The name that an exported file has until it is judged, and keeps if it loses too much: `model.unchecked.onnx`."""
    return path.with_name(f"{path.stem}.unchecked{path.suffix}")
