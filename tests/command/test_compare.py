"""`vitdet compare` on results files: what it prints, and what it refuses."""

import json

import pytest

from vitdet.cli import main

BOX = [10, 10, 40, 40]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An annotation file and two results files: the second finds a cat in every image, the first in every other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    numbers = range(1, 41)
    row = {"category_id": 3, "bbox": BOX, "area": 1600, "iscrowd": 0}
    truth = {
        "images": [{"id": i, "height": 90, "width": 90, "file_name": f"{i}.jpg"} for i in numbers],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [{"id": i, "image_id": i, **row} for i in numbers],
    }
    found = [{"image_id": i, "category_id": 3, "bbox": BOX, "score": 0.9} for i in numbers]
    for name, content in (("truth", truth), ("all", found), ("half", found[::2])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def refused(*argv):
    with pytest.raises(SystemExit) as end:
        main(["compare", *argv])
    return end.value.code == 2


def test_what_is_better_is_said_with_its_interval(files, capsys):
    main(["compare", "half.json", "all.json", "--annotations", "truth.json", "--resamples", "100"])
    out = capsys.readouterr().out
    assert "B is better by 0.4950 AP, beyond noise." in out and "100 draws of the images, seed 0" in out
    assert "COCO box AP, all 40 images, 2 classes" in out and "1 of the classes differ beyond noise" in out
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert "better" in lines["AP"] and "better" in lines["AP/cat"] and lines["AP/dog"].count("none") == 3
    main(["compare", "all.json", "half.json", "--annotations", "truth.json", "--resamples", "100"])
    assert "B is worse by 0.4950 AP" in capsys.readouterr().out
    main(["compare", "all.json", "all.json", "--annotations", "truth.json", "--resamples", "5"])
    assert "Both have the same AP in every draw." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("half.json", "all.json"), "--annotations FILE"),
        (("half.json", "best.ckpt"), "two models or two results files"),
        (("half.json", "all.json", "--annotations", "truth.json", "--data", "x"), "--data is no option for results"),
        (("half.json", "gone.json", "--annotations", "truth.json"), "results file gone.json does not exist"),
        (("half.json", "all.json", "--annotations", "truth.json", "--resamples", "0"), "resamples is 0; wanted"),
        (("half.json", "all.json", "--annotations", "truth.json", "--seed", "-1"), "seed is -1; wanted"),
        (("half.json", "all.json", "--annotations", "truth.json", "--iou_type", "segm"), "segmentation"),
        (("a.ckpt", "b.ckpt", "--annotations", "truth.json"), "models have --data FOLDER"),
        (("a.ckpt", "b.ckpt"), "a.ckpt does not exist"),
    ],
)
def test_what_cannot_be_compared_is_one_line(files, capsys, words, said):
    assert refused(*words)
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
