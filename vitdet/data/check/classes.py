"""Findings about classes and objects: unknown, never seen, rare, in other shares than in train, too many, too small."""

from collections.abc import Callable, Sequence

import numpy as np

from vitdet.data.check.content import NO_CLASS, Content
from vitdet.data.check.finding import Example, Findings

# a class with fewer objects than this is rare
FEW = 10
Size = tuple[float, float]


def check_classes(content: Content, findings: Findings, *, trained: bool) -> None:
    """Findings about classes that no annotation has, or annotations whose class is unknown.

    Args:
        content: the split.
        findings: where they go.
        trained: whether it is the split to train on, which should have objects of all classes.
    """
    objects, split = content.objects, content.split
    counts = class_counts(content)
    if not content.classes or not len(content):
        return
    if content.kind != "semantic":
        _check_unknown(content, counts, findings)
    if not len(objects):
        findings.note("no-objects", split, [Example(f"{len(content)} images, no annotation")])
        return
    if objects.crowd.all():
        findings.note("crowd-all", split, [content.object_example(row) for row in range(min(len(objects), 3))], count=1)
    with_objects = set(objects.image[objects.label != NO_CLASS].tolist())
    if content.kind != "semantic":
        empty = [content.image_example(i) for i in range(len(content)) if i not in with_objects]
        findings.note("image-without-objects", split, empty, of=len(content))
    if trained:
        names = [Example(name) for name, count in zip(content.classes, counts) if not count]
        findings.note("class-unseen", split, names, of=len(counts))
        rare = [Example(f"{name}: {count}") for name, count in zip(content.classes, counts) if 0 < count < FEW]
        findings.note("class-rare", split, rare if content.kind != "semantic" else [], of=len(counts))


def class_counts(content: Content) -> np.ndarray:
    """`(K,)`: how many objects each class has."""
    label = content.objects.label
    return np.bincount(label[label != NO_CLASS], minlength=len(content.classes))


def _check_unknown(content: Content, counts: np.ndarray, findings: Findings) -> None:
    objects = content.objects
    rows = np.flatnonzero(objects.label == NO_CLASS)
    ids = sorted(set(objects.raw_label[rows].tolist()))
    low, high = content.class_ids[0], content.class_ids[-1]
    below, above = ids == [low - 1] and not counts[-1], ids == [high + 1] and not counts[0]
    code = "class-off-by-one" if len(counts) > 1 and (below or above) else "class-unknown"
    detail = f"{', '.join(map(str, ids[:6]))}{' …' if len(ids) > 6 else ''}; the classes are {low} to {high}"
    examples = [content.object_example(row, f"category_id {objects.raw_label[row]}") for row in rows[:200].tolist()]
    findings.note(code, content.split, examples, count=len(rows), of=len(objects), detail=detail)


def compare_classes(contents: Sequence[Content], findings: Findings) -> None:
    """Findings about classes that differ between splits, by name, number or share."""
    first = next((content for content in contents if content.split.split()[0] == "train"), None)
    for content in contents:
        if first is None or content is first or not content.classes:
            continue
        pair, known = f"train, {content.split}", set(first.classes)
        # the same class may have another number in each file
        wrong = [Example(f"{i}: {name!r}") for i, name in zip(content.class_ids, content.classes) if name not in known]
        findings.note("classes-differ", pair, wrong, of=len(content.classes))
        if not wrong and len(first.objects) and len(content.objects):
            _compare_shares(first, content, pair, findings)


def _compare_shares(first: Content, content: Content, pair: str, findings: Findings) -> None:
    names = list(dict.fromkeys(first.classes))
    train, here = (np.zeros(len(names), np.int64) for _ in range(2))
    for counts, of in ((train, first), (here, content)):
        np.add.at(counts, [names.index(name) for name in of.classes], class_counts(of))
    only = [Example(f"{name}: {b}") for name, a, b in zip(names, train, here) if b and not a]
    findings.note("class-only-here", pair, only, of=len(names))
    shares = [counts / max(counts.sum(), 1) for counts in (train, here)]
    pooled = (train + here) / max((train + here).sum(), 1)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / max(train.sum(), 1) + 1 / max(here.sum(), 1)))
    # objects of an image are alike, so that differences must be larger than those of a draw of single objects
    clear = np.abs(shares[0] - shares[1]) > 4 * spread
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = shares[1] / shares[0]
    much = clear & ((ratio > 2) | (ratio < 1 / 2)) & (train > 0)
    texts = [f"{names[k]}: {shares[0][k]:.1%} in train, {shares[1][k]:.1%} here" for k in np.flatnonzero(much)]
    findings.note("class-shift", pair, [Example(text) for text in texts], of=len(names))


def check_fit(
    content: Content, size: Callable[[int, int], tuple[int, int]], patch: int, queries: int | None, findings: Findings
) -> None:
    """Findings about the model: boxes smaller than a patch, more objects than queries.

    Args:
        content: the split.
        size: the height and width at which the model sees an image of a height and width.
        patch: the side of a patch in pixels.
        queries: how many objects the model can find in an image, if that is limited.
        findings: where they go.
    """
    if content.kind == "semantic" or not len(content.objects):
        return
    tokens = box_tokens(content, size, patch)
    small = np.flatnonzero(tokens < 1)
    share = len(small) / max(np.isfinite(tokens).sum(), 1)
    few = [
        content.object_example(row, f"{tokens[row]:.2f} patches") for row in small[:: max(1, len(small) // 50)].tolist()
    ]
    detail = f"{share:.{0 if share >= 0.01 else 2}%}, at patches of {patch} pixels"
    severity = "warning" if share >= 0.25 else None
    findings.note(
        "box-below-patch", content.split, few, count=len(small), of=len(tokens), detail=detail, severity=severity
    )
    if queries is not None:
        counts = np.bincount(content.objects.image[~content.objects.crowd], minlength=len(content))
        many = np.flatnonzero(counts > queries)
        examples = [content.image_example(i, f"{counts[i]} objects, {queries} queries") for i in many.tolist()]
        findings.note("too-many-objects", content.split, examples, of=len(content))


def box_tokens(content: Content, size: Callable[[int, int], tuple[int, int]], patch: int) -> np.ndarray:
    """`(A,)`: how many patches the box of each object covers where the model sees it; NaN where there is none."""
    sizes = content.sizes()
    scales = np.full((len(content), 2), np.nan)
    for i, (width, height) in enumerate(sizes.astype(int).tolist()):
        if width and height:
            h, w = size(height, width)
            scales[i] = w / width, h / height
    sides = content.objects.boxes_xywh[:, 2:] * scales[content.objects.image]
    with np.errstate(invalid="ignore"):
        sides[~(sides > 0)] = np.nan
    return sides[:, 0] * sides[:, 1] / patch**2
