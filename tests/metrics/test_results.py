"""Results files: what is accepted, what is refused and how that is said, and how scores are shown."""

import io
import json

import pytest
from rich.console import Console

from vitdet.errors import UserError
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
            text = content if isinstance(content, (str, bytes)) else json.dumps(content)
            (tmp_path / f"{name}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return evaluate(tmp_path / "results.json", tmp_path / "truth.json", **options)

    return run


def test_good_files(score):
    scores, protocol = score([FOUND])
    assert [scores["AP"], scores["AP/cat"]] == pytest.approx([1, 1]) and "all 1 images" in protocol
    scores, protocol = score([])
    assert scores["AP"] == 0 and "the results file is empty" in protocol
    scores, protocol = score([FOUND], {**TRUTH, "annotations": []})
    assert scores["AP"] == -1 and "there is nothing to find" in protocol
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
    for counts in ([-5, 605], [2**40], ["a"]):
        with pytest.raises(UserError, match="detection 0: segmentation .* can't be read"):
            score([{**half, "segmentation": {"size": [20, 30], "counts": counts}}], truth)
    with pytest.raises(ValueError, match="detection 0: run lengths are of size"):
        score([{**half, "segmentation": {"size": [3, 3], "counts": "9"}}], truth)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (TRUTH, r"results\.json: wanted a list of detections, got a dict with the keys \['images'.*annotation file\?"),
        ({"annotations": [{"image_id": 5, "segments_info": []}]}, r"got a dict .*is this a panoptic result\?"),
        ("[{", r"results\.json is not valid JSON"),
        ("[" * 100000, r"results\.json is nested too deeply"),
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
        ([{**FOUND, "score": 10**400}], r"score must be a finite number, got 1000"),
        (b"\x1f\x8b\x08", r"results\.json is compressed"),
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
            r"truth\.json is not a COCO file: wanted an object with \"images\" and \"categories\", got a list; "
            r"is this a results file\?",
        ),
        ({"images": []}, r"no list \"categories\" \(found images\)"),
        ({**TRUTH, "images": [{"id": "a"}]}, r"each of \"images\" needs an integer \"id\""),
        ({**TRUTH, "images": [{"id": 2**63}]}, r"each of \"images\" needs an integer \"id\""),
        ({**TRUTH, "images": [{"id": 5}, {"id": 5}]}, r"id 5 occurs more than once in \"images\""),
        ({**TRUTH, "annotations": {"0": 1}}, r"\"annotations\" is a dict; wanted a list"),
        (
            {**TRUTH, "annotations": [1, {"image_id": [5]}]},
            r"nothing to score against \(1 annotations left out: no obj",
        ),
        (
            {**TRUTH, "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": [{"category_id": 3}]}]},
            r"truth\.json has nothing to score against: it is a COCO panoptic file; wanted boxes or masks",
        ),
        ({**TRUTH, "categories": [{"name": "cat"}]}, r"each of \"categories\" needs an integer \"id\""),
    ],
)
def test_bad_annotations(score, truth, message):
    with pytest.raises(ValueError, match=message):
        score([FOUND], truth)


def test_missing_files(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "results.json").write_text(json.dumps([FOUND]))
    with pytest.raises(UserError, match=r"results file .* is a folder"):
        evaluate(tmp_path, tmp_path / "truth.json")
    with pytest.raises(FileNotFoundError, match=r"annotation file .*none\.json does not exist"):
        evaluate(tmp_path / "results.json", tmp_path / "none.json")
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


def folder(*images):
    """An annotation file of images, each `(id, file_name)`, with a cat in the left top corner of each."""
    (annotation,) = TRUTH["annotations"]
    return {
        **TRUTH,
        "images": [{"id": number, "file_name": name} for number, name in images],
        "annotations": [{**annotation, "id": i, "image_id": number} for i, (number, _) in enumerate(images)],
    }


