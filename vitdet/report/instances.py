"""The report of a detector or an instance model: curves, confusion, kinds of mistakes, and AP of parts of the data."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import ClassVar

import numpy as np

from vitdet.metrics.ground_truth import GroundTruth
from vitdet.pages.charts import Line, chart, hue_of
from vitdet.pages.document import bars, heat, table
from vitdet.report.album import Album
from vitdet.report.counts import (
    FLOOR,
    Curves,
    above,
    best_thresholds,
    calibration,
    confusion,
    curves,
)
from vitdet.report.examples import likely_label_errors, sure_mistakes, worst_images
from vitdet.report.matches import RECALLS, Matches, ap_by_class, match
from vitdet.report.run import Run
from vitdet.report.slices import slices
from vitdet.report.summary import title
from vitdet.structures import THRESHOLD

# so many classes get a colour in charts, and so many a row in the table of confusions
COLOURED, CONFUSED = 12, 30
SECTIONS = {
    "classes": "Classes",
    "curves": "Curves",
    "confusion": "Confusion",
    "errors": "Errors as AP lost",
    "calibration": "Calibration",
    "parts": "AP by size, shape, crowding and source",
    "worst": "Worst images",
    "labels": "Likely label errors",
    "mistakes": "Surest mistakes on labelled objects",
}
KINDS = {
    "Cls": "wrong class, right place",
    "Loc": "right class, wrong place",
    "Both": "wrong class and place",
    "Dupe": "found twice",
    "Bkg": "nothing is there",
    "Miss": "not found",
}


class InstanceReport:
    """The sections on what a detector or an instance model found.

    Args:
        truth: the ground truth.
        detections: `(D, 7)`: image, left, top, width, height (in pixels), score, class.
        images: the positions of the images that count.
        album: the images.
        run: what is known of the run; thresholds that it has not are chosen by the best F1.
        masks: the run lengths of each detection, if masks are matched instead of boxes.
    """

    sections: ClassVar[dict[str, str]] = SECTIONS

    def __init__(
        self,
        truth: GroundTruth,
        detections: np.ndarray,
        *,
        images: np.ndarray,
        album: Album,
        run: Run,
        masks: Sequence[bytes] | None = None,
    ) -> None:
        self.album, self.masks = album, None if masks is None else list(masks)
        self.matches = match(truth, detections, images=images, masks=masks)
        self.curves = curves(self.matches)
        self.rule = run.rule or "chosen by the best F1 of each class on these images"
        chosen = run.thresholds is not None and len(run.thresholds) == len(truth.names)
        self.thresholds = list(run.thresholds or ()) if chosen else best_thresholds(self.curves, THRESHOLD)
        if not chosen:
            self.rule = "chosen for this page by the best F1 of each class on these images"
        self.shown = above(self.matches, self.thresholds)

    def body(self) -> Iterator[str]:
        """All sections, as HTML."""
        yield from self._classes()
        yield from _curves(self.matches, self.curves)
        yield from self._confusion()
        yield from _errors(self.matches)
        yield from _calibration(self.matches)
        yield from slices(self.matches, self.album, self.masks)
        yield from worst_images(self.matches, self.album, self.shown, self.masks)
        yield from likely_label_errors(self.matches, self.album, self.masks, self.shown)
        yield from sure_mistakes(self.matches, self.album, self.masks)

    def _classes(self) -> Iterator[str]:
        yield title("classes", "Classes")
        rule = f"the threshold of each class, {escape(self.rule)}"
        yield f"<p class=dim>Precision, recall and F1 at IoU 0.5 and {rule}.</p>"
        truth, ap = self.matches.truth, ap_by_class(self.matches)
        totals = np.bincount(truth.label[self.matches.objects], minlength=len(truth.names))
        rows = []
        for k, name in enumerate(truth.names):
            part = (self.matches.label == k) & self.shown & self.matches.counted[0]
            right, found = int((self.matches.found[0][part] >= 0).sum()), int(part.sum())
            precision, recall = _ratio(right, found), _ratio(right, int(totals[k]))
            f1 = _ratio(2 * right, found + int(totals[k]))
            scores = [None if np.isnan(ap[0, k]) else float(value) for value in (ap[:, k].mean(), ap[0, k], ap[5, k])]
            rows.append((name, int(totals[k]), *scores, float(self.thresholds[k]), precision, recall, f1))
        heads = ["class", "objects", "AP", "AP50", "AP75", "threshold", "precision", "recall", "F1"]
        yield table(heads, rows, caption="Scores of each class")

    def _confusion(self) -> Iterator[str]:
        yield title("confusion", "Confusion")
        names, counts = self.matches.truth.names, confusion(self.matches, self.shown, self.masks)
        kept = np.arange(len(names))
        if len(names) > CONFUSED:
            off = counts.copy()
            np.fill_diagonal(off, 0)
            # mistakes between classes, not those with nothing, which every class has
            mixed = off[:-1, :-1].sum(1) + off[:-1, :-1].sum(0)
            kept = np.sort(np.argsort(-mixed, kind="stable")[:CONFUSED])
            yield f"<p class=dim>The {CONFUSED} of {len(names)} classes that are confused most.</p>"
        places = [*kept.tolist(), len(names)]
        shown = [names[k] for k in kept.tolist()]
        table = counts[np.ix_(places, places)].tolist()
        yield (
            "<p class=dim>Rows are what is in the images, columns what was found, at IoU 0.5 and above the thresholds "
            "of the classes.</p>"
        )
        yield heat([*shown, "nothing there"], [*shown, "not found"], table, caption="Confusion of the classes")


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _curves(matches: Matches, found: Curves) -> Iterator[str]:
    yield title("curves", "Curves")
    names = matches.truth.names
    totals = np.bincount(matches.truth.label[matches.objects], minlength=len(names))
    present = np.flatnonzero(totals)
    coloured = set(np.argsort(-totals, kind="stable")[:COLOURED].tolist())
    if len(present) > COLOURED:
        yield f"<p class=dim>The {COLOURED} classes with the most objects are coloured; the black line is the mean.</p>"
    values = {
        "Precision and recall, IoU 0.5": (RECALLS, _precision(matches, totals), "recall", "precision"),
        "F1": (found.steps, found.f1, "score", "F1"),
        "Precision": (found.steps, found.precision, "score", "precision"),
        "Recall": (found.steps, found.recall, "score", "recall"),
    }
    yield "<div class=charts>"
    for name, (x, rows, across, upwards) in values.items():
        lines = [
            Line(
                names[k],
                x,
                rows[k],
                hue_of(k) if k in coloured else None,
                "" if k in coloured else "faint",
                k in coloured,
            )
            for k in present.tolist()
        ]
        note = ""
        if len(present) > 1:
            some = rows[present]
            # above the highest score there is no precision
            there = np.isfinite(some).any(0)
            mean = np.full(len(x), np.nan)
            mean[there] = np.nanmean(some[:, there], axis=0)
            lines.append(Line("mean", x, mean, None, "strong"))
            if name == "F1":
                note = f"The mean is best at a score of {x[np.nanargmax(mean)]:.2f}: {np.nanmax(mean):.3f}."
        yield chart(name, lines, x=across, y=upwards, x_range=(0, 1), y_range=(0, 1), note=note)
    yield "</div>"


def _precision(matches: Matches, totals: np.ndarray) -> np.ndarray:
    """The precision of each class at each of COCO's levels of recall, at IoU 0.5."""
    rows = np.full((len(totals), len(RECALLS)), np.nan)
    for k in np.flatnonzero(totals).tolist():
        part = (matches.label == k) & matches.counted[0]
        hits = np.cumsum(matches.found[0][part] >= 0)
        precision = hits / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits / totals[k], RECALLS, side="left")
        rows[k] = np.where(places < len(hits), np.append(precision, 0)[np.minimum(places, len(hits))], 0)
    return rows


