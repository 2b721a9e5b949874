"""Pictures of predictions: what is drawn where, and what is refused."""

import builtins
import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitdet.draw import class_colour, draw, draw_classes
from vitdet.plates import OTHERS, OWN, SMALLEST, covered, plates
from vitdet.structures import Prediction


def prediction(size=(200, 300), **options):
    boxes = torch.tensor([[20.0, 60.0, 120.0, 160.0], [150.0, 60.0, 280.0, 180.0]])
    return Prediction(boxes, torch.tensor([0.9, 0.2]), torch.tensor([1, 0]), size, ["cat", "dog"], [7, 9], **options)


def grey(size=(200, 300)):
    return np.full((*size, 3), 128, np.uint8)


def test_the_outline_lies_on_the_box_and_only_there():
    pixels = np.asarray(prediction().plot(grey(), threshold=0.5))
    for x, y in ((20, 100), (119, 100), (70, 60), (70, 159)):  # the last pixel of a box that ends at 120 is 119
        assert tuple(pixels[y, x]) == class_colour(1)
    for x, y in (
        (19, 100),
        (120, 100),
        (70, 160),
        (70, 110),
        (150, 100),
    ):  # outside, inside, and the box below the threshold
        assert tuple(pixels[y, x]) == (128, 128, 128)


def test_all_is_drawn_without_a_threshold_and_the_image_is_left_alone():
    image = Image.fromarray(grey())
    picture = np.asarray(prediction().plot(image))
    assert tuple(picture[100, 151]) == class_colour(0)
    assert (np.asarray(image) == 128).all()


def test_masks_are_blended_inside_only():
    masks = torch.zeros(2, 200, 300, dtype=torch.bool)
    masks[0, 100:120, 50:80] = True
    picture = np.asarray(prediction(masks=masks).plot(grey()))
    assert (picture[101:119, 51:79] == np.round(128 + 0.45 * (np.float32(class_colour(1)) - 128))).all()
    assert tuple(picture[130, 60]) == (128, 128, 128)


def test_the_wrong_image_is_refused():
    with pytest.raises(ValueError, match=r"image is 300×100, the prediction is about one of 300×200"):
        prediction().plot(grey((100, 300)))
    with pytest.raises(ValueError, match=r"plot\(image\)"):
        prediction().plot()
    with pytest.raises(TypeError, match="wanted a path"):
        prediction().plot(object())


def test_saved_files_are_pictures(tmp_path):
    Image.fromarray(grey()).save(tmp_path / "in.png")
    prediction(path=str(tmp_path / "in.png")).save(tmp_path / "new" / "out.png", threshold=0.5)
    with Image.open(tmp_path / "new" / "out.png") as saved:
        assert (np.asarray(saved) == np.asarray(prediction().plot(grey(), threshold=0.5))).all()


def test_nothing_found_draws_nothing():
    empty = Prediction(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), (200, 300))
    assert (np.asarray(empty.plot(grey())) == 128).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-50, 400)] * 4), max_size=6), st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_any_boxes_can_be_drawn(boxes, size):
    picture = draw(Image.new("RGB", size), boxes, ["a label"] * len(boxes), range(len(boxes)))
    assert picture.size == size


BOXES = st.lists(st.tuples(*[st.floats(-30, 330)] * 2, *[st.floats(0, 150)] * 2), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(BOXES, st.integers(60, 400), st.integers(60, 300), st.sampled_from(["cat 0.93", "a rather long name 0.5", "x"]))
def test_plates_hide_neither_objects_nor_each_other(boxes, width, height, text):
    boxes_xyxy = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes])
    found = plates(boxes_xyxy, [text] * len(boxes), (width, height), width=2, largest=14)
    shown = np.clip(boxes_xyxy, 0, [width, height] * 2)
    for n, plate in enumerate(found):
        if plate is None:
            continue
        hidden = covered(np.array([plate.place]), shown)[0]
        assert hidden[n] <= OWN and (np.delete(hidden, n) <= OTHERS).all()
        x1, y1, x2, y2 = plate.place
        assert x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
        assert SMALLEST <= plate.size <= 14 and text.startswith(plate.text)
        others = np.array([other.place for other in found[:n] if other is not None]).reshape(-1, 4)
        assert not covered(np.array([plate.place]), others).any()


def test_the_first_of_few_objects_get_all_of_their_text():
    boxes = np.array([(10, 60, 200, 200), (220, 60, 390, 290)])
    found = plates(boxes, ["dog 0.93", "cat 0.81"], (400, 300), width=2, largest=14)
    assert [plate.text for plate in found] == ["dog 0.93", "cat 0.81"] and found[0].size == 14


def test_small_objects_have_small_letters_and_a_crowd_a_key():
    near = [(x, y, x + 14, y + 14) for y in range(2, 100, 15) for x in range(2, 140, 15)]
    found = plates(np.array(near), ["nucleus 0.93"] * len(near), (145, 110), width=2, largest=14)
    assert not any(plate is not None and plate.size > SMALLEST for plate in found)
    assert sum(plate is None for plate in found) > len(near) / 2
    alone = plates(np.array([(60, 60, 74, 74)]), ["nucleus 0.93"], (145, 110), width=2, largest=14)
    assert alone[0].text == "nucleus 0.93" and alone[0].size == SMALLEST
    # what has no plate is named in a corner that is free
    picture = draw(
        Image.new("RGB", (320, 240)), [(x, y, x + 9, y + 9) for x, y, _, _ in near], ["n 0.9"] * 70, [0] * 70
    )
    assert (np.asarray(picture)[:, 160:] == class_colour(0)).all(2).any()


def test_a_region_is_named_in_its_middle():
    classes = np.zeros((100, 200), np.int64)
    classes[60:, 100:] = 1
    picture = np.asarray(draw_classes(Image.new("RGB", (200, 100)), classes, ["sky", "sea"].__getitem__))
    plate = (picture == class_colour(1)).all(2)
    y, x = np.nonzero(plate)
    assert len(x) and y.min() >= 60 and x.min() >= 100 and abs(y.mean() - 80) < 8
    empty = draw_classes(Image.new("RGB", (20, 10)), np.full((10, 20), 255), str, void=255)
    assert not np.asarray(empty).any()


def test_classes_near_each_other_have_different_colours():
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in class_colour(label)))[0] for label in range(80)]
    assert len({class_colour(label) for label in range(80)}) == 80
    for label in range(75):
        for other in range(label + 1, label + 5):
            apart = abs(hues[label] - hues[other])
            assert min(apart, 1 - apart) > 0.05


def test_supervision_gets_the_same_objects():
    masks = torch.zeros(2, 200, 300, dtype=torch.bool)
    detections = prediction(masks=masks).to_supervision()
    assert detections.xyxy.tolist() == [[20, 60, 120, 160], [150, 60, 280, 180]]
    assert detections.class_id.tolist() == [1, 0] and detections["class_name"].tolist() == ["dog", "cat"]
    assert detections.confidence.tolist() == pytest.approx([0.9, 0.2]) and detections.mask.shape == (2, 200, 300)


def test_without_supervision_the_error_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "supervision":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'vitdet\[supervision\]'"):
        prediction().to_supervision()
