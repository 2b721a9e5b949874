"""The exchange between backbone, head and data before they work together, and checks that they fit each other."""

from dataclasses import dataclass
from typing import Any

from vitdet.errors import UserError

# which data and heads fit a kind of labels, for messages
DATA = {"instances": "CocoData", "semantic": "SemanticData", "panoptic": "PanopticData"}
HEADS = {
    "instances": "DETRHead or MaskDecoderHead",
    "semantic": "SemanticHead or MaskDecoderHead",
    "panoptic": "MaskDecoderHead or EoMTHead",
}


@dataclass(frozen=True)
class Labels:
    """The labels of the data, which the head receives.

    Attributes:
        kind: `"instances"`, `"semantic"` or `"panoptic"`.
        classes: the class names, indexed by label.
        things: whether each class is a thing (countable), indexed by label.
    """

    kind: str
    classes: tuple[str, ...]
    things: tuple[bool, ...]


@dataclass(frozen=True)
class Needs:
    """What a backbone needs of images and a head of targets, which the data receives.

    Attributes:
        mean, std: mean and standard deviation of the RGB values in [0, 1], by which images are normalised.
        patch_size: the side of a patch in pixels.
        canvas: the side in pixels of the square that all images are padded to; `None` where they keep their sizes.
        masks: whether targets need masks.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch_size: int
    canvas: int | None = None
    masks: bool = False


def agree(backbone: Any, head: Any, data: Any) -> tuple[Labels, Needs]:
    """Returns the labels, for the head, and the needs of backbone and head, for the data.

    Raises:
        UserError: backbone, head and data do not fit each other.
    """
    check_features(backbone, head)
    check_labels(head, data.kind)
    return Labels(data.kind, tuple(data.classes), tuple(data.things)), needs(backbone, head)


def needs(backbone: Any, head: Any) -> Needs:
    """Returns what backbone and head need of the data."""
    # a backbone that the user has written may have no `canvas`
    canvas = getattr(backbone, "canvas", None)
    return Needs(tuple(backbone.mean), tuple(backbone.std), backbone.patch_size, canvas, head.needs_masks)


def check_features(backbone: Any, head: Any) -> None:
    """Checks that the head fits the features of the backbone.

    Raises:
        UserError: it does not.
    """
    tail, name = getattr(getattr(backbone, "trunk", None), "tail", 0), type(head).__name__
    if head.runs_tail and (not tail or backbone.neck is not None):
        raise UserError(f"{name} runs the backbone's last blocks: set model.backbone.tail (3 or 4) and neck: null")
    if tail and not head.runs_tail:
        raise UserError(
            f"model.backbone.tail is {tail}, so the ViT's last blocks are left to the head, and {name} does not run "
            "them: set it to 0"
        )
    made = list(backbone.out_channels)
    if made != head.in_channels:
        raise UserError(
            f"{name} was made for features of {head.in_channels} channels, the backbone gives {made}; make it from "
            "backbone.out_channels and .strides"
        )


def check_labels(head: Any, kind: str) -> None:
    """Checks that the head can learn from labels of this kind.

    Raises:
        UserError: it can't.
    """
    name = type(head).__name__
    if head.kinds and kind not in head.kinds:
        task = head.init_args.get("task")
        if task in head.kinds:
            raise UserError(
                f"task is {task}, but the data is {kind}: leave model.head.task out, and it follows the data"
            )
        raise UserError(
            f"{name} learns from data of {' or '.join(head.kinds)}, and this is {kind}: choose {DATA[head.kinds[0]]}, "
            f"or for this data model.head {HEADS[kind]}"
        )
    if kind == "semantic" and not head.needs_masks:
        raise UserError(
            f"semantic labels have no boxes, which is all that {name} learns from: choose model.head SemanticHead or "
            "MaskDecoderHead"
        )
