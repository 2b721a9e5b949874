"""The check of a data set finds each of some hundred planted faults by its code, and nothing in clean data."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import planted
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as rle

from vitdet.cli import main
from vitdet.data.check import CODES, Example, Finding, Place, Plan, check
from vitdet.data.check.boxes import box_formats
from vitdet.data.check.finding import spread
from vitdet.data.check.images import BITS, alike
from vitdet.data.check.labels import values_code
from vitdet.data.check.maps import regions
from vitdet.data.check.masks import check_mask
from vitdet.data.check.page import page
from vitdet.data.check.run import long_side
from vitdet.data.transforms import Size

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "clean"
    planted.make_clean(folder)
    return folder


@pytest.fixture
def copy(clean, tmp_path):
    return planted.Files(shutil.copytree(clean, tmp_path / "data"))


def codes(report, *severities):
    return {found.code for found in report.findings if not severities or found.severity in severities}


@pytest.mark.parametrize("kind", planted.FAULTS)
def test_nothing_is_found_in_clean_data(clean, kind):
    assert not check(planted.plan(clean, kind), decode=True).findings


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, faults in planted.FAULTS.items() for name in faults])
def test_a_planted_fault_is_found(copy, kind, name):
    """By its code, and no other error or warning but those that it rightly causes."""
    planted.FAULTS[kind][name](copy)
    code = name.split(",")[0]
    near = "near" in code
    report = check(planted.plan(copy.folder, kind, exif=name != "size-upright"), decode=near)
    assert code in codes(report)
    assert codes(report, "error", "warning") <= {code} | planted.ALSO.get(name, set())


@pytest.mark.parametrize("kind", planted.FAULTS)
def test_all_faults_are_found_together(copy, kind):
    names = planted.together(kind)
    for name in names:
        planted.FAULTS[kind][name](copy)
    found = codes(check(planted.plan(copy.folder, kind), decode=True))
    assert {name.split(",")[0] for name in names} <= found


def test_every_code_is_planted():
    assert {name.split(",")[0] for faults in planted.FAULTS.values() for name in faults} == set(CODES)
    assert sum(map(len, planted.FAULTS.values())) >= 50


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data sets beside the project")
@pytest.mark.parametrize("name", ["bccd", "tiny_coco", "coco128", "exif_orientation"])
def test_nothing_is_wrong_with_real_instances(name):
    folder = REAL / name
    places = {s: Place(folder / s, folder / "annotations" / f"instances_{s}.json") for s in ("train", "val")}
    report = check(Plan(name, "instances", places))
    assert codes(report, "error", "warning") <= {"class-unseen", "class-only-here"}


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data sets beside the project")
def test_what_is_wrong_with_real_data_is_found():
    """Two boxes without a size; boxes in stored pixels; a value that is meant to be left out."""
    bccd, exif, camvid = (REAL / name for name in ("bccd", "exif_orientation", "camvid"))
    place = Place(bccd / "train", bccd / "annotations" / "instances_train_asis.json")
    (found,) = (f for f in check(Plan("bccd", "instances", {"train": place})).findings if f.severity != "note")
    assert (found.code, found.count) == ("box-empty", 1)
    place = Place(exif / "train", exif / "annotations" / "instances_train_stored.json")
    (found,) = (f for f in check(Plan("exif", "instances", {"train": place})).findings if f.severity == "error")
    assert (found.code, found.count) == ("size-exif", 4)
    names = [entry["name"] for entry in json.loads((camvid / "classes.json").read_text())["classes"]]
    report = check(Plan("camvid", "semantic", {"train": Place(camvid / "train", camvid / "masks/train")}, names=names))
    assert [(f.code, f.severity) for f in report.findings] == [("map-void", "note")]


@pytest.mark.parametrize("files", ["instances", "panoptic", "semantic"])
def test_statistics_are_those_of_the_labels(clean, files):
    report = check(planted.plan(clean, files))
    numbers = report.statistics["train"]
    assert numbers["images"] == 12 and [row["images"] for row in numbers["classes"]] == [12] * len(numbers["classes"])
    if files == "instances":
        assert numbers["objects"] == 36 and numbers["objects_per_image"]["median"] == 3
        assert numbers["box_patches"]["max"] == 64 * 80 / 16**2
        assert numbers["box_patches_bins"]["below 64"] == 36


def test_two_sources_of_a_split_are_one_split(copy):
    """A copy of an image in the other source is a duplicate, and one in val is a leak."""
    plan = planted.plan(copy.folder, "instances")
    train, val = plan.splits["train"], plan.splits["val"]
    report = check(dataclasses.replace(plan, splits={"train 1": train, "train 2": val, "val": val}))
    assert {(f.code, f.split) for f in report.findings} == {("leak", "train, val")}
    shutil.copy(copy.image(0), copy.image(0, "val"))
    report = check(dataclasses.replace(plan, splits={"train 1": train, "train 2": val}))
    assert {(f.code, f.split) for f in report.findings} == {("image-duplicate", "train")}


def test_sizes_of_boxes_are_those_that_the_model_sees(clean):
    plan = planted.plan(clean, "instances").with_model(size=long_side(40), patch=16)
    report = check(plan)
    (found,) = (f for f in report.findings if f.split == "train" and f.code == "box-below-patch")
    # 64×80 pixels at an eighth are 8×10, less than a patch of 16×16
    assert (found.count, found.of, found.severity) == (36, 36, "warning")
    assert all(long_side(s)(h, w) == Size(long_side=s)(h, w) for s, h, w in ((320, 480, 640), (33, 7, 1000)))


class TestCommand:
    """`vitdet data check`: exit status, JSON, page."""

    def words(self, files, *more):
        return [
            "data",
            "check",
            "--images",
            f"{files.folder}/train",
            "--annotations",
            f"{files.folder}/train.json",
            *more,
        ]

    def test_status_is_0_without_errors_1_with_some_and_2_where_nothing_could_be_checked(self, copy, capsys):
        main(self.words(copy))
        assert "nothing found" in capsys.readouterr().out
        planted.INSTANCES["box-empty, no width"](copy)
        main(self.words(copy))
        with pytest.raises(SystemExit, match="1"):
            main(self.words(copy, "--strict"))
        planted.INSTANCES["image-missing, other case"](copy)
        with pytest.raises(SystemExit, match="1"):
            main(self.words(copy))
        out = capsys.readouterr().out
        assert "train01.jpg; there is train01.JPG" in out and "[image-missing]" in out
        for words in (["nowhere"], [], ["--images", "nowhere", "--annotations", "a.json"], [str(copy.folder), "--x"]):
            with pytest.raises(SystemExit, match="2"):
                main(["data", "check", *words])
            assert len(capsys.readouterr().err.splitlines()) == 1

    def test_json_has_all_that_was_found(self, copy, capsys, tmp_path):
        planted.INSTANCES["box-outside"](copy)
        with pytest.raises(SystemExit, match="1"):
            main(self.words(copy, "--json"))
        content = json.loads(capsys.readouterr().out)
        assert content["schema"] == 1 and content["counts"] == {"error": 1, "warning": 0, "note": 0}
        (found,) = content["findings"]
        assert (found["code"], found["split"], found["count"], found["of"]) == ("box-outside", "all", 1, 36)
        (example,) = found["examples"]
        assert example["boxes"] == [[400, 20, 30, 30]] and Path(example["file"]).is_file()
        assert content["statistics"]["all"]["classes"][0] == {"id": 1, "name": "cat", "objects": 12, "images": 12}
        with pytest.raises(SystemExit):
            main(self.words(copy, "--json", str(tmp_path / "report.json")))
        assert json.loads((tmp_path / "report.json").read_text())["findings"] == content["findings"]

    def test_page_shows_pictures_and_needs_no_network(self, copy, tmp_path):
        for name in planted.together("instances"):
            planted.INSTANCES[name](copy)
        target = tmp_path / "check.html"
        with pytest.raises(SystemExit, match="1"):
            main(self.words(copy, "--html", str(target)))
        text = target.read_text()
        assert text.count('<img src="data:image/jpeg;base64,') > 15 and 'name="viewport"' in text
        assert not re.search(r'(src|href)="(?!data:)|url\(|https?://|<script', text)

    def test_the_model_can_be_said(self, copy, capsys):
        main(self.words(copy, "--size", "80", "--patch", "32", "--queries", "2", "--decode"))
        out = capsys.readouterr().out
        # 64×80 pixels at a quarter are 16×20, of a patch of 32×32
        assert "0.31 patches" in out and "3 objects, 2 queries" in out and "all images decoded" in out
        with pytest.raises(SystemExit, match="2"):
            main(self.words(copy, "--patch", "0"))

    def test_folder_and_config_are_checked_too(self, copy, tmp_path, capsys):
        folder = tmp_path / "set"
        (folder / "annotations").mkdir(parents=True)
        for split in planted.SPLITS:
            shutil.copytree(copy.folder / split, folder / f"{split}2017")
            shutil.copy(copy.folder / f"{split}.json", folder / "annotations" / f"instances_{split}2017.json")
        main(["data", "check", str(folder)])
        assert "nothing found" in capsys.readouterr().out
        main(["data", "check", str(folder), "--data.kind", "instances", "--data.reading.exif", "false"])
        assert "kind: instances" in capsys.readouterr().out
        for words in (["--data.kind", "panoptic"], ["--data.size", "64"], ["--model.lr", "1"]):
            with pytest.raises(SystemExit, match="2"):
                main(["data", "check", str(folder), *words])
        capsys.readouterr()
        splits = "\n".join(
            f"  {s}: {{images: {folder}/{s}2017, annotations: {folder}/annotations/instances_{s}2017.json}}"
            for s in planted.SPLITS
        )
        root = Path(__file__).parents[2]
        (tmp_path / "c.yaml").write_text(f"base: {root}/configs/custom.yaml\ndata:\n  size: 40\n{splits}\n")
        main(["data", "check", str(tmp_path / "c.yaml"), "--model.head.num_queries", "2"])
        out = capsys.readouterr().out
        assert "box-below-patch" in out and "3 objects, 2 queries" in out


def test_no_torch_is_imported():
    """So that the check starts at once."""
    code = "import sys, vitdet.command.data_check; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_path_of_html_is_text_on_the_page(clean):
    report = check(planted.plan(clean, "instances"))
    report.source = "<script>alert(1)</script>"
    report.findings.append(Finding("leak", "train, val", 1, [Example("<b>a</b>.jpg")]))
    assert "<script" not in page(report) and "&lt;b&gt;a" in page(report)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_regions_are_those_of_numpy(values):
    found = {region.value: region for region in regions(values)}
    assert found.keys() == set(values.ravel().tolist())
    for value, region in found.items():
        rows, columns = np.nonzero(values == value)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert (region.area, region.box_xywh) == (len(rows), box)


@given(arrays(np.uint8, (6, 7), elements=st.integers(0, 1)))
def test_run_lengths_have_the_box_of_their_pixels(mask):
    code = rle.encode(np.asfortranarray(mask))
    found = check_mask(0, {"size": [6, 7], "counts": code["counts"].decode()}, 7, 6)
    if not mask.any():
        assert found.code == "mask-empty"
    else:
        assert found.code == "" and found.box_xywh == next(r.box_xywh for r in regions(mask) if r.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts"]), inner, max_size=2)
        ),
        max_leaves=9,
    )
)
def test_no_mask_whatever_it_is_stops_the_check(segmentation):
    check_mask(0, segmentation, 7, 6)


@given(st.integers(0, 2**32))
def test_pictures_that_look_alike_are_found_as_by_comparing_all(seed):
    rng = np.random.default_rng(seed)
    grey = np.repeat(np.repeat(rng.integers(0, 255, (6, 8, 8)), 4, 1), 4, 2)
    grey = np.concatenate([grey, grey + rng.integers(-4, 5, grey.shape)]).clip(0, 255).astype(np.uint8)
    cells = grey.reshape(len(grey), 8, 4, 8, 4).mean((2, 4))
    bits = (np.roll(cells, -1, 2) > cells).reshape(len(grey), 64)
    by_all = [(a, b) for a in range(12) for b in range(a + 1, 12) if (bits[a] != bits[b]).sum() <= BITS]
    assert alike(grey) == by_all


@pytest.mark.parametrize(
    ("code", "convert"),
    [
        ("box-xyxy", lambda b, s: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1)),
        ("box-centre", lambda b, s: np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], 1)),
        ("box-fractions", lambda b, s: b / np.concatenate([s, s], 1)),
        ("box-percent", lambda b, s: 100 * b / np.concatenate([s, s], 1)),
        ("", lambda b, s: b),
    ],
)
@given(seed=st.integers(0, 2**32))
def test_formats_of_boxes_are_told_apart(code, convert, seed):
    """Of 200 random boxes, without masks and areas."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(200, 900, (200, 2)).astype(float)
    corners = np.sort(rng.uniform(0, 1, (200, 2, 2)), 1).reshape(200, 4) * np.concatenate([sizes, sizes], 1)
    boxes = np.concatenate([corners[:, :2], (corners[:, 2:] - corners[:, :2]).clip(1)], 1)
    nothing = np.full((200, 4), np.nan)
    found = box_formats(convert(boxes, sizes), sizes, nothing, nothing[:, 0], np.ones(200, bool))
    assert list(found) == ([code] if code else [])


