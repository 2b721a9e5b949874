"""The values of annotation files: flags, ids, encodings, boxes that are missing, and files that change."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vitdet.annotations import CocoIndex
from vitdet.errors import DataError
from vitdet.metrics import evaluate
from vitdet.metrics.ground_truth import GroundTruth

OBJECT = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [2, 2, 7, 7], "area": 49, "iscrowd": 0}
SQUARE = [[2, 2, 9, 2, 9, 9, 2, 9]]
FOUND = {"image_id": 7, "category_id": 3, "bbox": [2, 2, 7, 7], "score": 0.5}


def content(*objects, **category):
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 30, "height": 20}],
        "annotations": list(objects),
        "categories": [{"id": 3, "name": "cat", **category}],
    }


def panoptic(*segments):
    return content({"image_id": 7, "file_name": "a.png", "segments_info": list(segments)})


@pytest.fixture
def write(tmp_path):
    def run(value, name="a.json"):
        path = tmp_path / name
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    return run


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, True, False, None])
def test_flags_of_json(write, value):
    index = CocoIndex.open(write(content({**OBJECT, "iscrowd": value})))
    assert index.iscrowd.tolist() == [bool(value)] == GroundTruth.read(index).iscrowd.tolist()
    assert CocoIndex.open(write(panoptic({**OBJECT, "iscrowd": value}))).iscrowd.tolist() == [bool(value)]
    # a category without the flag is one of things
    assert CocoIndex.open(write(content(isthing=value))).things == [value is None or bool(value)]


@pytest.mark.parametrize("value", ["0", "1", "no", "", 2, -1, 0.5, float("nan"), [], [0], {}])
def test_other_flags_are_refused(write, value):
    named = r'a\.json: annotation 5: "iscrowd" is .*; wanted 0, 1, true or false'
    for made in (content, panoptic):
        path = write(made({**OBJECT, "iscrowd": value}))
        for read in (CocoIndex.open, GroundTruth.read, lambda path: evaluate(write([FOUND], "r.json"), path)):
            with pytest.raises(DataError, match=named):
                read(path)
    with pytest.raises(DataError, match=r'category 3: "isthing" is .*; wanted 0, 1, true or false'):
        CocoIndex.open(write(content(OBJECT, isthing=value)))


def test_whole_numbers_may_be_fractions_in_training_and_scoring(write):
    truth = write(content({**OBJECT, "image_id": 7.0, "category_id": 3.0}))
    for number, category in ((7, 3), (7.0, 3.0)):
        found = write([{**FOUND, "image_id": number, "category_id": category}], "r.json")
        assert evaluate(found, truth)[0]["AP"] == pytest.approx(1)
        named = write([{**FOUND, "image_id": number, "category_id": category, "file_name": "d/a.png"}], "r.json")
        assert evaluate(named, truth)[0]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_texts_are_no_ids_in_training_and_scoring(write, key):
    truth = write(content({**OBJECT, key: str(OBJECT[key])}))
    for read in (CocoIndex.open, GroundTruth.read):
        with pytest.raises(DataError, match=rf'annotation 5: "{key}" is .*, a text; wanted a whole number'):
            read(truth)
    with pytest.raises(DataError, match=rf"detection 0: {key} must be an integer"):
        evaluate(write([{**FOUND, key: str(FOUND[key])}], "r.json"), write(content(OBJECT)))


NAMED = {**content(OBJECT), "images": [{"id": 7, "file_name": "zébra.png", "width": 30, "height": 20}]}


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32"),
    ],
)
def test_other_encodings_are_named(write, encoding, name):
    text = json.dumps(NAMED, ensure_ascii=False).encode(encoding)
    for read in (CocoIndex.open, lambda path: evaluate(path, write(content(OBJECT), "truth.json"))):
        with pytest.raises(DataError, match=rf"a\.json is in {name}; save it as UTF-8"):
            read(write(text))


def test_latin_1_is_shown_and_utf_8_with_a_mark_is_read(write):
    text = json.dumps(NAMED, ensure_ascii=False)
    assert list(CocoIndex.open(write(text.encode("utf-8-sig"))).file_names) == ["zébra.png"]
    with pytest.raises(DataError, match="not in UTF-8 .*zébra.*; save it as UTF-8"):
        CocoIndex.open(write(text.encode("latin-1")))
    mark = write(b"\xef\xbb\xbf" + json.dumps([FOUND]).encode(), "r.json")
    assert evaluate(mark, write(content(OBJECT)))[0]["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON: it is empty"),
        (b" \n", "not valid JSON: it is empty"),
        (b"\0" * 99, "damaged: it begins with zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b'{"images": [], "categories": [{"id": ' + b"9" * 5000, "digits"),
        (b'{"images": ' + b"[" * 100_000, "nested too deeply"),
        (b"\x28\xb5\x2f\xfd", "is compressed"),
    ],
)
def test_what_is_no_json_is_named(write, text, message):
    for read in (CocoIndex.open, lambda path: evaluate(path, write(content(OBJECT), "truth.json"))):
        with pytest.raises(DataError, match=message):
            read(write(text))


@pytest.mark.parametrize("missing", [..., None, [], [1, 2], [float("nan")] * 4, "2 2 7 7"])
@pytest.mark.parametrize("mask", [SQUARE, {"size": [20, 30], "counts": [42, *[7, 13] * 6, 7, 431]}])
def test_a_missing_box_is_that_of_the_mask(write, missing, mask):
    item = {**OBJECT, "segmentation": mask, "bbox": missing}
    if missing is ...:
        del item["bbox"]
    index = CocoIndex.open(write(content(item, {**OBJECT, "id": 6, "bbox": [1, 1, 3, 3]})))
    assert index.boxes_xywh.tolist() == [[2, 2, 7, 7], [1, 1, 3, 3]] and index.trainable.all()
    assert index.notes == ["1 annotations without a box of four finite numbers: it is taken from the mask"]


def test_a_box_of_a_mask_ends_at_the_image(write):
    beyond = [[-5, -5, 50, -5, 50, 10, -5, 10]]
    index = CocoIndex.open(write(content({**OBJECT, "segmentation": beyond, "bbox": None})))
    assert index.boxes_xywh.tolist() == [[0, 0, 30, 10]]
    broken = {**OBJECT, "segmentation": [[1, 1, 9, 1, 9, float("nan")]], "bbox": None}
    assert CocoIndex.open(write(content(broken))).notes == ["1 annotations left out: no box of four finite numbers"]


@pytest.mark.parametrize("box", [..., None, [0, 0, 0, 0], [1, 2, 3], [float("nan")] * 4])
def test_segments_without_a_box_are_kept(write, box):
    segments = [{"id": 9, "category_id": 3} | ({} if box is ... else {"bbox": box}), {**OBJECT, "id": 10}]
    index = CocoIndex.open(write(panoptic(*segments)))
    assert index.boxless.tolist() == [True, False] and index.trainable.all() and index.masked.all()
    assert index.boxes_xywh[0].tolist() == [0, 0, 0, 0]
    assert index.notes == ["1 segments have no box: it is taken from their pixels"]


def test_objects_and_segments_are_not_mixed(write):
    with pytest.raises(DataError, match="mixes objects and panoptic segments"):
        CocoIndex.open(write(content(OBJECT, {"image_id": 7, "file_name": "a.png", "segments_info": []})))
    with pytest.raises(DataError, match='annotation number 1: "segments_info" is 5; wanted a list'):
        CocoIndex.open(write(content({"image_id": 7, "segments_info": 5})))


def test_any_change_of_a_large_file_is_noticed(write):
    """Also where its size and its time stay, as a program that restores times leaves them."""
    value = content(OBJECT) | {"info": "x" * (17 << 20)}
    path = write(value)
    assert CocoIndex.open(path).names == ["cat"]
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(path.read_bytes().index(b'"cat"'))
        file.write(b'"cow"')
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size and CocoIndex.open(path).names == ["cow"]


def test_a_worker_opens_the_cache_without_reading_the_file(write):
    path = write(content({**OBJECT, "segmentation": SQUARE}))
    index = pickle.dumps(CocoIndex.open(path))
    path.rename(path.with_name("b.json"))
    again = pickle.loads(index)
    assert np.array_equal(again.boxes_xywh, [[2, 2, 7, 7]])
    Path(path).write_text("{}")
    with pytest.raises(DataError, match="has changed since it was opened"):
        again.rle(0)


def test_results_of_other_images_say_how_many(write):
    truth = write(content(OBJECT))
    rows = [FOUND, {**FOUND, "image_id": 8}, {**FOUND, "image_id": 9}]
    message = (
        r"detection 1: image_id 8 is not in the annotation file, which has \[7\] \(2 of the 3 in the results are not\)"
    )
    with pytest.raises(DataError, match=message + "; give the annotations of these images, or .* file_name"):
        evaluate(write(rows, "r.json"), truth)


def test_a_broken_mask_of_the_annotations_is_named(write):
    truth = write(content({**OBJECT, "segmentation": SQUARE}, {**OBJECT, "id": 6, "segmentation": [[1, 1, 9]]}))
    found = write([{**FOUND, "segmentation": SQUARE}], "r.json")
    with pytest.raises(DataError, match=r"annotation 6: polygon 0 has 3 numbers.*iou_type bbox scores the boxes alone"):
        evaluate(found, truth)
    assert evaluate(found, truth, iou_type="bbox")[0]["AP50"] > 0.4


def test_an_index_of_no_file_goes_to_workers_with_its_text():
    again = pickle.loads(pickle.dumps(CocoIndex.of(content({**OBJECT, "segmentation": SQUARE}))))
    assert again.raw(0)["segmentation"] == SQUARE and again.rle(0)["size"] == [20, 30]
