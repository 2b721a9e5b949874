"""The pictures of a report on a detector: the worst images, the surest mistakes, and likely errors of the labels."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from vitdet.pages.document import data_uri, image, pair
from vitdet.report.album import RIGHT, WRONG, Album, Shown, crop, picture
from vitdet.report.counts import FLOOR, MOST, Mistake, mistakes, unseen
from vitdet.report.matches import Matches, lost_ap
from vitdet.report.summary import title

# how many of each are shown
WORST, SURE, SUSPECTS = 12, 12, 12
# in pictures with more objects only those that were missed or are wrong are named
NAMED = 25
# how sure a model must be for an error of the labels to be likely
SURE_SCORE = 0.5
# the kinds of mistakes that may be those of the labels
CONTRADICTIONS = ("background", "class")


def worst_images(matches: Matches, album: Album, shown: np.ndarray, masks: list[bytes] | None) -> Iterator[str]:
    """The images whose mistakes cost the most AP, with their truth beside what was found.

    Args:
        matches: what was found.
        album: the images.
        shown: `(D,)` bool, the detections that are drawn.
        masks: the run lengths of all detections, if masks are matched.
    """
    yield title("worst", "Worst images")
    losses = lost_ap(matches)
    yield (
        "<p class=dim>By the AP that their mistakes cost: what AP would gain if this image alone were perfect. "
        "<b>Blue</b> agrees with the labels at IoU 0.5, <b>orange</b> was missed (left) or is wrong (right). "
        "Detections above the thresholds of their classes are drawn.</p><div class=pairs>"
    )
    for i, loss in list(losses.items())[:WORST]:
        yield _pair(matches, album, i, loss, shown, masks)
    yield "</div>"


def _pair(matches: Matches, album: Album, i: int, loss: float, shown: np.ndarray, masks: list[bytes] | None) -> str:
    place = album.position(int(matches.truth.image_ids[i]))
    pixels = album.image(place)
    detections = np.flatnonzero((matches.image == i) & shown & matches.counted[0])
    objects = np.flatnonzero((matches.truth.image == i) & matches.objects)
    right = matches.found[0][detections] >= 0
    missed = ~np.isin(objects, matches.found[0][detections])
    wrong = int((~right).sum())
    counts = f"{len(objects) - missed.sum()} of {len(objects)} found, {wrong} wrong"
    text = f"{album.name(place)}: costs {loss:.4f} AP; {counts}"
    if pixels is None:
        return f"<figure class=pair><figcaption>{escape(text)}; the image can't be read</figcaption></figure>"
    crowded = max(len(objects), len(detections)) > NAMED
    left = [
        _object(matches, row, lost, named=lost or not crowded) for row, lost in zip(objects.tolist(), missed.tolist())
    ]
    found = [
        _detection(matches, n, masks, hit, named=not hit or not crowded)
        for n, hit in zip(detections.tolist(), right.tolist())
    ]
    # mistakes on top
    sides = [sorted(side, key=lambda one: one.colour != WRONG) for side in (left, found)]
    sources = [data_uri(picture(pixels, side)) for side in sides]
    names = ("labels", f"{len(objects)} labelled objects"), ("found", f"{len(detections)} detections")
    return pair(((source, head, f"{album.name(place)}: {what}") for source, (head, what) in zip(sources, names)), text)


def _object(matches: Matches, row: int, missed: bool, *, named: bool = True) -> Shown:
    truth = matches.truth
    mask = truth.rles[row] if truth.rles else None
    text = truth.names[truth.label[row]] if named else ""
    return Shown(truth.boxes_xywh[row], text, WRONG if missed else RIGHT, mask)


def _detection(matches: Matches, n: int, masks: list[bytes] | None, right: bool, *, named: bool = True) -> Shown:
    text = f"{matches.truth.names[matches.label[n]]} {matches.score[n]:.2f}" if named else ""
    return Shown(matches.boxes_xywh[n], text, RIGHT if right else WRONG, _code(matches, n, masks))


def _code(matches: Matches, n: int, masks: list[bytes] | None) -> Any:
    size = matches.truth.sizes[matches.image[n]].tolist()
    return None if masks is None else {"size": size, "counts": masks[matches.rows[n]]}


def likely_label_errors(matches: Matches, album: Album, masks: list[bytes] | None, shown: np.ndarray) -> Iterator[str]:
    """Where the model contradicts the labels and is sure: objects without a label, with another class, or not there.

    Args:
        matches: what was found.
        album: the images.
        masks: the run lengths of all detections, if masks are matched.
        shown: `(D,)` bool, the detections above the thresholds of their classes.
    """
    yield title("labels", "Likely label errors")
    wrong = mistakes(matches, masks, floor=SURE_SCORE)
    sure = [one for one in wrong if one.kind in CONTRADICTIONS and shown[one.detection]]
    absent = unseen(matches, masks)
    if not sure and not absent:
        yield "<p class=dim>The model contradicts no label with a score of at least 0.5.</p>"
        return
    counts = [sum(one.kind == kind for one in sure) for kind in CONTRADICTIONS]
    more = " or more" if max(len(wrong), len(absent)) >= MOST else ""
    yield (
        f"<p class=dim>{counts[0]}{more} sure detections (orange) where nothing is labelled, {counts[1]} of another "
        f"class than the label (blue), and {len(absent)} labelled (orange) where the model sees nothing. "
        "Each may be the model's mistake or the label's.</p>"
    )
    few = absent[: SUSPECTS // 3]
    yield from _crops(matches, album, masks, [*sure[: SUSPECTS - len(few)], *few])


def sure_mistakes(matches: Matches, album: Album, masks: list[bytes] | None) -> Iterator[str]:
    """The other wrong detections with the highest scores: those of objects that are labelled."""
    yield title("mistakes", "Surest mistakes on labelled objects")
    found = [one for one in mistakes(matches, masks, floor=FLOOR) if one.kind not in CONTRADICTIONS][:SURE]
    if not found:
        yield "<p class=dim>There is none.</p>"
        return
    yield (
        "<p class=dim>Wrong detections with the highest scores (orange), and the object that they are nearest to "
        "(blue): found twice, or at the wrong place.</p>"
    )
    yield from _crops(matches, album, masks, found)


def _crops(matches: Matches, album: Album, masks: list[bytes] | None, found: Sequence[Mistake]) -> Iterator[str]:
    yield "<div class=crops>"
    for one in found:
        place = album.position(int(matches.truth.image_ids[one.image]))
        pixels, text = album.image(place), _text(matches, one)
        if pixels is None:
            continue
        objects = []
        if one.annotation >= 0:
            objects.append(_object(matches, one.annotation, one.kind == "unseen"))
        if one.detection >= 0:
            objects.insert(0, _detection(matches, one.detection, masks, False))
        source = data_uri(crop(pixels, objects[0].box_xywh, objects), quality=75)
        caption = f"{escape(text)}<br>{escape(album.name(place))}"
        yield f"<figure class=crop>{image(source, text)}<figcaption>{caption}</figcaption></figure>"
    yield "</div>"


def _text(matches: Matches, one: Mistake) -> str:
    truth = matches.truth
    label = truth.names[truth.label[one.annotation]] if one.annotation >= 0 else ""
    if one.detection < 0:
        return f"{label}: labelled, and nothing is seen there"
    found = f"{truth.names[matches.label[one.detection]]} {matches.score[one.detection]:.2f}"
    return {
        "background": f"{found}: nothing is labelled there",
        "class": f"{found}: labelled {label}, IoU {one.iou:.2f}",
        "place": f"{found}: IoU {one.iou:.2f} with its object",
        "class and place": f"{found}: near {label}, IoU {one.iou:.2f}",
        "twice": f"{found}: that object was found with a higher score",
    }[one.kind]
