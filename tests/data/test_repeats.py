"""Several sources with weights, and the repetition of rare classes."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from test_classes import seen

from vitdet.config import build, config_of
from vitdet.data import CocoData, PanopticData, SemanticData, ShapesSemanticData, Split
from vitdet.data.dataset import TrainDataset
from vitdet.data.repeats import repeat_factors, rounded
from vitdet.data.sampler import BatchSampler, Draw
from vitdet.errors import UserError
from vitdet.progress import Progress

PLAIN = {"train_transforms": [], "scale_jitter": (1.0, 1.0)}


def sampler(repeats, **options):
    usual = {"batch_size": 3, "max_tokens": None, "scales": (1.0, 1.0), "progressive": False, "seed": 0}
    return BatchSampler(
        [1] * len(repeats), **{**usual, **options}, progress=Progress(), repeats=np.array(repeats, float)
    )


def drawn(batches):
    return Counter(draw.index for batch in batches for draw in batch)


# ---- rare classes


def test_factors_are_those_of_the_paper(named_split):
    """Detectron2's RepeatFactorTrainingSampler by hand: f(bus) = 1/8, f(dog) = 2/8, f(car) = 6/8, and t = 0.5."""
    images = [["car", "car"], ["car"], ["car", "dog"], ["car"], ["car"], ["dog", "bus"], [], ["car"]]
    data = CocoData(train=named_split("train", images))
    factors = repeat_factors([data.index("train")], 0.5)
    dog, bus = math.sqrt(0.5 / (2 / 8)), math.sqrt(0.5 / (1 / 8))
    np.testing.assert_allclose(factors, [1, 1, dog, 1, 1, bus, 1, 1])
    assert (repeat_factors([data.index("train")], 0.1) == 1).all()


def test_the_start_says_what_is_repeated(named_split):
    images = [["car"]] * 8 + [["bus"]]
    data = CocoData(train=named_split("train", images), balance=0.5, batch_size=2)
    said = data.describe()
    assert "train: an epoch draws 10 images from 9, 1 to 2.12 times each, on average" in said
    assert "data.balance repeats images of 1 classes that less than 0.5 of them have: bus" in said
    assert build(config_of(data)).balance == 0.5
    assert len(data.train_dataloader()) == 5
    often = CocoData(train=data.splits["train"], balance=0.01)
    assert "no class is rarer than data.balance 0.01, so each image is drawn once" in often.describe()
    for wrong in (0, 1.5, -1, "x"):
        with pytest.raises(UserError, match="balance is"):
            CocoData(train=data.splits["train"], balance=wrong)


