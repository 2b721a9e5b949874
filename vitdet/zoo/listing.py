"""`vitdet zoo`: the published models in a table."""

from rich.console import Console
from rich.table import Table

from vitdet.zoo import CARDS


def print_cards() -> None:
    """Name, size, licence and published score of every model, and what must be known of some."""
    table = Table()
    for title in ("name", "M param.", "GFLOPs", "pixels", "licence", "score"):
        table.add_column(title, no_wrap=title == "name")
    for card in CARDS.values():
        pixels = " ".join(
            f"{side} {rule}" if rule != "square" else f"{side}×{side}" for rule, side in card.size.items()
        )
        numbers = (f"{card.parameters:.1f}", f"{card.gflops:.1f}")
        table.add_row(card.name, *numbers, pixels, card.licence, card.score)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print("GFLOPs are of one image of that size; a multiply-add is two. Scores as published:")
    for source in dict.fromkeys(card.source for card in CARDS.values()):
        console.print(f"  {', '.join(card.name for card in CARDS.values() if card.source == source)}: {source}")
    for note in dict.fromkeys(card.note for card in CARDS.values() if card.note):
        console.print(f"  {', '.join(card.name for card in CARDS.values() if card.note == note)}: {note}")
    console.print('Use one with vitdet.load("NAME"), or `model: {checkpoint: NAME}` in a config.')
