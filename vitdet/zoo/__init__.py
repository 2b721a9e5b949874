"""Published models: name -> architecture, key map, licence, score."""

import difflib

from vitdet.zoo import rf_detr
from vitdet.zoo.cards import Card
from vitdet.zoo.download import DownloadError
from vitdet.zoo.files import CheckpointError

CARDS = {card.name: card for card in rf_detr.CARDS}


def find(name: str) -> Card:
    """The card of that name.

    Raises:
        CheckpointError: there is none.
    """
    if name not in CARDS:
        near = difflib.get_close_matches(name, CARDS, 3, 0.4)
        raise CheckpointError(
            f"there is no published model {name!r}; {'near it: ' + ', '.join(near) if near else 'vitdet zoo lists them'}"
        )
    return CARDS[name]


__all__ = ["CARDS", "Card", "CheckpointError", "DownloadError", "find"]
