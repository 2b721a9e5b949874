"""Published models by name: architecture, mapping of tensor names, licence and score."""

import difflib
from pathlib import Path

from vitdet.checkpoint import CheckpointError
from vitdet.download.files import DownloadError
from vitdet.model_folder import is_shared
from vitdet.zoo import deimv2, eomt, eomt_dinov3, lw_detr, rf_detr
from vitdet.zoo.cards import Card
from vitdet.zoo.start import architecture, start

CARDS = {card.name: card for card in [*rf_detr.CARDS, *lw_detr.CARDS, *deimv2.CARDS, *eomt.CARDS, *eomt_dinov3.CARDS]}


def find(name: str) -> Card:
    """Returns the card of a published model.

    Raises:
        CheckpointError: there is no published model with this name.
    """
    if name not in CARDS:
        near = difflib.get_close_matches(name, CARDS, 3, 0.4)
        raise CheckpointError(
            f"there is no published model {name!r}, nor a file; "
            f"{'near it: ' + ', '.join(near) if near else 'vitdet zoo lists them'}"
        )
    return CARDS[name]


def of(name: str, file: str | None = None) -> tuple[Card | None, str | None]:
    """Resolves `name`, the name of a published model, the path of a checkpoint, or a shared model.

    Args:
        name: the name or path.
        file: a file with the weights of the published model, if given.

    Returns:
        The card and `file` for a published model, or `None` and the path for a checkpoint.

    Raises:
        CheckpointError: `name` is neither a published model nor a checkpoint.
    """
    if name in CARDS:
        return CARDS[name], file
    if file is not None or not (Path(name).suffix or Path(name).exists() or is_shared(name)):
        # raises an error that suggests similar names
        find(name)
    return None, name


__all__ = ["CARDS", "Card", "CheckpointError", "DownloadError", "architecture", "find", "of", "start"]
