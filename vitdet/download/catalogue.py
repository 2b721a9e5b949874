"""The published data sets that `vitdet data get` knows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published data set."""

    name: str
    licence: str


SETS = {one.name: one for one in [Published("coco", "annotations CC BY 4.0; images under Flickr's terms")]}
