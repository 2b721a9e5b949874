"""Annotation and results files that are changed at random: each is read or refused with a `DataError`, never else.

Changes are made to the structure (values, keys, items) and to the text (bytes, encodings), from fixed seeds.
"""

import copy
import json
import random

import numpy as np
import pytest
from PIL import Image

from vitdet.annotations import CocoIndex
from vitdet.data.panoptic import PanopticSource
from vitdet.data.sources import CocoSource
from vitdet.errors import DataError
from vitdet.masks import encode, id_png
from vitdet.metrics import evaluate
from vitdet.metrics.ground_truth import GroundTruth

HEIGHT, WIDTH = 12, 16
WHOLE = (slice(0, HEIGHT), slice(0, WIDTH))
BLOB = np.zeros((HEIGHT, WIDTH), np.uint8)
BLOB[3:9, 4:11] = 1
POLYGON = [[2.5, 2, 10, 2, 10, 9.5, 2, 9]]
COMPRESSED = {"size": [HEIGHT, WIDTH], "counts": encode(BLOB[None])[0].decode()}
COUNTS = {"size": [HEIGHT, WIDTH], "counts": [50, 6, 6, 6, HEIGHT * WIDTH - 68]}
IMAGES = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2)]
CLASSES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "dog", "isthing": 0}]


def _object(number, image, category, segmentation, crowd=0):
    box = {"bbox": [2, 2, 8, 7.5], "area": 60.0}
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd, **box} | segmentation


