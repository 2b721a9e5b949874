"""Published models: name -> architecture, key map, licence, score."""

import difflib
from pathlib import Path

from vitdet.checkpoint import CheckpointError
from vitdet.zoo import deimv2, eomt, eomt_dinov3, lw_detr, rf_detr
from vitdet.zoo.cards import Card
from vitdet.zoo.download import DownloadError
from vitdet.zoo.start import architecture, start

CARDS = {card.name: card for card in [*rf_detr.CARDS, *lw_detr.CARDS, *deimv2.CARDS, *eomt.CARDS, *eomt_dinov3.CARDS]}


def find(name: str) -> Card:
    """The card of that name.

    Raises:
        CheckpointError: there is none.
    """
    if name not in CARDS:
        near = difflib.get_close_matches(name, CARDS, 3, 0.4)
        raise CheckpointError(
            f"there is no published model {name!r}, nor a file; {'near it: ' + ', '.join(near) if near else 'vitdet zoo lists them'}"
        )
    return CARDS[name]


def of(name: str, file: str | None = None) -> tuple[Card | None, str | None]:
    """What `name` means: the card of a published model, and `file` for its weights, or no card and the checkpoint of a run.

    Raises:
        CheckpointError: it is neither.
    """
    if name in CARDS:
        return CARDS[name], file
    if file is not None or not (Path(name).suffix or Path(name).exists()):
        find(name)  # says what is near
    return None, name


__all__ = ["CARDS", "Card", "CheckpointError", "DownloadError", "architecture", "find", "of", "start"]
