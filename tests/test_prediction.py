"""A Prediction is a sequence of detections, and takes other forms."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet.errors import UserError
from vitdet.structures import Prediction

NAMES = ["cat", "dog", "bird"]


def make(count=4, *, masks=False, panoptic=False, seed=0, **more):
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=random).mul(30).sort(1).values.flatten(1)
    scores = torch.rand(count, generator=random).sort(descending=True).values
    labels = torch.randint(3, (count,), generator=random)
    own = {"masks": torch.rand(count, 20, 30, generator=random) > 0.5} if masks else {}
    if panoptic:
        own["panoptic"] = torch.randint(count + 1, (20, 30), generator=random).int()
    return Prediction(corners, scores, labels, size=(20, 30), names=NAMES, category_ids=[3, 7, 90], **own, **more)


def same(a, b):
    return all(
        torch.equal(getattr(a, key), getattr(b, key)) if getattr(a, key) is not None else getattr(b, key) is None
        for key in ("boxes_xyxy", "scores", "labels", "masks", "panoptic")
    )


def test_iterated_and_indexed():
    prediction = make(masks=True, path="a.jpg", image_id=5)
    assert len(list(prediction)) == len(prediction) == 4
    for i, one in enumerate(prediction):
        assert one.box_xyxy == tuple(prediction.boxes_xyxy[i].tolist()) and one.score == prediction.scores[i]
        assert one.name == NAMES[one.label] == NAMES[prediction.labels[i]]
        assert torch.equal(one.mask, prediction.masks[i])
    assert prediction[-1].box_xyxy == prediction[3].box_xyxy == prediction[np.int64(3)].box_xyxy
    for wrong in (4, -5):
        with pytest.raises(IndexError, match="there is no detection"):
            prediction[wrong]
    assert (prediction[1:].path, prediction[1:].image_id, prediction[1:].names) == ("a.jpg", 5, NAMES)
    assert not make(0) and list(make(0)) == [] and make()


def test_a_number_in_a_tensor_is_a_number():
    prediction = make(panoptic=True)
    assert prediction[prediction.scores.argmax()] == prediction[np.array(0)] == prediction[0]
    assert len(prediction[torch.tensor([])]) == 0


def test_equal_if_all_is_equal():
    one = make(masks=True)
    assert one == copy.deepcopy(one) and one != make(masks=True, seed=1) and one != make() and one != "cat"
    assert one != one[:2] and one[0] == copy.deepcopy(one)[0] and one[0] in one


INDICES = st.one_of(
    st.slices(6), st.lists(st.integers(-6, 5), max_size=8), st.lists(st.booleans(), min_size=6, max_size=6)
)


@settings(max_examples=80, deadline=None)
@given(INDICES, st.sampled_from(["as it is", "tensor", "array"]))
def test_any_index_selects_what_numpy_would(index, form):
    prediction = make(6, masks=True)
    wanted = np.arange(6)[np.array(index, dtype=int) if index == [] else index]
    if form != "as it is" and isinstance(index, list) and index:
        index = torch.tensor(index) if form == "tensor" else np.array(index)
    chosen = prediction[index]
    assert chosen.scores.tolist() == prediction.scores[wanted.tolist()].tolist()
    assert chosen.masks.shape == (len(wanted), 20, 30) and len(chosen) == len(wanted)


def test_truth_values_for_another_number_of_detections():
    with pytest.raises(IndexError):
        make()[[True, False]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_pixels_follow_their_segments(keep):
    prediction = make(5, panoptic=True)
    chosen = prediction[keep]
    for new, old in enumerate(np.flatnonzero(keep)):
        assert torch.equal(chosen.panoptic == new + 1, prediction.panoptic == old + 1)
    gone = torch.isin(prediction.panoptic - 1, torch.tensor(np.flatnonzero(~np.array(keep)), dtype=torch.int32))
    assert not chosen.panoptic[gone].any()


def test_filter_by_class_score_and_area():
    prediction = make(40)
    for classes in ("dog", 1, ["dog"], [1], ["dog", 1]):
        assert set(prediction.filter(classes=classes).labels.tolist()) == {1}
    assert set(prediction.filter(classes=["dog", "bird"]).labels.tolist()) == {1, 2}
    assert len(prediction.filter(classes=[])) == 0 and same(prediction.filter(), prediction)
    boxes = prediction.boxes_xyxy
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = prediction.filter(threshold=0.5, min_area=50, max_area=200)
    assert len(kept) == int(((areas >= 50) & (areas <= 200) & (prediction.scores >= 0.5)).sum()) > 0
    assert len(prediction.filter(threshold=[0, 1, 1])) == int((prediction.labels == 0).sum())
    masked = make(masks=True)
    assert masked.areas.tolist() == masked.masks.sum((1, 2)).tolist()
    with pytest.raises(UserError, match="there is no class 'dgo'; did you mean 'dog'"):
        prediction.filter(classes="dgo")
    with pytest.raises(UserError, match="there is no label 3: the 3 classes have 0 to 2"):
        prediction.filter(classes=3)


def test_filter_takes_numbers_of_any_library_and_all_classes_of_a_name():
    prediction = make(8)
    wanted = prediction.filter(classes=1)
    assert prediction.filter(classes=np.int64(1)) == prediction.filter(classes=torch.tensor(1)) == wanted
    assert prediction.filter(classes=np.array([1])) == prediction.filter(classes=("dog",)) == wanted
    twice = dataclasses.replace(prediction, names=["cat", "dog", "cat"])
    assert set(twice.filter(classes="cat").labels.tolist()) == set(prediction.labels.tolist()) - {1}


def test_concatenated_by_score():
    one, two = make(3, masks=True), make(2, masks=True, seed=1)
    both = one + two
    assert same(both, Prediction.concatenate([one, two])) and len(both) == 5
    assert both.scores.tolist() == sorted([*one.scores.tolist(), *two.scores.tolist()], reverse=True)
    assert sum(both.masks.flatten(1).sum(1)) == one.masks.sum() + two.masks.sum()
    assert same(one + make(0, masks=True), one) and same(Prediction.concatenate([one]), one)
    for other, said in (
        (make(2), "some have none"),
        (make(2, masks=True, panoptic=True), "can't be concatenated"),
        (Prediction(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), size=(9, 9), names=NAMES), "not of the image"),
    ):
        with pytest.raises(UserError, match=said):
            one + other
    with pytest.raises(UserError, match="nothing to concatenate"):
        Prediction.concatenate([])


def test_the_table_has_what_the_sequence_has():
    prediction = make(path="a.jpg", image_id=9)
    table = prediction.to_table()
    assert list(table) == ["file", "image_id", "label", "category_id", "name", "score", "x1", "y1", "x2", "y2", "area"]
    rows = [dict(zip(table, values)) for values in zip(*table.values())]
    for row, one in zip(rows, prediction):
        assert (row["x1"], row["y1"], row["x2"], row["y2"]) == one.box_xyxy
        assert (row["name"], row["score"], row["file"], row["image_id"]) == (one.name, one.score, "a.jpg", 9)
        assert row["category_id"] == [3, 7, 90][one.label]
    assert all(values == [] for values in make(0).to_table().values())


def test_a_person_can_read_it():
    prediction = make(30, path="a.jpg")
    assert repr(prediction).startswith("Prediction(a.jpg, 30×20: 1") and "tensor" not in repr(prediction)
    assert str(prediction).endswith("  … and 10 more") and len(str(prediction).splitlines()) == 22
    assert repr(make(0)) == "Prediction(30×20: nothing)"
    assert repr(make(1, masks=True)[0]).endswith("], with a mask)")
    classes = torch.tensor([[0, 0, 0, 2]], dtype=torch.uint8)
    shares = Prediction(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), size=(1, 4), names=NAMES, semantic=classes)
    assert repr(shares) == "Prediction(4×1: 75% cat, 25% bird)"


def test_supervision_has_the_same():
    pytest.importorskip("supervision")
    prediction = make(masks=True)
    found = prediction.to_supervision()
    assert len(found) == 4 and found.class_id.tolist() == prediction.labels.tolist()
    assert np.array_equal(found.mask, prediction.masks.numpy()) and found.data["class_name"][0] == prediction[0].name
    assert len(make(0).to_supervision()) == 0
