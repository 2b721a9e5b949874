"""What was recognised in a folder of labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vitdet.data.splits import PanopticSplit, SemanticSplit, Split
from vitdet.errors import UserError

if TYPE_CHECKING:
    from vitdet.data.sets import CocoData, PanopticData, SemanticData

Kind = Literal["instances", "panoptic", "semantic"]
AnySplit = Split | PanopticSplit | SemanticSplit
# the data module of each kind of labels
MODULES = {"instances": "CocoData", "panoptic": "PanopticData", "semantic": "SemanticData"}


@dataclass(frozen=True)
class Found:
    """A folder of labelled images, as the arguments of a data module.

    Args:
        layout: the name of the layout, such as `YOLO`.
        kind: the kind of the labels.
        splits: the files of `train`, `val` and `test`, as far as they are there.
        options: more arguments of the data module, such as the classes of label maps.
        lines: what was recognised, a line each: layout, splits, classes, kind, and what was left alone.
        source: the files that it was recognised by.
        applied: whether the splits hold what the user gave of them.

    Example:
        >>> found = Found("COCO", "instances", {"train": Split("train", "train.json")})
        >>> found.module.__name__, list(found.arguments)
        ('CocoData', ['train'])
    """

    layout: str
    kind: Kind
    splits: Mapping[str, AnySplit]
    options: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    source: str = ""
    applied: bool = False

    @property
    def module(self) -> "type[CocoData] | type[PanopticData] | type[SemanticData]":
        """The class of the data module that reads these labels."""
        # imported here, because it takes seconds, and a folder is also looked into where no data module is needed
        from vitdet.data import sets

        return getattr(sets, MODULES[self.kind])

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the data module."""
        return {**self.splits, **self.options}


@dataclass(frozen=True)
class Fault:
    """Labels that are there, and why they can't be used.

    Args:
        layout, kind: see `Found`.
        error: the reason.
        absent: whether it is that the files that belong to them are not there.
    """

    layout: str
    kind: Kind
    error: UserError
    absent: bool = False

    @property
    def source(self) -> str:
        return str(self.error)


def class_line(names: list[str]) -> str:
    """The number of classes, and the first of their names."""
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"classes: {len(names)} ({shown})"
