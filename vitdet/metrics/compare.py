"""What got better from one model to another, and whether the difference is more than the choice of images explains.

Both models are scored on the same images; these are drawn again with replacement many times, the same ones for both,
and each score is computed anew. The middle 95 % of the differences is the interval of confidence: if it holds no 0, the
difference is beyond noise. I is the number of images, D of detections and R of draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from vitdet.errors import UserError, check
from vitdet.metrics.average_precision import ABSENT, average_precision
from vitdet.metrics.bootstrap import AREAS, Flags, draws, flags, resampled
from vitdet.metrics.ground_truth import GroundTruth
from vitdet.ranges import whole

# the shares of the differences below and above which the interval does not reach
TAILS = (2.5, 97.5)


@dataclass
class Found:
    """The detections of a model.

    Attributes:
        name: what the model is called.
        rows: `(D, 7)`: image 0..I-1, left, top, width, height in pixels, score, class 0..K-1.
        masks: the compressed run lengths of each detection, if masks are scored.
    """

    name: str
    rows: np.ndarray
    masks: Sequence[bytes] | None = None


@dataclass
class Difference:
    """A score of two models.

    Attributes:
        name: the score.
        first, second: its values, -1 where there is no such object.
        low, high: the interval of 95 % confidence of the second less the first; NaN where there is none.
    """

    name: str
    first: float
    second: float
    low: float
    high: float

    @property
    def change(self) -> float:
        """The second less the first."""
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """Whether the second is better or worse beyond noise."""
        if ABSENT in (self.first, self.second):
            return "none"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "within noise"


def compare(
    truth: GroundTruth,
    first: Found,
    second: Found,
    *,
    images: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
    max_dets: int = 100,
) -> list[Difference]:
    """The AP of two models, overall, at IoU 0.50 and 0.75, by size, and by class, with intervals of confidence.

    Args:
        truth: the ground truth.
        first, second: what two models have found.
        images: the positions of the images to score, by default all.
        resamples: R, how often the images are drawn again.
        seed: the seed of the draws.
        max_dets: the number of detections of an image and a class that count.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl` and `AP/<class name>`.

    Raises:
        UserError: there are no images, or `resamples` or `seed` is no such number.
    """
    for name, value, least in (("resamples", resamples, 1), ("seed", seed, 0)):
        ok, wanted = whole(least)
        check(name, value, ok(value), wanted)
    images = np.arange(len(truth)) if images is None else np.asarray(images)
    if not len(images) or not truth.names:
        raise UserError("there is nothing to compare: no images, or no classes")
    weights = draws(images, len(truth), count=resamples, seed=seed)
    options = {"images": images, "max_dets": max_dets}
    values, samples = [], []
    for found in (first, second):
        values.append(average_precision(truth, found.rows, masks=found.masks, **options))
        samples.append(_samples(truth, flags(truth, found.rows, masks=found.masks, **options), weights))
    made = []
    for name in samples[0]:
        change = samples[1][name] - samples[0][name]
        change = change[np.isfinite(change)]
        low, high = np.percentile(change, TAILS) if len(change) else (np.nan, np.nan)
        made.append(Difference(name, values[0][name], values[1][name], float(low), float(high)))
    return made


def _samples(truth: GroundTruth, made: dict[tuple[str, int], Flags], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The scores by name in each draw, `(R,)`, NaN where a draw has no such object."""
    by_area = {name: [] for name in AREAS}
    for (name, _), one in made.items():
        by_area[name].append(resampled(one, weights))
    # (K, R, T)
    stacks = {name: np.stack(aps) for name, aps in by_area.items()}
    every = stacks[""]
    scores = {"AP": _mean(every), "AP50": _mean(every[..., :1]), "AP75": _mean(every[..., 5:6])}
    scores |= {f"AP{name}": _mean(stacks[name]) for name in AREAS if name}
    return scores | {key: every[k].mean(1) for k, key in enumerate(truth.keys())}


def _mean(aps: np.ndarray) -> np.ndarray:
    """The mean over the classes that a draw has, and the IoUs, `(R,)`."""
    there = np.isfinite(aps[..., 0])
    total = np.where(there, np.nan_to_num(aps).mean(2), 0).sum(0)
    return np.where(there.any(0), total / np.maximum(there.sum(0), 1), np.nan)


def print_comparison(
    differences: Sequence[Difference], first: str, second: str, protocol: str, console: Console | None = None
) -> None:
    """Print a table of the differences, classes last and the most changed first, and what they come to."""
    console = console or Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    table = Table("score", "A", "B", "B - A", "95 % of B - A", "")
    classes = sorted((one for one in differences if "/" in one.name), key=lambda one: -abs(one.change))
    for group in ([one for one in differences if "/" not in one.name], classes):
        for one in group:
            numbers = (_shown(one.first), _shown(one.second))
            known = one.verdict != "none"
            interval = f"{one.low:+.4f} to {one.high:+.4f}" if known else ""
            table.add_row(one.name, *numbers, f"{one.change:+.4f}" if known else "", interval, one.verdict)
        table.add_section()
    console.print(f"A: {first}\nB: {second}", markup=False)
    console.print(table)
    console.print(protocol, markup=False)
    main = differences[0]
    clear = sum(one.verdict in ("better", "worse") for one in classes)
    if clear:
        chance = f"of {len(classes)} classes, about {0.05 * len(classes):.1f} would by chance alone"
        console.print(f"{clear} of the classes differ beyond noise; {chance}", markup=False)
    if main.low == main.high == 0:
        text = "Both have the same AP in every draw."
    elif main.verdict == "none":
        text = "there is nothing to find in these images, so neither is better"
    elif main.verdict == "within noise":
        text = f"The difference of {main.change:+.4f} AP is within noise: other images could turn it round."
    else:
        text = f"B is {main.verdict} by {abs(main.change):.4f} AP, beyond noise."
    console.print(text, markup=False)


def _shown(value: float) -> str:
    return "none" if value == ABSENT else f"{value:.4f}"
