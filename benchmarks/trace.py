"""An image's way to its loss: which files of vitdet, and how many lines of each, one training batch runs through.

    python benchmarks/trace.py [HEAD ...]

The way is that of `Task.training_step`: backbone(images) -> head(features, targets) -> loss -> total, on two small
images with one object each, and with the head's defaults. `tests/test_trace.py` holds the number of files.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import vitdet
from vitdet import Backbone, Head, Target, heads

ROOT = Path(vitdet.__file__).parent
SIZES = [(64, 96), (48, 48)]
BACKBONE = {"model_args": {"embed_dim": 48, "num_heads": 3}, "depth": 2, "out_channels": 32}
HEADS = ["PlainDETRHead", "DETRHead", "DEIMHead", "MaskDecoderHead", "EoMTHead", "SemanticHead"]


def executed(function: Callable[[], Any]) -> dict[str, int]:
    """How many lines of each file of vitdet `function()` runs, by the file's path inside the package."""
    lines: dict[str, set[int]] = defaultdict(set)

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if ROOT not in path.parents:
            return None
        if event == "line":
            lines[path.relative_to(ROOT).as_posix()].add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return {path: len(numbers) for path, numbers in sorted(lines.items())}


def training_step(cls: type[Head], **options: Any) -> Callable[[], torch.Tensor]:
    """A function that takes the loss of one batch by a head of that class."""
    torch.manual_seed(0)
    tail = {"tail": 1, "neck": None} if cls.runs_tail else {}
    backbone = Backbone("vit_tiny_patch16_224", **BACKBONE, **tail)
    head = cls(backbone.out_channels, backbone.strides, 3, **options)
    images = [torch.randn(3, *size) for size in SIZES]
    targets = []
    for label, size in enumerate(SIZES):
        mask = torch.zeros(1, *size, dtype=torch.bool)
        mask[:, : size[0] // 2, : size[1] // 2] = True
        box = torch.tensor([[0.25, 0.25, 0.5, 0.5]])
        targets.append(Target(box, torch.tensor([label]), size, size, masks=mask))

    def step() -> torch.Tensor:
        outputs = head(backbone(images), targets)
        return head.total(head.loss(outputs, targets))

    return step


def main(names: list[str]) -> None:
    for name in names:
        files = executed(training_step(getattr(heads, name)))
        print(f"{name}: {len(files)} files, {sum(files.values())} lines")
        for path, count in files.items():
            print(f"    {count:4} {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", nargs="*", metavar="HEAD", help=f"some of {', '.join(HEADS)}; all, if none is given")
    main(parser.parse_args().heads or HEADS)