@pytest.mark.parametrize("seed", range(3))
def test_repetitions_are_the_factors_on_average(seed):
    factors = np.array([1, 1, 2.3, 0.25, 4.5, 1, 0.7])
    counts = np.zeros(7)
    for epoch in range(2000):
        items = rounded(factors, np.random.default_rng((seed, epoch)))
        found = np.bincount(items % 7, minlength=7)
        assert ((found == np.floor(factors)) | (found == np.ceil(factors))).all()
        assert abs(len(items) - factors.sum()) < 1 and len(set(items)) == len(items)
        assert all(set(items[items % 7 == i] // 7) == set(range(found[i])) for i in range(7))
        counts += found
    np.testing.assert_allclose(counts / 2000, factors, atol=0.04)


def test_without_repetition_the_order_is_as_before():
    plain = {"batch_size": 3, "max_tokens": None, "scales": (1.0, 1.0), "progressive": False, "seed": 0}
    before = list(BatchSampler([1] * 20, **plain, progress=Progress()))
    assert all(draw.repetition == 0 for batch in before for draw in batch)
    assert drawn(sampler([1] * 20)) == drawn(before)


def test_a_repetition_is_augmented_anew(named_split):
    data = CocoData(train=named_split("train", [["car"]] * 3), size=32)
    dataset = data.train_dataloader().dataset
    assert isinstance(dataset, TrainDataset)
    same, again = (dataset[Draw(1, 0, repetition=n)][1].boxes_cxcywh for n in (0, 1))
    assert not torch.equal(same, again) and torch.equal(again, dataset[Draw(1, 0, repetition=1)][1].boxes_cxcywh)


@pytest.mark.parametrize("options", [{}, {"max_tokens": 4}])
def test_ranks_share_an_epoch_and_resume_in_it(options):
    factors = np.random.default_rng(0).uniform(0.3, 4, 50)
    whole = sampler(factors, batch_size=4, **options)
    parts = [sampler(factors, batch_size=2, rank=r, world_size=2, **options) for r in range(2)]
    lengths = {len(one) for one in parts}
    assert len(lengths) == 1
    for epoch in range(3):
        for one in (whole, *parts):
            one.set_epoch(epoch)
        shares = [list(part) for part in parts]
        assert {len(share) for share in shares} == lengths
        if not options:  # the images of a global batch do not depend on the number of ranks
            for batch, first, second in zip(whole, *shares):
                assert sorted(batch) == sorted(first + second)
    rest = sampler(factors, batch_size=2, rank=1, world_size=2, **options)
    rest.load_state_dict({"epoch": 2, "position": 3})
    assert list(rest) == shares[1][3:]


# ---- several sources


def test_sources_are_matched_by_name_and_drawn_by_weight(named_split):
    one = named_split("one", [["car"], ["dog"]], {"car": 1, "dog": 2})
    two = named_split("two", [["dog"], ["cow"], ["car"]], {"dog": 1, "cow": 2, "car": 9})
    two.weight = 2
    data = CocoData(train=[one, two], batch_size=2, **PLAIN)
    assert dict(zip(data.category_ids, data.classes)) == {1: "car", 2: "dog", 3: "cow"}
    said = data.describe()
    assert "5 images, 5 boxes, 3 classes" in said and "dog 1 is 2" in said and "car 9 is 1" in said
    assert "no category cow: objects of it in these images are background" in said
    assert "3 image ids occur in an earlier source, too" in said
    assert "an epoch draws 8 images from 5, 1 to 2 times each" in said and "two.json 75.0%" in said
    assert seen(data) == {1: ["car"], 2: ["dog"], 3: ["dog"], 4: ["cow"], 5: ["car"]}
    loader = data.train_dataloader()
    assert len(loader) == 4 and drawn(loader.batch_sampler) == {0: 1, 1: 1, 2: 2, 3: 2, 4: 2}
    again = build(config_of(data))
    assert again.describe() == said and config_of(again) == config_of(data)


def test_images_of_sources_come_from_their_own_folders(named_split):
    one, two = named_split("one", [["car"]] * 2), named_split("two", [["car"]] * 3, first_image=5)
    data = CocoData(train=[one, two], val=[two, one], **PLAIN)
    data.mean, data.std = (0, 0, 0), (1 / 255,) * 3
    for loader in (data.train_dataloader(), data.val_dataloader()):
        found = {int(t.image_id): round(float(x[0, 0, 0])) for xs, ts in loader for x, t in zip(xs, ts)}
        assert found == {1: 1, 2: 2, 5: 5, 6: 6, 7: 7}  # the red of an image is its id
    assert "2 of its 2" not in data.describe() and "5 of its 5 images are training images, too" in data.describe()
    assert data.index("val").image_ids.tolist() == [5, 6, 7, 1, 2]


def test_workers_that_are_spawned_read_the_same(named_split):
    import pickle

    one, two = named_split("one", [["car", "dog"]] * 2), named_split("two", [["cow"], ["car"]])
    data = CocoData(train=[one, two], classes=["car", "cow"], **PLAIN)
    index = data.index("train")
    again = pickle.loads(pickle.dumps(index))
    for name in ("image_ids", "first", "categories", "boxes_xywh", "trainable"):
        np.testing.assert_array_equal(getattr(again, name), getattr(index, name))
    assert list(again.file_names) == list(index.file_names) and again.raw(3) == index.raw(3) and again.raw(3)["id"] == 2


@pytest.mark.parametrize("weight", [0, -1, "2", float("nan")])
def test_a_weight_is_a_positive_number_of_training_data(named_split, weight):
    one = named_split("one", [["car"]])
    wrong = Split(one.images, one.annotations, weight)
    for files, place in ((wrong, "data.train"), ([one, wrong], r"data.train\[1\]")):
        with pytest.raises(UserError, match=rf"{place}.weight is .*; wanted a number"):
            CocoData(train=files)
    one.weight = 2
    with pytest.raises(UserError, match=r"data.val.weight is 2; only training images have weights"):
        CocoData(val=one)


def test_a_folder_that_is_missing_is_named(named_split):
    one = named_split("one", [["car"]])
    with pytest.raises(FileNotFoundError, match=r"data.train\[1\].images is 'nowhere'"):
        CocoData(train=[one, Split("nowhere", one.annotations)])


def test_sources_of_panoptic_and_semantic_data(named_panoptic, tmp_path):
    one, two = named_panoptic("one"), named_panoptic("two", (1, 12, 11, 10))
    data = PanopticData(train=[one, two], **PLAIN)
    data.masks = True
    assert len(data.index("train")) == 4 and dict(zip(data.category_ids, data.classes))[10] == "grass"
    truth = {i: data.truth("train")(i) for i in (1, 2, 3, 4)}
    assert [truth[i][2].tolist() for i in (1, 3)] == [[0, 1, 2, 3]] * 2
    assert len([target for _, batch in data.train_dataloader() for target in batch]) == 4
    shapes = ShapesSemanticData(root=str(tmp_path / "shapes"), train_images=3, val_images=2)
    files = list(shapes.splits.values())
    files[1].weight = 3.0
    joined = SemanticData(train=files, classes=shapes.classes)
    assert (joined.truth("train")(4) == shapes.truth("val")(1)).all() and len(joined.index("train")) == 5
    assert joined.repeats().tolist() == [1, 1, 1, 3, 3]


def test_balance_counts_over_all_sources(named_split):
    one, two = named_split("one", [["car"]] * 3), named_split("two", [["bus"]], {"bus": 1})
    one.weight = 0.5
    data = CocoData(train=[one, two], balance=0.5)
    np.testing.assert_allclose(data.repeats(), [0.5, 0.5, 0.5, math.sqrt(2)])


def test_a_mapping_gives_sources_and_a_wrong_key_is_named(named_split):
    one = named_split("one", [["car"]])
    files = {"images": one.images, "annotations": one.annotations}
    assert len(CocoData(train=[files, {**files, "weight": 0.5}]).index("train")) == 2
    with pytest.raises(UserError, match=r"train\[1\] has wight; wanted some of annotations, images, weight"):
        CocoData(train=[files, {**files, "wight": 0.5}])
    assert json.loads(Path(one.annotations).read_text())["images"]
