"""Which blocks of a ViT do what."""

from collections.abc import Sequence

from vitdet.errors import UserError


def quarters(depth: int) -> list[int]:
    return sorted({(i * depth + 3) // 4 - 1 for i in range(1, 5)})  # 12 -> 2, 5, 8, 11


def choose_blocks(option: str, blocks: Sequence[int] | None, depth: int, default: list[int]) -> list[int]:
    if blocks is None:
        return default
    chosen = sorted({block % depth for block in blocks if -depth <= block < depth})
    if len(chosen) != len(blocks):
        raise UserError(f"{option} is {list(blocks)}; the model's blocks are 0 to {depth - 1}, each at most once")
    return chosen


def choose_global_blocks(blocks, depth: int, last: int, windows, window_prefix: str, prefix: int) -> list[int]:
    if windows is None:
        if blocks is not None:
            raise UserError("global_blocks needs windows; without windows all blocks are global")
        return list(range(depth))
    chosen = [block for block in choose_blocks("global_blocks", blocks, depth, quarters(depth)) if block <= last]
    if not chosen and prefix and window_prefix == "image":
        raise UserError(
            f"no block up to the last tap, {last}, is global, so prefix tokens never meet patches; "
            "add one to global_blocks, or set window_prefix: window"
        )
    return chosen


def body(blocks: int, tail: int, windows: int | str | None, relative_position: int | None) -> int:
    """How many blocks the backbone runs itself."""
    if not 0 <= tail < blocks or (tail and (windows is not None or relative_position is not None)):
        raise UserError(
            f"tail is {tail}; wanted fewer than the model's {blocks} blocks, and neither windows nor relative_position"
        )
    return blocks - tail
