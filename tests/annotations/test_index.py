"""The index against pycocotools, and files that are not as they should be."""

import json
import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from vitdet.annotations import CocoIndex
from vitdet.errors import UserError
from vitdet.metrics.ground_truth import GroundTruth

ids = st.integers(0, 2**40)


@st.composite
def coco_files(draw):
    image_ids = draw(st.lists(ids, min_size=1, max_size=5, unique=True))
    category_ids = draw(st.lists(st.integers(0, 300), min_size=1, max_size=4, unique=True))
    numbers = draw(st.lists(ids, max_size=8, unique=True))
    value = st.floats(-5, 90, width=32)
    annotations = [
        {
            "id": number,
            "image_id": draw(st.sampled_from(image_ids)),
            "category_id": draw(st.sampled_from(category_ids)),
            "bbox": draw(st.lists(value, min_size=4, max_size=4)),
            "area": draw(st.floats(0, 5000)),
            "iscrowd": draw(st.integers(0, 1)),
            "segmentation": [[1, 2, 3, 4, 5, 6]],
        }
        for number in numbers
    ]
    names = st.text('aé中"\\\n ', min_size=1, max_size=5)
    images = [{"id": i, "file_name": draw(names), "width": 80, "height": 60} for i in image_ids]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": draw(names)} for i in category_ids],
    }


