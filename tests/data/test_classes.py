"""Subsets of classes, merged classes, and categories that are matched by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.config import build, config_of
from vitdet.data import CocoData, PanopticData, SemanticData, SemanticSplit
from vitdet.errors import UserError
from vitdet.metrics import create_metric, evaluate
from vitdet.structures import Prediction

PLAIN = {"train_transforms": [], "scale_jitter": (1.0, 1.0)}
SIZE = (32, 48)


def seen(data, loader="train"):
    """The names of the objects of each image, by its id."""
    batches = getattr(data, f"{loader}_dataloader")()
    return {
        target.image_id: sorted(data.classes[k] for k in target.labels.tolist())
        for _, batch in batches
        for target in batch
    }


def test_a_subset_drops_the_rest_and_keeps_the_images(named_split):
    train = named_split("train", [["car", "bus"], ["bus"], ["dog", "car", "car"]])
    data = CocoData(train=train, val=train, classes=["dog", "car"], **PLAIN)
    assert data.classes == ["car", "dog"] and data.category_ids == [1, 3]
    assert seen(data) == seen(data, "val") == {1: ["car"], 2: [], 3: ["car", "car", "dog"]}
    assert "2 annotations left out, not in data.classes: bus" in data.describe()
    assert build(config_of(data)).describe() == data.describe()


def test_merged_classes_have_the_smallest_id(named_split):
    train = named_split(
        "train", [["truck", "person"], ["bus"], ["car", "dog"]], {"truck": 8, "person": 1, "bus": 6, "car": 3}
    )
    data = CocoData(
        train=train, rename={"car": "vehicle", "truck": "vehicle", "bus": "vehicle", "dog": "animal"}, **PLAIN
    )
    assert dict(zip(data.category_ids, data.classes)) == {1: "person", 3: "vehicle", 5: "animal"}
    assert seen(data) == {1: ["person", "vehicle"], 2: ["vehicle"], 3: ["animal", "vehicle"]}
    assert "car, bus, truck are called vehicle" in data.describe()
    kept = CocoData(train=train, rename={"car": "vehicle"}, classes=["vehicle"], **PLAIN)
    assert seen(kept) == {1: [], 2: [], 3: ["vehicle"]}


def test_names_can_be_swapped_and_a_class_can_join_one_that_is_there(named_split):
    train = named_split("train", [["a", "b"], ["b"], ["c"]])
    swapped = CocoData(train=train, rename={"a": "b", "b": "a"}, **PLAIN)
    assert dict(zip(swapped.category_ids, swapped.classes)) == {1: "b", 2: "a", 3: "c"} and seen(swapped)[2] == ["a"]
    joined = CocoData(train=train, rename={"c": "a"}, **PLAIN)
    assert dict(zip(joined.category_ids, joined.classes)) == {1: "a", 2: "b"} and seen(joined)[3] == ["a"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"classes": ["car", "buss"]}, r"data.classes has 'buss', which is no class of the data; did you mean 'bus'\?"),
        ({"classes": ["Car"]}, r"did you mean 'car'\?"),
        ({"classes": ["zzz"]}, "there are car, bus, dog"),
        ({"classes": []}, "data.classes is empty"),
        ({"classes": ["car", "car"]}, "lists 'car' twice"),
        (
            {"rename": {"dogs": "animal"}},
            r"data.rename has 'dogs', which is no category of the data; did you mean 'dog'",
        ),
        ({"rename": {"dog": "animal"}, "classes": ["dog"]}, "which data.rename makes 'animal'; give that"),
        ({"rename": {"dog": ""}}, "hold names of categories; got ''"),
    ],
)
def test_wrong_names(named_split, given, said):
    with pytest.raises(UserError, match=said):
        CocoData(train=named_split("train", [["car", "bus", "dog"]]), **given)


def test_a_subset_without_objects_is_nothing_to_train_on(named_split):
    train = named_split("train", [["car"]], {"dog": 9})
    with pytest.raises(UserError, match="no box to train on"):
        CocoData(train=train, classes=["dog"])


# ---- other splits


def test_validation_is_matched_by_name(named_split):
    train = named_split("train", [["car"], ["bus", "dog"]], {"car": 1, "bus": 2, "dog": 3})
    val = named_split("val", [["dog", "car"], ["bus"]], {"dog": 0, "bus": 1, "car": 7})
    data = CocoData(train=train, val=val, **PLAIN)
    assert data.index("val").category_ids == data.category_ids == [1, 2, 3]
    assert seen(data, "val") == {1: ["car", "dog"], 2: ["bus"]}
    assert "categories matched by name, because their ids differ from those of train: dog 0 is 3, bus 1 is 2" in (
        data.describe()
    )


def test_a_class_that_a_split_lacks_is_said(named_split):
    train = named_split("train", [["car", "bus"]])
    val = named_split("val", [["car"], ["van", "tree"]], {"car": 1, "van": 8})
    data = CocoData(train=train, val=val, **PLAIN)
    said = data.describe()
    assert "no category bus: so it is not scored here" in said
    assert "2 annotations left out, train has no such class: tree, van" in said
    assert seen(data, "val") == {1: ["car"], 2: []}


@pytest.mark.parametrize(
    ("val", "said"),
    [
        ({"Car": 2, "bus": 3}, r"1 annotations of 'Car', and no category 'car'.*data.rename: \{Car: car\}"),
        ({"cars": 2, "bus": 3}, r"data.rename: \{cars: car\}"),
        ({"van": 1, "bus": 3}, "by id: 1: 'car' and 'van'"),
        ({"cat": 9, "cow": 8}, r"has the name of a class: it has cow, cat; wanted car, bus"),
    ],
)
def test_categories_that_are_probably_the_same_are_not_left_out(named_split, val, said):
    train = named_split("train", [["car", "bus"]], {"car": 1, "bus": 3})
    with pytest.raises(UserError, match=said):
        CocoData(train=train, val=named_split("val", [list(val)], val))


def test_two_categories_of_one_name_stay_two_where_the_ids_tell(named_split, tmp_path):
    train, val = named_split("train", [["a", "b"]]), named_split("val", [["a", "b"]])
    for one in (train, val):
        Path(one.annotations).write_text(Path(one.annotations).read_text().replace('"b"', '"a"'))
    data = CocoData(train=train, val=val)
    assert data.classes == ["a", "a"] and data.category_ids == [1, 2]
    Path(val.annotations).write_text(Path(val.annotations).read_text().replace('"category_id": 2', '"category_id": 5'))
    text = Path(val.annotations).read_text().replace('{"id": 2, "name"', '{"id": 5, "name"')
    Path(val.annotations).write_text(text)
    with pytest.raises(UserError, match=r"several of that name, with ids 1, 2; data.rename: \{a: a\} makes them one"):
        CocoData(train=train, val=val)
    assert CocoData(train=train, val=val, rename={"a": "a"}).category_ids == [1]


def test_scores_of_a_subset_are_those_of_pycocotools_on_the_filtered_file(named_split, tmp_path):
    train = named_split("train", [["car", "bus", "dog"], ["bus"], ["dog", "car"]], {"car": 5, "bus": 6, "dog": 7})
    val = named_split("val", [["car", "bus", "dog"], ["bus"], ["dog", "car"]], {"dog": 1, "car": 2, "bus": 3})
    data = CocoData(train=train, val=val, classes=["car", "pet"], rename={"dog": "pet"}, **PLAIN)
    metric = create_metric("boxes", data)
    rng = np.random.default_rng(0)
    results = []
    for _, batch in data.val_dataloader():
        for target in batch:
            width, height = SIZE[1], SIZE[0]
            boxes = cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])
            boxes = torch.cat(
                [boxes + torch.from_numpy(rng.normal(0, 1, boxes.shape)), torch.tensor([[0, 0, 20.0, 20]])]
            )
            labels = torch.cat([target.labels, torch.tensor([0])])
            scores = torch.from_numpy(rng.random(len(labels)))
            ids = data.category_ids
            found = Prediction(boxes, scores, labels, SIZE, image_id=target.image_id, category_ids=ids)
            metric.update([found])
            results += found.to_coco()
    rows = json.loads(Path(val.annotations).read_text())
    ours = {1: 7, 2: 5}  # ids of val to those of train
    rows["annotations"] = [
        a | {"category_id": ours[a["category_id"]]} for a in rows["annotations"] if a["category_id"] in ours
    ]
    rows["categories"] = [{"id": 5}, {"id": 7}]
    (tmp_path / "filtered.json").write_text(json.dumps(rows))
    truth = COCO(tmp_path / "filtered.json")
    judge = COCOeval(truth, truth.loadRes(results), "bbox")
    judge.evaluate(), judge.accumulate(), judge.summarize()
    scores = metric.compute()
    np.testing.assert_allclose([scores["AP"], scores["AP50"], scores["AR100"]], judge.stats[[0, 1, 8]], atol=1e-9)
    assert {"AP/car", "AP/pet"} <= set(scores) and {row["category_id"] for row in results} == {5, 7}
    metric.save(tmp_path / "results.json")  # with the ids of its annotation file, which judges it
    assert {row["category_id"] for row in json.loads((tmp_path / "results.json").read_text())} == {1, 2}
    again, _ = evaluate(tmp_path / "results.json", val.annotations)
    assert abs(again["AP/car"] - scores["AP/car"]) < 1e-9 and abs(again["AP/dog"] - scores["AP/pet"]) < 1e-9
    assert "2 annotations left out, not in data.classes: bus" in data.describe()


# ---- panoptic and semantic


def test_merged_stuff_is_one_segment_and_the_rest_is_background(named_panoptic):
    data = PanopticData(
        train=named_panoptic(), rename={"grass": "green", "field": "green"}, classes=["person", "green"], **PLAIN
    )
    assert (data.classes, data.category_ids, data.things) == (["person", "green"], [1, 10], [True, False])
    data.masks = True
    for _, batch in data.train_dataloader():
        for target in batch:
            assert target.labels.tolist() == [0, 1]
            assert target.masks[1].nonzero().min(0).values.tolist() == [0, 10]
            assert target.masks[1].sum() == 400 and target.masks[0].sum() == 200
            torch.testing.assert_close(target.boxes_cxcywh[1], torch.tensor([0.5, 0.5, 0.5, 1.0]))
    ids, numbers, labels, crowd = data.truth("train")(1)
    assert numbers.tolist() == [1, 2] and labels.tolist() == [0, 1] and not crowd.any()
    assert (ids == 2).sum() == 400 and (ids == 4).sum() == 200  # the sky is no void, so what is found there is wrong


def test_panoptic_scores_of_a_perfect_prediction(named_panoptic):
    data = PanopticData(
        train=named_panoptic(),
        val=named_panoptic("v", (7, 3, 2, 5)),
        rename={"grass": "green", "field": "green"},
        **PLAIN,
    )
    metric = create_metric("panoptic", data)
    for image_id in (1, 2):
        ids, numbers, labels, _ = data.truth("val")(image_id)
        found = np.searchsorted(numbers, ids) + 1
        metric.update(
            [
                Prediction(
                    torch.zeros(3, 4),
                    torch.ones(3),
                    torch.from_numpy(labels.astype(np.int64)),
                    (20, 40),
                    image_id=image_id,
                    panoptic=torch.from_numpy(found.astype(np.int32)),
                )
            ]
        )
    scores = metric.compute()
    assert scores["PQ"] == 1 and {"PQ/green", "PQ/person", "PQ/sky"} <= set(scores)


def test_an_image_of_which_no_class_is_kept_has_no_segments_but_background(named_panoptic):
    data = PanopticData(train=named_panoptic(), classes=["person"], **PLAIN)
    assert (data.truth("train")(1)[0] == 3).any()
    with pytest.raises(UserError, match="merge things with things"):
        PanopticData(train=data.splits["train"], rename={"person": "sky"})


def test_classes_of_label_maps_are_merged(tmp_path):
    (tmp_path / "i").mkdir(), (tmp_path / "l").mkdir()
    Image.new("RGB", (40, 10)).save(tmp_path / "i" / "a.jpg")
    Image.fromarray(np.repeat(np.array([[4, 5, 6, 9]], np.uint8), 10, 1).repeat(10, 0)).save(tmp_path / "l" / "a.png")
    files = SemanticSplit(str(tmp_path / "i"), str(tmp_path / "l"))
    given = {"classes": ["grass", "sky", "field"], "values": [5, 4, 6], "rename": {"grass": "green", "field": "green"}}
    data = SemanticData(train=files, **given)
    assert (data.classes, data.category_ids) == (["green", "sky"], [5, 4])
    assert data.truth("train")(0)[0, ::10].tolist() == [1, 0, 0, 255]
    assert "grass, field are called green" in data.describe() and build(config_of(data)).describe() == data.describe()
    with pytest.raises(UserError, match=r"'gras', which is no class of data.classes; did you mean 'grass'\?"):
        SemanticData(train=files, **given | {"rename": {"gras": "green"}})
    with pytest.raises(UserError, match="data.balance needs data that lists its objects"):
        SemanticData(train=files, balance=0.1, **given)
