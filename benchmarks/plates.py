"""How much of the objects the names in a picture hide: vitdet's plates and supervision's label annotator.

    python benchmarks/plates.py [--output FOLDER]

The pictures are drawn: nuclei on a dark and on a bright ground, and objects at the border with long names. Hidden is
the share of the pixels in a box that differ between a picture with names and the same one without; the mean is over
the boxes. supervision (`pip install 'vitdet[supervision]'`) draws with its automatic sizes and `smart_position`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image, ImageDraw, ImageFilter

from vitdet.draw import draw

# a picture, with the boxes, names and classes of its objects
Case = tuple[Image.Image, list[tuple[float, ...]], list[str], list[int]]


def nuclei(count: int, side: int, ground: tuple[int, int, int], colour: tuple[int, int, int]) -> Case:
    """Ellipses of about 28 pixels, some of them cut off by the border."""
    rng = np.random.default_rng(0)
    image = Image.new("RGB", (side, side), ground)
    pen, boxes = ImageDraw.Draw(image), []
    while len(boxes) < count:
        (x, y), (w, h) = rng.uniform(0, side, 2), rng.uniform(0.7, 1.3, 2) * 14
        box = tuple(float(np.clip(end, 0, side)) for end in (x - w, y - h, x + w, y + h))
        if min(box[2] - box[0], box[3] - box[1]) >= 4:
            boxes.append(box)
            pen.ellipse(box, fill=colour)
    names = [f"nucleus {score:.2f}" for score in rng.random(count)]
    return image.filter(ImageFilter.GaussianBlur(1)), boxes, names, rng.integers(0, 4, count).tolist()


def border() -> Case:
    """Objects in the corners, one of a single pixel and one of a single column, with long names."""
    boxes = [(0, 0, 60, 40), (580, 0, 640, 50), (0, 430, 80, 480), (560, 400, 640, 480), (300, 200, 301, 201)]
    boxes += [(310, 240, 311, 260), (200, 100, 420, 300)]
    return Image.new("RGB", (640, 480), "white"), boxes, ["a very long name of a class 0.91"] * 7, list(range(7))


def theirs(image: Image.Image, boxes: list, names: list[str], labels: list[int]) -> Image.Image:
    pixels = np.asarray(image)[:, :, ::-1].copy()
    found = sv.Detections(xyxy=np.array(boxes, float), class_id=np.array(labels))
    thickness = sv.calculate_optimal_line_thickness(image.size)
    pixels = sv.BoxAnnotator(thickness=thickness).annotate(pixels, found)
    if any(names):
        scale = sv.calculate_optimal_text_scale(image.size)
        annotator = sv.LabelAnnotator(smart_position=True, text_scale=scale, text_thickness=max(1, thickness // 2))
        pixels = annotator.annotate(pixels, found, labels=names)
    return Image.fromarray(pixels[:, :, ::-1].copy())


def hidden(painter: Callable[..., Image.Image], case: Case) -> tuple[float, float, Image.Image]:
    """The mean share of an object that is hidden, the seconds, and the picture."""
    image, boxes, names, labels = case
    began = time.perf_counter()
    picture = painter(image, boxes, names, labels)
    seconds = time.perf_counter() - began
    differs = (np.asarray(picture) != np.asarray(painter(image, boxes, [""] * len(names), labels))).any(2)
    parts = [differs[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))].mean() for x1, y1, x2, y2 in boxes]
    return float(np.mean(parts)), seconds, picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a folder for the pictures")
    output = parser.parse_args().output
    cases = {
        "30 nuclei, dark": nuclei(30, 256, (15, 15, 30), (90, 90, 200)),
        "120 nuclei, bright": nuclei(120, 512, (250, 245, 250), (150, 90, 160)),
        "border, long names": border(),
    }
    for name, case in cases.items():
        for painter, text in ((draw, "vitdet"), (theirs, "supervision")):
            share, seconds, picture = hidden(painter, case)
            print(f"{name:20} {text:12} hidden {share:6.1%}   {1000 * seconds:4.0f} ms")
            if output is not None:
                output.mkdir(parents=True, exist_ok=True)
                picture.save(output / f"{name.replace(', ', '_').replace(' ', '_')}_{text}.png")


if __name__ == "__main__":
    main()
