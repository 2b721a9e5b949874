"""Where images were read before; see `vitdet.images`."""

from vitdet.images import ImageError, load_image, resolve

__all__ = ["ImageError", "load_image", "resolve"]
