"""What the metadata of an exported model say about it: read and checked."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitdet.data.transforms import EvalTransform
from vitdet.deploy.engines.base import EngineError
from vitdet.errors import short

# the key of the metadata in the file, and the newest format that this vitdet reads
KEY, FORMAT = "vitdet", 1
KINDS = ("boxes", "masks", "semantic", "panoptic")


@dataclasses.dataclass(frozen=True)
class Description:
    """What an exported model says about itself.

    Attributes:
        predicts: what is predicted and scored: `boxes`, `masks`, `semantic` or `panoptic`, see `Head.predicts`.
        classes: class names, indexed by label.
        category_ids: ids of the classes in the data set, indexed by label.
        transform: what is done to an image before the graph sees it.
        preprocessing: whether the graph takes images of 8 bits, and normalises them itself.
        thresholds: the lowest score of a detection that counts, indexed by label.
        entries: all of the metadata, with those that only some models have.
    """

    predicts: str
    classes: list[str]
    category_ids: list[int]
    transform: EvalTransform
    preprocessing: bool
    thresholds: list[float] | None
    entries: Mapping[str, Any]

    @classmethod
    def read(cls, text: str | None, path: str | Path) -> "Description":
        """Reads the metadata `text` of the file `path`.

        Raises:
            EngineError: there is none, or it does not describe a model as this vitdet expects.
        """
        if text is None:
            raise EngineError(
                f"{path} was not exported by vitdet, it has no metadata {KEY!r}; wanted a file that "
                "`vitdet export` wrote, or run it with its engine's own library"
            )
        try:
            entries = json.loads(text)
            version = entries["format"]
            if version > FORMAT:
                raise EngineError(f"{path} has format {version}, this vitdet reads {FORMAT}: update vitdet")
            thresholds = entries.get("thresholds")
            thresholds = thresholds["values"] if isinstance(thresholds, dict) else thresholds
            found = cls(
                predicts=entries["kind"],
                classes=[str(name) for name in entries["classes"]],
                category_ids=[int(number) for number in entries["category_ids"]],
                transform=EvalTransform(**entries["eval_transform"]),
                preprocessing=bool(entries.get("preprocessing")),
                thresholds=None if thresholds is None else [float(value) for value in thresholds],
                entries=entries,
            )
            if not isinstance(entries["decode"], dict):
                raise ValueError("decode is no mapping")
            if found.predicts not in KINDS or len(found.classes) != len(found.category_ids):
                raise ValueError(
                    f"kind {found.predicts!r}, {len(found.classes)} classes, {len(found.category_ids)} ids"
                )
        except EngineError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            reason = short(error.args[0] if error.args else error, 120)
            raise EngineError(
                f"the metadata {KEY!r} of {path} are damaged ({reason}); export the model again"
            ) from error
        return found

    @property
    def kind(self) -> str:
        """What kind of labels it was trained on: `instances`, `semantic` or `panoptic`."""
        return self.predicts if self.predicts in ("semantic", "panoptic") else "instances"
