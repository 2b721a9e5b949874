"""A COCO JSON that is written anew: with other names of images, or with some of its images."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from vitdet.annotations.json_text import integer


@dataclass
class Change:
    """What is changed in a COCO JSON.

    Args:
        names: the new names of images, by their names before.
        kept: a flag for each image, in the order of the file; `None` to keep all.
    """

    names: dict[str, str] = field(default_factory=dict)
    kept: list[bool] | None = None

    def __bool__(self) -> bool:
        return bool(self.names or self.kept is not None)

    def plain(self) -> str:
        """A digest of the change."""
        text = json.dumps([sorted(self.names.items()), self.kept])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def rewritten(content: dict[str, Any], change: Change) -> dict[str, Any]:
    """A COCO JSON with a change; whatever is odd in it stays, so that who reads it finds it."""
    images = content["images"]
    flags = change.kept or [True] * len(images)
    left = [image for image, flag in zip(images, flags) if flag]
    gone = {_key(image["id"]) for image, flag in zip(images, flags) if not flag}
    for image in left:
        image["file_name"] = change.names.get(image["file_name"], image["file_name"])
    found = {**content, "images": left}
    if "annotations" in content:
        found["annotations"] = [
            item
            for item in content["annotations"]
            if not (isinstance(item, dict) and _key(item.get("image_id")) in gone)
        ]
    return found


def _key(value: Any) -> Any:
    """An id, where 7 and 7.0 are the same."""
    number = integer(value)
    return str(value) if number is None else number