def rows(*files):
    """A detection in the left top corner of each `(image_id, file_name)`."""
    return [{**FOUND, "image_id": number, "file_name": name} for number, name in files]


@pytest.mark.parametrize(
    ("images", "files"),
    [
        ([(8, "a.png"), (1, "b.png")], [(1, "data/a.png"), (2, "data/b.png")]),  # as `predict data` numbers them
        ([(8, "a.png"), (1, "b.png")], [(1, "/home/me/data/a.png"), (8, "C:\\me\\b.png")]),
        ([(1, "x/a.png"), (2, "y/a.png")], [(1, "d/y/a.png"), (2, "d/x/a.png")]),
        ([(1, "d/x/a.png"), (2, "d/y/a.png")], [(1, "./y/a.png"), (2, "../x/a.png")]),  # seen from below d
        ([(1, "a.png"), (2, "x/a.png")], [(1, "d/x/a.png"), (2, "d/a.png")]),  # the longer one counts
        ([(1, "a.png"), (2, "x/a.png")], [(1, "x/a.png"), (2, "a.png")]),  # and the very name
        ([(1, "val\\a.png"), (2, "val/b.png")], [(1, "d/val/b.png"), (2, "d/val/a.png")]),
        ([(1, "val/a.png"), (2, "val/b.png")], [(1, "images/b.png"), (2, "images/a.png")]),  # folders were renamed
        ([(1, "b/x.png"), (2, "b/y.png")], [("y", "y.png"), ("x", "x.png")]),  # as Ultralytics calls images
        ([(1, "x.png"), (2, "y.png")], [(None, "y.png"), (None, "x.png")]),
        ([(1, "ein Bär.png"), (2, "b.png")], [(1, "d/b.png"), (2, "d/ein Ba\u0308r.png")]),
    ],
)
def test_rows_are_matched_by_their_files(score, images, files):
    found, protocol = score(rows(*files), folder(*images))
    assert found["AP"] == pytest.approx(1) and "matched by file_name" in protocol


def test_nothing_is_said_where_ids_agree(score):
    assert "file_name" not in score(rows((8, "d/a.png"), (1, "d/b.png")), folder((8, "a.png"), (1, "b.png")))[1]
    assert 'have no "file_name"' in score(rows((5, "d/a.png")))[1]  # the annotation file names none


@pytest.mark.parametrize(
    ("images", "files", "message"),
    [
        ([(1, "a.png")], [(1, "d/c.png")], r"in d/c\.png, which is no image of .*truth\.json; .*--annotations"),
        ([(1, "x/a.png"), (2, "y/a.png")], [(1, "a.png")], r"a\.png could be 2 images .*x/a\.png, y/a\.png"),
        ([(1, "x/a.png"), (2, "y/a.png")], [(1, "z/a.png")], r"z/a\.png, which is no image"),
        ([(1, "a.png"), (2, "a.png")], [(1, "d/a.png")], r"could be 2 images"),
        ([(1, "a.png")], [(1, "x/a.png"), (2, "y/a.png")], r"x/a\.png and y/a\.png are both image a\.png"),
        ([(1, "val/a.png")], [(1, "d/val/a.png"), (2, "d/train/a.png")], r"d/train/a\.png, which is no image"),
        ([(1, "a.png"), (2, "b.png")], [(1, "a.png"), (2, "a.png")], r"a\.png is image 1 and, in detection 1, image 2"),
        ([(1, "a.png"), (2, "b.png")], [(1, "a.png"), (1, "b.png")], r"image 1 is a\.png and, in detection 1, b\.png"),
        ([(1, "a.png"), (2, "b.png")], [(2, "a.png"), (3, None)], r"file_name must be the path of an image, got None"),
        ([(1, "a.png")], [(1.5, "a.png")], r"image_id must be an integer, got 1.5"),
        ([(1, "a.png")], [(1, "")], r"file_name must be the path of an image, got ''"),
    ],
)
def test_rows_that_contradict_are_refused(score, images, files, message):
    with pytest.raises(UserError, match=message):
        score(rows(*files), folder(*images))