def _errors(matches: Matches) -> Iterator[str]:
    yield title("errors", "Errors as AP lost")
    if matches.evaluator is None or not matches.objects.any():
        yield "<p class=dim>Nothing was found, or nothing is there to be found.</p>"
        return
    found = matches.evaluator.tide_errors(pos_thr=0.5, bg_thr=0.1)
    yield (
        f"<p class=dim>How much AP50, which is {found['ap_base']:.3f}, would gain without the errors of a kind alone "
        "(TIDE, arXiv:2008.08115). The gains do not add up to what is missing. Detections of any score count.</p>"
    )
    rows = sorted(
        ((name, found["delta_ap"][key], found["counts"][key]) for key, name in KINDS.items()), key=lambda r: -r[1]
    )
    yield bars((name, gain, f"{gain:.3f} <small>{count:,} times</small>") for name, gain, count in rows)


def _calibration(matches: Matches) -> Iterator[str]:
    yield title("calibration", "Calibration")
    found = calibration(matches)
    if not len(found.count):
        yield "<p class=dim>No detection has a score to speak of.</p>"
        return
    yield (
        f"<p class=dim>A score of 0.8 should be right 8 of 10 times. The mean distance (ECE) is "
        f"<b>{found.error:.3f}</b> over {int(found.count.sum()):,} detections with a score from {FLOOR}, "
        "at IoU 0.5.</p><div class=charts>"
    )
    lines = [
        Line("perfect", np.array([0.0, 1.0]), np.array([0.0, 1.0]), None, "faint"),
        Line("this model", found.score, found.precision, 215, "strong"),
    ]
    yield chart("How often a score is right", lines, x="score", y="right", x_range=(0, 1), y_range=(0, 1))
    rows = zip(found.score.tolist(), found.precision.tolist(), found.count.astype(int).tolist())
    yield table(["mean score", "right", "detections"], rows, caption="Calibration in ten bins of the score") + "</div>"