@settings(max_examples=60, deadline=None)
@given(coco_files(), st.booleans(), st.sampled_from([None, 1]))
def test_equals_pycocotools(tmp_path_factory, content, ascii_only, indent):
    path = tmp_path_factory.mktemp("index") / "a.json"
    path.write_text(json.dumps(content, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    index, coco = CocoIndex.open(path), COCO(str(path))
    assert index.image_ids.tolist() == [image["id"] for image in content["images"]]
    assert list(index.file_names) == [image["file_name"] for image in content["images"]]
    assert index.category_ids == sorted(coco.cats) and index.names == [coco.cats[i]["name"] for i in index.category_ids]
    for i, image_id in enumerate(index.image_ids.tolist()):
        rows = index.annotations(i)
        theirs = coco.imgToAnns[image_id]
        assert index.annotation_ids[rows].tolist() == [a["id"] for a in theirs]
        assert index.boxes_xywh[rows].tolist() == [a["bbox"] for a in theirs]
        assert index.area[rows].tolist() == [a["area"] for a in theirs]
        assert index.iscrowd[rows].tolist() == [bool(a["iscrowd"]) for a in theirs]
        assert [index.category_ids[k] for k in index.categories[rows]] == [a["category_id"] for a in theirs]
        assert [index.raw(a) for a in range(rows.start, rows.stop)] == theirs
    trainable = (index.boxes_xywh[:, 2:] > 0).all(1) & ~index.iscrowd
    assert not (index.trainable & ~trainable).any()


def test_the_second_opening_reads_the_cache_and_a_change_is_noticed(coco_split):
    path = Path(coco_split().annotations)
    first = CocoIndex.open(path)
    cached = Path(f"{path}.vitdet-cache")
    stamp = cached.stat().st_mtime_ns
    again = CocoIndex.open(path)
    assert cached.stat().st_mtime_ns == stamp and np.array_equal(first.boxes_xywh, again.boxes_xywh)
    path.write_text(path.read_text().replace('"dog"', '"cow"'))
    assert CocoIndex.open(path).names == ["cat", "cow"]


def test_a_damaged_cache_is_built_again(coco_split):
    path = Path(coco_split().annotations)
    whole = CocoIndex.open(path)
    cached = Path(f"{path}.vitdet-cache")
    for content in (b"", b"vitdet01", cached.read_bytes()[:-40]):
        cached.unlink()
        cached.write_bytes(content)
        assert np.array_equal(CocoIndex.open(path).boxes_xywh, whole.boxes_xywh)


def test_a_read_only_folder_stays_clean(coco_split, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = Path(coco_split().annotations)
    os.chmod(path.parent, 0o555)
    try:
        index = CocoIndex.open(path)
        assert not list(path.parent.glob("*.vitdet-cache"))
    finally:
        os.chmod(path.parent, 0o755)
    assert len(index) == 7


def _boxes(path):
    return CocoIndex.open(path).boxes_xywh.tolist()


def test_processes_may_build_at_once_and_workers_share_the_file(coco_split):
    path = coco_split().annotations
    with ProcessPoolExecutor(4) as pool:
        results = list(pool.map(_boxes, [path] * 8))
    assert all(result == results[0] for result in results)
    assert not list(Path(path).parent.glob("*.tmp"))
    assert len(pickle.dumps(CocoIndex.open(path))) < 2000


def test_bad_annotations_are_counted(tmp_path):
    good = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    bad = [
        {"category_id": 9},
        {"image_id": 9},
        {"bbox": [1, 1, 0, 5]},
        {"bbox": [99, 1, 5, 5]},
        {"bbox": [1, 2, 3]},
        {"iscrowd": 1},
    ]
    annotations = [good, *({**good, "id": 2 + i, **change} for i, change in enumerate(bad))]
    images = [{"id": 1, "file_name": "a.png", "width": 20, "height": 20}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}))
    index = CocoIndex.open(path)
    assert index.trainable.sum() == 1 and len(index.boxes_xywh) == 4
    notes = "\n".join(index.notes)
    for reason in (
        "unknown category",
        "unknown image",
        "zero or negative size",
        "wholly outside",
        "no box of four",
        "crowd",
    ):
        assert reason in notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "wanted an object"),
        ('{"images": []}', '"categories"'),
        ('{"images": [], "categories": []}', "list the classes"),
        ('{"images": [{"id": 1', "not valid JSON"),
        ("", "not valid JSON"),
        (
            '{"images": [{"id": 1, "file_name": "a", "width": 0, "height": 4}], '
            '"categories": [{"id": 1, "name": "a"}]}',
            '"width"',
        ),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "more than once"),
    ],
)
def test_files_that_are_not_coco_say_what_is_missing(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        CocoIndex.open(path).check_images()


def test_opening_from_the_cache_is_quick(tmp_path):
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(4000)]
    rng = np.random.default_rng(0)
    annotations = [
        {
            "id": i,
            "image_id": i // 7,
            "category_id": 1,
            "bbox": rng.uniform(1, 99, 4).round(2).tolist(),
            "area": 5.0,
            "iscrowd": 0,
            "segmentation": [rng.uniform(0, 400, 40).round(2).tolist()],
        }
        for i in range(28000)
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        CocoIndex.open(path)
        times.append(time.perf_counter() - start)
    assert times[1] < times[0] / 3


SCALARS = [None, True, False, 0, 1, 1.0, 1.5, -1, 2**63, 10**400, float("nan"), float("inf"), "1", "", "é", "\ud800"]
LISTS = [[1], {}, [1, 2, 3, 4], [1.0, 2, 3, 4.5], [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, float("nan")]]
ODD = st.sampled_from([*SCALARS, *LISTS])
MISSING = object()
KEYS = {
    "images": {"id": 1, "file_name": "a.png", "width": 80, "height": 60},
    "categories": {"id": 1, "name": "cat", "isthing": 1},
    "annotations": {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
}


@st.composite
def odd_files(draw):
    """Files with a value or two that are not as they should be, or are missing."""
    content = {key: [dict(item), {**item, "id": 2}] for key, item in KEYS.items()}
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(sorted(content)))
        value = draw(st.one_of(st.just(MISSING), ODD))
        if draw(st.integers(0, 9)) == 0:
            content[key] = value
        elif isinstance(content[key], list) and draw(st.integers(0, 9)) == 0:
            content[key] = [*content[key], None if value is MISSING else value]
        elif isinstance(content[key], list) and content[key] and isinstance(content[key][0], dict):
            content[key][0][draw(st.sampled_from(sorted(KEYS[key])))] = value
        content[key] = [_without(item) for item in content[key]] if isinstance(content[key], list) else content[key]
    return _without(content)


def _without(item):
    return {k: v for k, v in item.items() if v is not MISSING} if isinstance(item, dict) else item


def _outcome(read):
    """What a reader makes of a file, or the class of its error."""
    try:
        return read()
    except UserError:
        return UserError


@settings(max_examples=200, deadline=None)
@given(odd_files())
def test_training_and_scoring_see_the_same_in_odd_files(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("odd") / "a.json"
    path.write_text(json.dumps(content))
    index, truth = _outcome(lambda: CocoIndex.open(path)), _outcome(lambda: GroundTruth.read(path))
    assert (index is UserError) == (truth is UserError)
    if index is UserError:
        return
    assert sorted(index.image_ids.tolist()) == truth.image_ids.tolist()
    assert (index.category_ids, index.names) == (truth.category_ids, truth.names)
    assert len(index.boxes_xywh) == len(truth.boxes_xywh) and index.area.sum() == truth.area.sum()
    assert index.left_out == dict(truth.notes)
    given = _outcome(lambda: GroundTruth.read(content))
    assert given is not UserError and np.array_equal(given.boxes_xywh, truth.boxes_xywh)
    if _outcome(index.check_images) is not UserError:
        assert all(index.file_names) and (index.heights > 0).all() and (index.widths > 0).all()


@pytest.mark.parametrize("number", [1, 1.0, 1e0])
def test_whole_numbers_may_be_written_as_fractions(tmp_path, number):
    content = {key: [{**item, **{k: number for k in item if k.endswith("id")}}] for key, item in KEYS.items()}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    index = CocoIndex.open(path)
    index.check_images()
    assert len(index.boxes_xywh) == 1 and len(GroundTruth.read(path).image) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"images": [], "categories": [], "annotations": [],}', "not valid JSON"),
        (b'{"images": [], "categories": [{"id": 1, "name": "a"},]}', "not valid JSON"),
        (b'{"images": [], "categories": []} {}', "not valid JSON"),
        (b'{"images": [], "images": [], "categories": []}', '"images" occurs twice'),
        (b'{"images": [{"id": 1, "file_name": "\xff"}], "categories": []}', "not in UTF-8"),
        (b'{"images": ' + b"[" * 100000, "nested too deeply"),
        (b"\x1f\x8b\x08", "is compressed"),
        ('{"images": []}'.encode("utf-16"), "in UTF-16"),
    ],
)
def test_files_that_are_no_json_are_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    for read in (CocoIndex.open, GroundTruth.read):
        with pytest.raises(UserError, match=message):
            read(path)


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({key: [item] for key, item in KEYS.items()}), encoding="utf-8-sig")
    assert CocoIndex.open(path).raw(0) == KEYS["annotations"]
