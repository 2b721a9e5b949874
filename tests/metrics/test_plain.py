"""Results files that hotcoco reads at once give what those give that are read item by item, and no fault slips past."""

import json
import subprocess
import sys

import numpy as np
import pytest
from coco_oracle import make_case

from vitdet.errors import UserError
from vitdet.metrics import evaluate
from vitdet.metrics.plain import BLOCK, is_plain


def write(tmp_path, truth, rows):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return tmp_path / "found.json", tmp_path / "truth.json"


def as_rows(detections):
    return [dict(zip(("image_id", "category_id", "bbox", "score"), (i, c, list(b), s))) for i, c, b, s in detections]


def test_both_readers_give_the_same(tmp_path):
    rng, plain = np.random.default_rng(0), 0
    for _ in range(60):
        truth, detections = make_case(rng)
        truth["images"] = [{**image, "height": 300, "width": 300} for image in truth["images"]]
        rows = as_rows(detections)
        files = write(tmp_path, truth, rows)
        quick = evaluate(*files)
        plain += bool(is_plain(files[0]))
        slow = [{**row, "note": ""} for row in rows]  # a key that is not one of the four
        assert not is_plain(write(tmp_path, truth, slow)[0])
        assert quick == evaluate(*files)
    assert plain > 40


def test_a_key_may_lie_on_the_border_of_two_blocks(tmp_path):
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
    for shift in range(0, 90, 7):
        text = json.dumps([row] * (BLOCK // 40))
        (tmp_path / "a.json").write_text(" " * shift + text)
        assert is_plain(tmp_path / "a.json") == BLOCK // 40


TRUTH = {
    "images": [{"id": i, "height": 50, "width": 50} for i in (1, 2)],
    "categories": [{"id": 1, "name": "a"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}],
}
ROW = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {key: value for key, value in ROW.items() if key != "score"}], "detection 1: it has no 'score'"),
        ([ROW, {key: value for key, value in ROW.items() if key != "bbox"}], "detection 1: it has no 'bbox'"),
        ([{**ROW, "extra": {"score": 1}}, {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}], "no 'score'"),
        ([{**ROW, "bbox": [0, 0, 1, 1, 1]}], "four finite numbers"),
        ([{**ROW, "image_id": 7}], "image_id 7 is not in the annotation file"),
        ([{**ROW, "image_id": -1}], "image_id -1 is not in the annotation file"),
        ([{**ROW, "score": float("inf")}], "score must be a finite number"),
        ('{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}', "wanted a list of detections, got a d"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}', "is not valid JSON"),
    ],
)
def test_a_fault_is_named_as_before(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        evaluate(*write(tmp_path, TRUTH, rows))


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([30, 30, 48, 49], "40 boxes end outside their image"),
        ([0.1, 0.1, 0.5, 0.5], "40 boxes, all, end within the first pixel"),
        ([9, 9, -9, -9], "40 boxes of a negative width or height"),
        ([9, 9, -9, 9], "40 boxes of a negative width or height"),
        ([0, 0, 9, 9], "maxDets 1/10/100, hotcoco"),
    ],
)
def test_odd_boxes_and_images_without_any_are_noted(tmp_path, box, said):
    protocol = evaluate(*write(tmp_path, TRUTH, [{**ROW, "bbox": box}] * 40))[1]
    assert said in protocol and "1 images have no detection, and count as missed" in protocol


def test_scoring_a_file_imports_no_pytorch(tmp_path):
    files = write(tmp_path, TRUTH, [ROW])
    code = "import sys; from vitdet.cli import main; main(['evaluate', *sys.argv[1:]]); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1] == "False", run.stderr