@pytest.mark.parametrize(
    ("seen", "known", "code"),
    [
        ({1, 2}, [0, 1], "map-one-based"),
        ({1, 2, 255}, [0, 1], "map-one-based"),
        ({0, 255}, [0, 1], "map-0-255"),
        ({0, 255}, [0, 255], ""),
        ({0, 1, 2, 255}, [0, 1, 2], ""),
        ({0, 1, 2, 3}, [0, 1, 2], ""),
        ({1, 2}, [0, 1, 2], ""),
        ({0, 7, 200}, [7, 200], ""),
        ({1, 2, 3}, [1, 2], ""),
    ],
)
def test_values_that_mean_other_classes(seen, known, code):
    assert values_code(seen, known) == code


def test_examples_are_of_different_images():
    places = [Example(f"{name}{k}", Path(name)) for name in "ab" for k in range(3)]
    assert [example.text for example in spread(places, 3)] == ["a0", "b0", "a1"]
    assert len(spread(places)) == 6


def test_reports_are_plain(clean):
    """No number of numpy is left in what goes to JSON."""
    report = check(planted.plan(clean, "panoptic"))
    json.dumps(report.as_dict())
    assert dataclasses.is_dataclass(report)


REFUSED = {
    "class-off-by-one": lambda content: [
        item.update(category_id=item["category_id"] - 1) for item in content["annotations"]
    ],
    "class-unknown": lambda content: content["annotations"][0].update(category_id="cat"),
    "size-missing": lambda content: content["images"][0].update(width=0),
    "labels-unreadable": lambda content: '{"images": [',
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_folder_that_training_refuses_is_checked_all_the_same(tmp_path, capsys, code):
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(1, 9)]
    boxes = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 6, 20, 20]} for i in range(1, 9)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": k, "name": f"k{k}"} for k in (1, 2)]}
    (tmp_path / "annotations").mkdir()
    for split in ("val", "train"):
        (tmp_path / split).mkdir()
        for image in images:
            pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / image["file_name"])
        path = tmp_path / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    text = REFUSED[code](content)
    path.write_text(text if isinstance(text, str) else json.dumps(content))
    with pytest.raises(SystemExit) as end:
        main(["data", "check", str(tmp_path), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert end.value.code == 1 and code in {finding["code"] for finding in report["findings"]}
    assert any("can't be trained on" in line for line in report["recognised"])
