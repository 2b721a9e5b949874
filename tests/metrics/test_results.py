"""Results files: what is accepted, what is refused and how that is said, and how scores are shown."""

import io
import json

import pytest
from rich.console import Console

from vitdet.metrics import evaluate, print_scores

TRUTH = {
    "images": [{"id": 5}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [{"id": 0, "image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}],
}
FOUND = {"image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.5}


@pytest.fixture
def score(tmp_path):
    """Scores the content of a results file against that of an annotation file."""

    def run(results, truth=TRUTH, **options):
        for name, content in (("results", results), ("truth", truth)):
            (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return evaluate(tmp_path / "results.json", tmp_path / "truth.json", **options)

    return run


def test_good_files(score):
    scores, protocol = score([FOUND])
    assert [scores["AP"], scores["AP/cat"]] == pytest.approx([1, 1]) and "all 1 images" in protocol
    assert score([])[0]["AP"] == 0
    assert score([{**FOUND, "segmentation": [], "id": 9}])[0]["AP"] == pytest.approx(1)  # more than is needed


def test_masks_are_scored_where_there_are_some(score):
    square = [[0, 0, 9, 0, 9, 9, 0, 9]]
    images, (annotation,) = [{"id": 5, "height": 20, "width": 30}], TRUTH["annotations"]
    truth = {**TRUTH, "images": images, "annotations": [{**annotation, "segmentation": square}]}
    half = {key: value for key, value in FOUND.items() if key != "bbox"} | {"segmentation": [[0, 0, 9, 0, 9, 6, 0, 6]]}
    scores, protocol = score([half], truth)  # IoU 2/3: found at 0.5, 0.55, 0.6 and 0.65
    assert scores["AP"] == pytest.approx(0.4) and "mask AP" in protocol
    assert scores["box_AP"] == pytest.approx(0.4)  # a box is made of the mask where there is none
    scores, protocol = score([{**FOUND, **half, "bbox": [0, 0, 9, 9]}], truth, iou_type="bbox")
    assert scores["AP"] == pytest.approx(1) and "box AP" in protocol and "box_AP" not in scores
    both = [{**FOUND, "score": 0.1, "segmentation": []}, {**FOUND, **half}]
    with pytest.raises(ValueError, match="detection 0: segmentation"):  # one mask is enough to make it a file of masks
        score(both, truth)
    assert "box AP" in score([half | {"bbox": [0, 0, 9, 9]}])[1]  # no masks to score against
    with pytest.raises(ValueError, match="image_id must be an integer"):
        score([{**half, "bbox": [0, 0, 9, 9], "image_id": [5]}], truth)
    with pytest.raises(ValueError, match="detection 0: run lengths are of size"):
        score([{**half, "segmentation": {"size": [3, 3], "counts": "9"}}], truth)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (TRUTH, r"results\.json: wanted a list of detections, got a dict with the keys \['images'.*annotation file\?"),
        ("[{", r"results\.json is not valid JSON"),
        ([1], r"detection 0: wanted an object"),
        (
            [FOUND, {"image_id": 5, "bbox": [0, 0, 1, 1]}],
            r"detection 1: it has no 'category_id'; found \['image_id', 'bbox'\]",
        ),
        ([{**FOUND, "image_id": 6}], r"detection 0: image_id 6 is not in the annotation file"),
        ([{**FOUND, "image_id": "5"}], r"image_id must be an integer, got '5'"),
        ([{**FOUND, "category_id": 1}], r"category_id 1 is not in the annotation file, which has \[3\]"),
        ([{**FOUND, "category_id": True}], r"category_id must be an integer, got True"),
        ([{**FOUND, "bbox": [0, 0, 1]}], r"bbox must be four finite numbers"),
        ([{**FOUND, "bbox": [0, 0, "1", 1]}], r"bbox must be four finite numbers"),
        ([{**FOUND, "score": float("nan")}], r"score must be a finite number, got nan"),
        ([{**FOUND, "score": None}], r"score must be a finite number, got None"),
    ],
)
def test_bad_results(score, results, message):
    with pytest.raises(ValueError, match=message):
        score(results)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (
            [FOUND],
            r"truth\.json: wanted an object with \"images\" and \"categories\", got a list; is this a results file\?",
        ),
        ({"images": []}, r"no list \"categories\" \(found images\)"),
        ({**TRUTH, "images": [{"id": "a"}]}, r"each of \"images\" needs an integer \"id\""),
        ({**TRUTH, "images": [{"id": 5}, {"id": 5}]}, r"id 5 occurs more than once in \"images\""),
        ({**TRUTH, "categories": [{"name": "cat"}]}, r"each of \"categories\" needs an integer \"id\""),
    ],
)
def test_bad_annotations(score, truth, message):
    with pytest.raises(ValueError, match=message):
        score([FOUND], truth)


def test_missing_files(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    with pytest.raises(FileNotFoundError, match=r"annotation file .*none\.json does not exist"):
        evaluate(tmp_path / "truth.json", tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"results file .*none\.json does not exist"):
        evaluate(tmp_path / "none.json", tmp_path / "truth.json")


def test_scores_are_printed_with_their_protocol(score):
    scores, protocol = score([FOUND])
    text = io.StringIO()
    print_scores(scores, protocol, Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    for name, value in (("AP50", "1.0000"), ("APl", "none"), ("AP/cat", "1.0000")):
        assert any(name in line.split("│")[1].split() and value in line for line in lines if line.count("│") == 3)
    assert lines[-1] == protocol
