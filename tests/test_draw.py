"""Pictures of predictions: what is drawn where, and what is refused."""

import builtins
import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitdet.draw import _meet, _place, class_colour, draw
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
        prediction().plot(torch.zeros(3, 4, 4))


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


def test_texts_keep_clear_of_each_other_and_inside():
    taken = []
    for box in [(10, 40, 200, 300), (10, 40, 190, 280), (0, 0, 60, 80), (150, 0, 299, 60), (12, 42, 180, 250)]:
        plate = _place(box, (60, 14), (300, 400), taken, 2)
        assert not any(_meet(plate, other) for other in taken)
        assert plate[0] >= 0 and plate[2] <= 300 and plate[1] >= 0 and plate[3] <= 400
        taken.append(plate)


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
