"""How many training images a second one core loads: read, decoded, resized, augmented, normalised and collated.

python benchmarks/loading.py [--images DIR --annotations JSON] [--side 640] [--size 640] [--masks] [--beside FILE]
    [--elsewhere ADDRESS]

Decoding alone is the limit. rfdetr's loader is measured if it is installed (pip install rfdetr). `FILE` is Python with
a function `loaders(images, annotations, size, masks)`, which returns further loaders by name: functions of a list of
positions that load these images. `ADDRESS` is where the same images lie, too, such as s3://birds/train. All run in turn
in one process with one thread; each figure is a median.
"""

import argparse
import contextlib
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from vitdet.data import CocoData, Split
from vitdet.data.sampler import Draw
from vitdet.images import load_image

Load = Callable[[Sequence[int]], None]
BATCH, OBJECTS = 8, 7


def draw_photos(folder: Path, count: int, side: int) -> tuple[Path, Path]:
    """Made-up photographs, with as many bytes as COCO's of this size, and their annotations; `side` is the longer."""
    rng, width, height = np.random.default_rng(0), side, side * 3 // 4
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        # structure at all scales, as in a photograph
        pixels = np.zeros((height, width, 3), np.float32)
        for cell in (4, 8, 32, 128):
            noise = rng.normal(0, 6 * cell**0.35, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
            pixels += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(OBJECTS):
            w, h = (int(rng.integers(n // 12, n // 2)) for n in (width, height))
            x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
            points = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 24, endpoint=False)), np.sin(t)], 1)
            points = ((points + 1) / 2 * [w - 1, h - 1] + [x, y]).round().astype(int)
            cv2.fillPoly(pixels, [points.astype(np.int32)], rng.normal(0, 60, 3).tolist())
            row = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": int(rng.integers(1, 81)), "iscrowd": 0}
            annotations.append(row | {"bbox": [x, y, w, h], "area": w * h, "segmentation": [points.flatten().tolist()]})
        name = f"{i:06d}.jpg"
        Image.fromarray((pixels + 118).clip(0, 255).astype(np.uint8)).save(folder / "images" / name, quality=93)
        images.append({"id": i + 1, "file_name": name, "width": width, "height": height})
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 81)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "images", folder / "annotations.json"


def ours(images: Path | str, annotations: Path, size: int, *, masks: bool, reduce: bool = True) -> Load:
    """vitdet's default training pipeline; `reduce` is whether large images are decoded at a fraction of their size."""
    reading = {"reduce_large": reduce}
    data = CocoData(train=Split(str(images), str(annotations)), size=size, batch_size=BATCH, reading=reading)
    data.masks = masks
    loader = data.train_dataloader()

    def load(order: Sequence[int]) -> None:
        for start in range(0, len(order), BATCH):
            loader.collate_fn(loader.dataset.__getitems__([Draw(i) for i in order[start : start + BATCH]]))

    return load


def theirs(images: Path, annotations: Path, size: int, *, masks: bool) -> Load:
    """rfdetr's default training pipeline, whose images are square.

    Raises:
        ImportError: rfdetr is not installed.
    """
    from rfdetr.datasets.coco import CocoDetection, draft_size_for_transforms, make_coco_transforms_square_div_64
    from rfdetr.utilities import collate_fn

    transforms = make_coco_transforms_square_div_64("train", size)
    draft = draft_size_for_transforms("train", size, scale_jitter=True, include_masks=masks)
    data = CocoDetection(images, annotations, transforms, include_masks=masks, draft_size=draft)

    def load(order: Sequence[int]) -> None:
        for start in range(0, len(order), BATCH):
            collate_fn([data[i] for i in order[start : start + BATCH]])

    return load


def further(path: str, *arguments: object) -> dict[str, Load]:
    """The loaders that a file defines."""
    spec = importlib.util.spec_from_file_location("beside", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.loaders(*arguments)


def measure(loads: dict[str, Load], count: int, *, rounds: int) -> dict[str, list[float]]:
    """Seconds for `count` images in each of `rounds`, by name, all in turn; a round before warms up."""
    order, times = range(count), {name: [] for name in loads}
    for k in range(rounds + 1):
        for name, load in loads.items():
            start = time.perf_counter()
            load(order)
            if k:
                times[name].append(time.perf_counter() - start)
    return times


def benchmark(
    images: Path,
    annotations: Path,
    *,
    size: int,
    masks: bool,
    beside: str | None,
    elsewhere: str | None,
    rounds: int,
    most: int,
) -> dict[str, float]:
    """Prints the table, and returns the images a second of each loader."""
    torch.set_num_threads(1), cv2.setNumThreads(1)
    rows = json.loads(annotations.read_text(encoding="utf-8"))["images"][:most]
    files = [images / row["file_name"] for row in rows]
    loads: dict[str, Load] = {"decoding alone": lambda order: [load_image(files[i]) for i in order] and None}
    loads["vitdet"] = ours(images, annotations, size, masks=masks)
    if max(max(row["width"], row["height"]) for row in rows) > 2 * size:
        loads["vitdet, whole images"] = ours(images, annotations, size, masks=masks, reduce=False)
    if elsewhere:
        loads[f"vitdet, {elsewhere}"] = ours(elsewhere, annotations, size, masks=masks)
    with contextlib.suppress(ImportError):
        loads["rfdetr"] = theirs(images, annotations, size, masks=masks)
    loads |= further(beside, images, annotations, size, masks) if beside else {}
    times = measure(loads, len(files), rounds=rounds)
    table = Table(title=f"{len(files)} images, size {size}, {'boxes and masks' if masks else 'boxes'}, one core")
    for column in ("loader", "images/s", "of decoding", "time of vitdet"):
        table.add_column(column, justify="left" if column == "loader" else "right")
    speed = {name: len(files) / statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        # ratios within a round, because the speed of the machine may change between rounds
        share = statistics.median(a / b for a, b in zip(times["decoding alone"], values))
        ratio = statistics.median(a / b for a, b in zip(times["vitdet"], values))
        table.add_row(name, f"{speed[name]:.0f}", f"{share:.0%}", f"{ratio:.2f}")
    Console(highlight=False).print(table)
    return speed


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, and draws photographs if none are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--side", type=int, default=640, help="the longer side of the made-up photographs")
    parser.add_argument("--count", type=int, default=64, help="the most images")
    parser.add_argument("--size", type=int, default=640, help="the longer side for the model")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--beside", help="a Python file with further loaders")
    parser.add_argument("--elsewhere", metavar="ADDRESS", help="where the same images lie, too; with --images")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    options = {"size": given.size, "masks": given.masks, "beside": given.beside, "rounds": given.rounds}
    options["elsewhere"] = given.elsewhere
    if given.images is not None:
        benchmark(given.images, given.annotations, most=given.count, **options)
        return
    with tempfile.TemporaryDirectory() as folder:
        benchmark(*draw_photos(Path(folder) / "photos", given.count, given.side), most=given.count, **options)


if __name__ == "__main__":
    main()