TRUTH = {
    "info": {"year": 2026},
    "images": IMAGES,
    "categories": CLASSES,
    "annotations": [
        _object(1, 1, 1, {"segmentation": POLYGON}),
        _object(2, 1, 2, {"segmentation": COMPRESSED}),
        _object(3, 2, 1, {"segmentation": COUNTS}, crowd=1),
        _object(4, 2, 2, {"segmentation": []}),
    ],
}
RESULTS = [
    {"image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 7], "score": 0.9, "segmentation": POLYGON},
    {"image_id": 2, "category_id": 2, "bbox": [3, 2, 8, 7], "score": 0.5, "segmentation": COMPRESSED},
    {"image_id": 2, "file_name": "d/2.png", "category_id": 1, "score": 0.2, "segmentation": COUNTS},
]
PANOPTIC = {
    "images": IMAGES,
    "categories": CLASSES,
    "annotations": [
        {
            "image_id": n,
            "file_name": f"{n}.png",
            "segments_info": [
                {"id": 7, "category_id": 1, "bbox": [4, 3, 7, 6], "area": 42, "iscrowd": 0},
                {"id": 300, "category_id": 2, "iscrowd": 0},
            ],
        }
        for n in (1, 2)
    ],
}

# values that some tool writes, or none would
VALUES = [
    *(None, True, False, 0, 1, 2, 1.0, 1.5, -1, -0.5, 7, 2e9, -1.6e2, 3.5e8, 2**31, 2**32, 2**63, -(2**63), 10**400),
    *(1e308, float("nan"), float("inf"), float("-inf")),
    *("", "0", "1", "7", "no", "true", "é", "\ud800", "a\0b", "../1.png", "/etc/passwd", "1.png", "x" * 300),
    *([], {}, [[]], [None], [{}], [1, 2], [[1, 2]], [[1, 2, 3, 4]], [[1, 2, 3]], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0]),
    *([float("nan")] * 4, [1e300, 1e300, 1e300, 1e300], [10**299] * 4, [10**400] * 4, [[float("nan")] * 6]),
    *([[1e9] * 6], [[-1e9, 5, 1e9, 7, 3, 8]], [[[1, 2], [3, 4], [5, 6]]], POLYGON, COMPRESSED, COUNTS),
    *({"size": [2**20, 2**20], "counts": [2**40]}, {"size": [HEIGHT, WIDTH], "counts": "oooooooo"}),
    *({"size": [HEIGHT, WIDTH], "counts": "0" * 300}, {"counts": "b'04'"}, {"size": None, "counts": None}),
    *({"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}, {"size": [0, 0], "counts": []}),
]
NESTED = "[" * 3000 + "]" * 3000
INSERTED = [
    *(",", "{", "}", "[", "]", '"', "\\", "\0", "\x80", "\xff", "NaN", "-Infinity", "1e999", "null", "9" * 5000)
]
ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be", "utf-7", "latin-1"]


def containers(value):
    """All lists and objects in a value of JSON that hold something."""
    if isinstance(value, (dict, list)) and value:
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def odd(rng):
    return copy.deepcopy(rng.choice(VALUES))


def change_structure(content, rng):
    holder = rng.choice(list(containers(content)) or [[0]])
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = [holder[key]]
    elif kind == 2:
        holder[key] = str(holder[key])
    elif kind == 3 and isinstance(holder, list):
        holder.insert(key, rng.choice([holder[key], odd(rng)]))
    elif kind == 4 and isinstance(holder, dict):
        other = rng.choice(list(holder))
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 5 and isinstance(holder[key], str) and holder[key]:
        at = rng.randrange(len(holder[key]))
        holder[key] = holder[key][:at] + rng.choice(["", "o", "0", "P", " ", "é"]) + holder[key][at + 1 :]
    else:
        holder[key] = odd(rng)


def change_text(text, rng):
    """The bytes of a file whose text is changed."""
    kind, at = rng.randrange(7), rng.randrange(len(text) + 1)
    if kind == 0:
        text = text[:at]
    elif kind == 1:
        return text.replace("cat", "zébra").encode(rng.choice(ENCODINGS))
    elif kind == 2:
        raw = bytearray(text.encode())
        raw[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(raw)
    elif kind == 3:
        text = text.replace(rng.choice(['"id": 1', "2, 2", "[]", "0"]), NESTED, 1)
    elif kind == 4:
        # the same key twice in an object
        text = text.replace('"id": 1', f'"id": 1, "id": {rng.choice(["2", "null", "[]"])}')
    else:
        text = text[:at] + rng.choice(INSERTED) + text[at + rng.randrange(2) :]
    return text.encode("latin-1" if "\x80" in text or "\xff" in text else "utf-8")


def changed(content, seed):
    rng = random.Random(seed)
    content = json.loads(json.dumps(content))
    if seed % 4:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            change_structure(content, rng)
        return json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return change_text(json.dumps(content), rng)


def use_index(path, folder):
    """Do all that training and scoring do with an annotation file of instances."""
    index = CocoIndex.open(path)
    for row in range(len(index.categories)):
        index.raw(row)
        assert bool(index.fault(row)) == index.broken[row]
    index.mask_notes()
    index.check_images()
    for masks in (False, True):
        GroundTruth.read(index, masks=masks)
        source = CocoSource(index, folder, masks=masks)
        for i in range(len(index)):
            sample = source.sample(i)
            assert np.isfinite(sample.boxes).all() and len(sample.boxes) == len(sample.labels)
            if masks:
                assert sample.masks(range(len(sample.labels)), WHOLE, (6, 8)).shape[1:] == (6, 8)
    index.check_masks()


def use_truth(path, folder):
    evaluate(folder / "results.json", path)


def use_results(path, folder):
    evaluate(path, folder / "truth.json")


def use_panoptic(path, folder):
    index = CocoIndex.open(path)
    for row in range(len(index.categories)):
        index.raw(row)
    index.check_images()
    source = PanopticSource(index, folder, segments=folder / "panoptic", masks=True)
    for i in range(len(index)):
        sample = source.sample(i)
        assert np.isfinite(sample.boxes).all() and len(sample.boxes) == len(sample.labels)
        sample.masks(range(len(sample.labels)), WHOLE, (6, 8))
        source.truth(i)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutations")
    (folder / "panoptic").mkdir()
    for n in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{n}.png")
        (folder / "panoptic" / f"{n}.png").write_bytes(id_png(np.where(BLOB, 7, 300)))
    (folder / "truth.json").write_text(json.dumps(TRUTH))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    return folder


@pytest.mark.parametrize(
    ("content", "use", "count"),
    [(TRUTH, use_index, 2000), (TRUTH, use_truth, 1000), (RESULTS, use_results, 1000), (PANOPTIC, use_panoptic, 1000)],
    ids=["index", "truth", "results", "panoptic"],
)
def test_a_changed_file_is_read_or_refused(folder, content, use, count):
    outcomes = {"read": 0, "refused": 0}
    for seed in range(count):
        # a new file is written faster than one that is mapped to memory is replaced
        path = folder / f"{use.__name__}{seed}.json"
        path.write_bytes(changed(content, seed))
        try:
            use(path, folder)
            outcomes["read"] += 1
        except DataError as error:
            outcomes["refused"] += 1
            assert len(str(error)) < 1000, f"seed {seed}"
            str(error).encode()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {path.read_bytes()[:3000]}") from error
    assert min(outcomes.values()) > count / 20, outcomes
