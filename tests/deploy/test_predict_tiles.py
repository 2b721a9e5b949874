"""Predictions in tiles are those that were made of the whole image, where a detector finds the same in both."""

import json
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitdet.cli import main
from vitdet.data.transforms import EvalTransform
from vitdet.deploy import Detector, load
from vitdet.deploy.merge import Found, merge
from vitdet.deploy.tiles import TiledDetector, mosaic, tiles
from vitdet.errors import UserError
from vitdet.structures import Prediction

MEAN = {"mean": [0.5] * 3, "std": [0.5] * 3}


class Rectangles(Detector):
    """Finds what is red (class 0) or green (class 1), each connected region an object, whose score is its blue.

    Args:
        finds: what it predicts: `boxes`, `masks` or `semantic`.
    """

    def __init__(self, finds: str = "masks") -> None:
        names = {"classes": ["red", "green"], "category_ids": [1, 2]}
        super().__init__(torch.nn.Identity(), torch.nn.Identity(), **names, transform=EvalTransform(**MEAN))
        self.finds, self.seen = finds, []

    @property
    def kind(self):
        return "semantic" if self.finds == "semantic" else "instances"

    def see(self, arrays, x=None):
        self.seen += [array.shape[:2] for array in arrays]
        return [self._one(array) for array in arrays]

    def _one(self, array):
        size, found = array.shape[:2], []
        if self.finds == "semantic":
            empty = torch.zeros(0)
            return Prediction(empty.view(0, 4), empty, empty.long(), size, semantic=torch.from_numpy(array[..., 0] * 1))
        for label in (0, 1):
            count, regions = cv2.connectedComponents(np.uint8(array[..., label] > 0), connectivity=4)
            found += [(label, regions == number) for number in range(1, count)]
        masks = np.array([mask for _, mask in found], bool).reshape(-1, *size)
        scores = torch.tensor([array[mask][:, 2].max() / 255 for mask in masks])
        boxes = [(*np.argwhere(m).min(0)[::-1], *(np.argwhere(m).max(0)[::-1] + 1)) for m in masks]
        boxes = torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))
        labels = torch.tensor([label for label, _ in found], dtype=torch.long)
        order = scores.argsort(descending=True)
        masks = torch.from_numpy(masks)[order] if self.finds == "masks" else None
        return Prediction(boxes[order], scores[order], labels[order], size, masks=masks)


def rows(prediction):
    """What was found, in an order of its own."""
    masks = [m.numpy().tobytes() for m in prediction.masks] if prediction.masks is not None else [b""] * len(prediction)
    found = zip(prediction.labels.tolist(), prediction.boxes_xyxy.tolist(), prediction.scores.tolist(), masks)
    return sorted((label, box, round(score, 5), mask) for label, box, score, mask in found)


def picture(height, width, objects):
    """An image with rectangles that neither touch nor overlap: those that would are left out."""
    image = np.zeros((height, width, 3), np.uint8)
    for number, (label, x, y, w, h) in enumerate(objects):
        x1, y1 = int(x * (width - 1)), int(y * (height - 1))
        around = image[max(0, y1 - 1) : y1 + h + 1, max(0, x1 - 1) : x1 + w + 1]
        if not around.any():
            image[y1 : y1 + h, x1 : x1 + w, label] = 255
            image[y1 : y1 + h, x1 : x1 + w, 2] = 255 - number
    return image


sides = st.integers(20, 150)
shares = st.floats(0, 1)
objects = st.lists(st.tuples(st.integers(0, 1), shares, shares, st.integers(1, 90), st.integers(1, 90)), max_size=12)
overlaps = st.sampled_from([0.1, 0.2, 0.5])


@settings(deadline=None, max_examples=60)
@given(sides, sides, objects, st.integers(32, 80), overlaps, st.sampled_from(["boxes", "masks"]))
def test_tiles_give_what_the_whole_image_gives(height, width, objects, tile, overlap, kind):
    image, detector = picture(height, width, objects), Rectangles(kind)
    (whole,) = detector.see([image])
    tiled = TiledDetector(detector, tile=tile, overlap=overlap).predict(image, threshold=0.0)
    assert rows(tiled) == rows(whole)


@settings(deadline=None, max_examples=30)
@given(st.integers(16, 900), st.integers(16, 900), st.integers(16, 300), st.floats(0.05, 0.9))
def test_tiles_cover_the_image_and_overlap(height, width, tile, overlap):
    places = list(tiles((height, width), tile, overlap))
    for axis, length in ((0, width), (1, height)):
        spans = sorted({(place[axis], place[axis + 2]) for place in places})
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(b - a == min(tile, length) for a, b in spans)
        assert all(one[1] - two[0] >= int(tile * overlap) - 1 for one, two in pairwise(spans))
    assert len(set(places)) == len(places)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_order_of_tiles_does_not_matter(seed, random):
    rng = np.random.default_rng(seed)
    size, places = (100, 130), list(tiles((100, 130), 50, 0.3))
    found = []
    for x, y, *_ in places:
        count = int(rng.integers(0, 6))
        low = rng.integers(0, 40, (count, 2))
        boxes = np.concatenate([low, np.minimum(low + rng.integers(1, 30, (count, 2)), 50)], 1)
        boxes = boxes + np.array([x, y, x, y])
        # scores and boxes that are equal in several tiles are likely
        scores, labels = rng.integers(1, 4, count).astype(np.float32) / 4, rng.integers(0, 2, count)
        found.append(Found(boxes.astype(float), scores, labels))
    wanted = merge(found, places, size, limit=1000)
    order = list(range(len(places)))
    random.shuffle(order)
    shuffled = merge([found[i] for i in order], [places[i] for i in order], size, limit=1000)
    assert rows(shuffled) == rows(wanted)


