"""The files of a split, of each kind of data."""

from dataclasses import dataclass


@dataclass
class Split:
    """The files of a split with COCO annotations of instances.

    Args:
        images: the folder of the images, to which the file names in `annotations` are relative; like the file, on disk
            or at an address such as `s3://bucket/images`.
        annotations: the COCO JSON file.
        weight: how often an epoch draws each image of the file, on average; for training alone.

    Example:
        >>> Split("coco/val2017", "coco/annotations/instances_val2017.json").images
        'coco/val2017'
    """

    images: str
    annotations: str
    weight: float = 1.0


@dataclass
class PanopticSplit:
    """The files of a split with COCO panoptic annotations.

    Args:
        images: the folder of the images, to which the file names in `annotations` are relative.
        annotations: the COCO panoptic JSON file.
        segments: the folder of the PNGs that belong to `annotations`.
        weight: how often an epoch draws each image of the file, on average; for training alone.
    """

    images: str
    annotations: str
    segments: str
    weight: float = 1.0


@dataclass
class SemanticSplit:
    """The files of a split with semantic label maps.

    Args:
        images: the folder of the images.
        labels: the folder of the label maps, whose names match those of the images.
        files: a text file that names the pairs of the split, a line each, without suffixes; by default all pairs
            belong to it.
        weight: how often an epoch draws each image of the folder, on average; for training alone.
    """

    images: str
    labels: str
    files: str | None = None
    weight: float = 1.0
