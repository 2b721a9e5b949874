"""`vitdet zoo`: lists the published models."""

import os

from vitdet.zoo import CARDS
from vitdet.zoo.cards import Card


def print_cards() -> None:
    """Prints name, size, score and licence of each model, the sources of the scores, and files to be requested."""
    width = max(map(len, CARDS))
    print(f"{'name':{width}}  M param.   GFLOPs  {'pixels':15}  {'score':12}  licence")
    for card in CARDS.values():
        numbers = f"{card.parameters:8.1f}  {card.gflops:7.0f}"
        print(f"{card.name:{width}}  {numbers}  {_pixels(card):15}  {card.score:12}  {card.licence}")
    print(
        "\nGFLOPs are of one image of that size, or of one tile for semantic maps; a multiply-add is two. "
        "Scores are the authors':"
    )
    for source in dict.fromkeys(card.source for card in CARDS.values()):
        names = [card.name for card in CARDS.values() if card.source == source]
        print(f"  {_family(names)}: {source}")
    for base in dict.fromkeys(card.base for card in CARDS.values() if card.base is not None):
        names = [card.name for card in CARDS.values() if card.base == base]
        print(f"  {_family(names)}: {base.wanted}")
    print(
        '\nUse one with vitdet.load("NAME"), `vitdet predict NAME photo.jpg`, or `model: {checkpoint: NAME}` '
        "in a config."
    )


def _pixels(card: Card) -> str:
    ((rule, side),) = card.transform["size"].items()
    return f"{side}×{side}" if rule == "square" else f"{rule.replace('_', ' ')} {side}"


def _family(names: list[str]) -> str:
    # these are names of models, not paths
    return names[0] if len(names) == 1 else f"{os.path.commonprefix(names)}*"  # noqa: RUF071