def test_the_whole_image_is_seen_too_if_asked():
    image = picture(200, 260, [(0, 0.02, 0.02, 240, 180), (1, 0.99, 0.99, 2, 2)])
    detector = Rectangles()
    (whole,) = detector.see([image])
    assert rows(TiledDetector(detector, tile=64, whole=True).predict(image)) == rows(whole)
    assert detector.seen.count((200, 260)) == 2 and detector.seen.count((64, 64)) == len(detector.seen) - 2


def test_pieces_that_no_tile_sees_whole_are_one_object_with_the_best_score():
    places, size = [(0, 0, 60, 50), (40, 0, 100, 50)], (50, 100)
    pieces = [np.array([[10.0, 5, 60, 25]]), np.array([[40.0, 5, 80, 25]])]
    masks = [[(np.ones((20, 50), bool), 10, 5)], [(np.ones((20, 40), bool), 40, 5)]]
    one, two = (Found(b, np.float32([s]), np.array([1]), m) for b, s, m in zip(pieces, (0.6, 0.8), masks))
    got = merge([one, two], places, size, limit=9)
    assert got.boxes_xyxy.tolist() == [[10, 5, 80, 25]] and got.scores.tolist() == pytest.approx([0.8])
    assert got.masks.sum() == 20 * 70 and got.masks[0, 5:25, 10:80].all()


def test_equal_objects_of_two_classes_and_crowded_objects_of_a_tile_stay():
    box = np.array([[45.0, 5, 55, 15]])
    one = Found(box, np.float32([0.9]), np.array([0]))
    two = Found(np.concatenate([box, box + 1]), np.float32([0.8, 0.7]), np.array([1, 1]))
    got = merge([one, two], [(0, 0, 60, 50), (40, 0, 100, 50)], (50, 100), limit=9)
    assert got.labels.tolist() == [0, 1, 1]


def test_each_pixel_of_a_semantic_map_is_of_the_nearest_tile():
    image = np.random.default_rng(0).integers(0, 9, (90, 130, 3), np.uint8)
    detector = Rectangles("semantic")
    tiled = TiledDetector(detector, tile=48, overlap=0.25, whole=True).predict(image)
    assert tiled.semantic.numpy().tolist() == image[..., 0].tolist()
    # the overlap of two tiles is cut in its middle
    halves = [np.full((10, 12), k, np.uint8) for k in (1, 2)]
    both = mosaic([torch.from_numpy(half) for half in halves], [(0, 0, 12, 10), (8, 0, 20, 10)], (10, 20))
    assert (both.semantic[:, :10] == 1).all() and (both.semantic[:, 10:] == 2).all()


def test_images_that_fit_into_a_tile_are_predicted_as_ever(checkpoint, array):
    detector = load(checkpoint, device="cpu")
    tiled = TiledDetector(detector, tile=96)
    for image in (array, array[:, :50]):
        assert rows(tiled.predict(image)) == rows(detector.predict(image))
    assert tiled.classes == detector.classes
    parts = TiledDetector(detector, tile=48, batch_size=2).predict([array, array[:40, :40]], threshold=0.0)
    assert [part.size for part in parts] == [(48, 96), (40, 40)] and rows(parts[1]) == rows(
        detector.predict(array[:40, :40], threshold=0.0)
    )
    box = parts[0].boxes_xyxy
    assert (box >= 0).all() and (box[:, 2] <= 96).all() and (box[:, 3] <= 48).all()
    assert parts[0].scores.tolist() == sorted(parts[0].scores.tolist(), reverse=True)


def test_the_best_are_kept_and_masks_are_kept_small(caplog, monkeypatch):
    image = picture(60, 200, [(0, i / 12, 0.2, 8, 8) for i in range(12)])
    detector = Rectangles()
    got = TiledDetector(detector, tile=64, limit=5).predict(image)
    assert (got.scores * 255).round().tolist() == [255, 254, 253, 252, 251]
    monkeypatch.setattr("vitdet.deploy.merge.MASK_BYTES", 60 * 200 * 3)
    assert len(TiledDetector(detector, tile=64).predict(image)) == 3
    assert "the 3 best detections are kept" in caplog.text


@pytest.mark.parametrize("wrong", [{"tile": 3}, {"overlap": 0.0}, {"limit": 0}, {"batch_size": 0}])
def test_arguments_out_of_range_are_told(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        TiledDetector(Rectangles(), **wrong)


def test_command_sees_large_images_in_tiles(checkpoint, tmp_path, capsys):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (90, 150, 3), np.uint8)).save(tmp_path / "large.png")
    counts = []
    for options in ([], ["--tile", "64", "--overlap", "0.3", "--whole"]):
        output = tmp_path / f"out{len(counts)}"
        main(["predict", str(checkpoint), str(tmp_path / "large.png"), "--output", str(output), *options])
        counts.append(len(json.loads((output / "predictions.json").read_text())))
    assert counts[1] > counts[0]
    with pytest.raises(SystemExit):
        main(["predict", str(checkpoint), str(tmp_path / "large.png"), "--overlap", "0.3"])
    assert "--overlap is about tiles" in capsys.readouterr().err