def test_ids_of_two_kinds_are_refused(score):
    mixed = [*rows((2, "d/a.png")), {**FOUND, "image_id": 2}]
    with pytest.raises(UserError, match=r"detection 1 has no file_name, and the image ids of those that have one"):
        score(mixed, folder((1, "a.png"), (2, "b.png")))
    agree = [*rows((1, "d/a.png")), {**FOUND, "image_id": 2}]
    assert score(agree, folder((1, "a.png"), (2, "b.png")))[0]["AP"] == pytest.approx(1)


def test_a_mask_of_another_images_size_is_refused(score):
    truth = folder((1, "a.png"), (2, "b.png"))
    for image, annotation, side in zip(truth["images"], truth["annotations"], (20, 30)):
        image |= {"height": side, "width": side}
        annotation["segmentation"] = [[0, 0, 9, 0, 9, 9, 0, 9]]
    (row,) = rows((2, "d/a.png"))
    with pytest.raises(UserError, match=r"detection 0: run lengths are of size \[30, 30\], the image is 20×20"):
        score([{**row, "segmentation": {"size": [30, 30], "counts": "PTR"}}], truth)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([5, 5, 25, 19], "1 boxes end outside their image"),  # corners
        ([0.1, 0.1, 0.5, 0.5], "1 boxes, all, end within the first pixel"),
        ([9, 9, -9, -9], "1 boxes of a negative width or height"),
        ([0, 0, 9, 9], ""),
    ],
)
def test_boxes_of_another_format_are_noticed(score, box, said):
    truth = {**TRUTH, "images": [{"id": 5, "height": 20, "width": 26}]}
    protocol = score([{**FOUND, "bbox": box}], truth)[1]
    assert said in protocol and (said or "box" not in protocol.removeprefix("COCO box"))


def test_images_without_a_row_are_counted(score):
    truth = {**TRUTH, "images": [{"id": 5}, {"id": 6}]}
    assert "1 images have no detection, and count as missed" in score([FOUND], truth)[1]


def test_annotations_that_are_all_crowds_give_no_score(score):
    (annotation,) = TRUTH["annotations"]
    scores, protocol = score([FOUND], {**TRUTH, "annotations": [{**annotation, "iscrowd": 1}]})
    assert scores["AP"] == -1 and "there is nothing to find" in protocol


def test_scoring_boxes_where_masks_were_given_is_said(score):
    mask = {"size": [20, 30], "counts": [0, 9, 591]}
    assert "0 masks scored, only boxes" in score([{**FOUND, "segmentation": mask}])[1]
    assert "masks scored" not in score([{**FOUND, "segmentation": mask}], iou_type="bbox")[1]


@pytest.mark.parametrize("counts", ["b'0:9'", "\x00zz", [600, 1]])
def test_run_lengths_that_are_none_are_refused(score, counts):
    images, (annotation,) = [{"id": 5, "height": 20, "width": 30}], TRUTH["annotations"]
    truth = {**TRUTH, "images": images, "annotations": [{**annotation, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}]}
    with pytest.raises(UserError, match="detection 0: run lengths .*iou_type bbox"):
        score([{**FOUND, "segmentation": {"size": [20, 30], "counts": counts}}], truth)


@pytest.mark.parametrize("options", [{"max_dets": 0}, {"max_dets": True}, {"max_dets": 1.5}, {"iou_type": "box"}])
def test_options_out_of_range(score, options):
    with pytest.raises(UserError, match=f"{next(iter(options))} is .*; wanted"):
        score([FOUND], **options)


def test_a_folder_of_label_maps_is_no_results_file(tmp_path):
    with pytest.raises(UserError, match="is a folder.*vitdet test"):
        evaluate(tmp_path, tmp_path)
