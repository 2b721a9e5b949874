"""`vitdet data convert`: what is written, opened again, is what was read; and round trips through other formats."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from exports import EXPORTS, objects, read, write
from hypothesis import given, settings
from hypothesis import strategies as st

import vitdet.data
from vitdet.cli import main
from vitdet.data.formats import voc as voc_format
from vitdet.data.formats import yolo as yolo_format
from vitdet.data.formats.convert import convert
from vitdet.data.shapes import make_shapes
from vitdet.errors import DataError, UserError


def shown(folder: Path, **options) -> dict:
    """For each image of the splits: its size, and the boxes, classes and masks of its objects."""
    data = vitdet.data.open(folder, val_fraction=0, **options)
    out = {}
    for split in data.splits:
        index, source = data.index(split), data.make_source(split)
        for i, name in enumerate(index.file_names):
            boxes, labels = source.objects(i)
            rows = index.annotations(i)
            raw = [index.raw(row) for row in range(rows.start, rows.stop)]
            out[split, Path(name).name] = (
                source.image(i).shape,
                boxes.tolist(),
                [index.names[label] for label in labels],
                [(item["bbox"], item.get("iscrowd", 0), item.get("segmentation")) for item in raw],
            )
    return out


@pytest.mark.parametrize("layout", EXPORTS)
def test_what_is_written_opens_as_what_was_read(layout, tmp_path):
    root = write(tmp_path / "in", EXPORTS[layout])
    lines = []
    convert(root, tmp_path / "out", copy=True, say=lines.append)
    assert f"layout: {layout}" in lines
    wanted = shown(root)
    assert wanted and shown(tmp_path / "out") == wanted


def test_without_copies_names_are_relative_to_the_images(tmp_path, capsys):
    root, out = write(tmp_path / "in", EXPORTS["YOLO"]), tmp_path / "out"
    main(["data", "convert", str(root), str(out)])
    printed = capsys.readouterr().out
    assert "layout: YOLO" in printed and f"wrote {out}/annotations/instances_val.json: 1 images, 1 objects" in printed
    keys = f"--data.train.images {root} --data.train.annotations {out}/annotations/instances_train.json reads it"
    assert keys in printed
    content = json.loads((out / "annotations/instances_train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["train/images/a.jpg", "train/images/b.jpg"]
    assert all((root / image["file_name"]).is_file() for image in content["images"])
    assert sorted(path.name for path in out.rglob("*")) == ["annotations", "instances_train.json", "instances_val.json"]


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path):
    root = write(tmp_path / "in", EXPORTS["YOLO"])
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        convert(root, tmp_path / "out")
    with pytest.raises(UserError, match="lies in"):
        convert(root, root / "coco")
    (root / "train/labels/a.txt").write_text("9 9 9")
    with pytest.raises(DataError, match="line 1"):
        convert(root, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_images_that_are_missing(tmp_path):
    root = write(tmp_path / "in", EXPORTS["COCO"] | {"train2017/1.jpg": (4, 4)})
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"] += [{"id": n, "file_name": f"{n}.jpg", "width": 4, "height": 4} for n in (1, 2)]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="2.jpg"):
        convert(root, tmp_path / "out", copy=True, say=lambda line: None)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "shapes", train=2, val=1)


def test_panoptic_labels_are_written_with_their_pngs(shapes, tmp_path):
    convert(shapes, tmp_path / "out", kind="panoptic", copy=True, say=lambda line: None)
    before, after = (vitdet.data.open(folder, kind="panoptic") for folder in (shapes, tmp_path / "out"))
    for split in ("train", "val"):
        for i in range(len(before.index(split))):
            one, other = (data.make_source(split).truth(i) for data in (before, after))
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_label_maps_become_segments(shapes, tmp_path):
    lines = []
    convert(shapes, tmp_path / "out", kind="semantic", copy=True, say=lines.append)
    before = vitdet.data.open(shapes, kind="semantic")
    after = vitdet.data.open(tmp_path / "out")
    assert type(after).__name__ == "PanopticData" and any("in which each class is a segment" in line for line in lines)
    maps, index = before.index("train"), after.index("train")
    assert list(index.names) == maps.names and not any(index.things)
    for i, name in enumerate(maps.file_names):
        position = list(index.file_names).index(Path(name).name)
        ids, segments, categories, _ = after.make_source("train").truth(position)
        labels = maps.labels(i)
        for number, category in zip(segments, categories, strict=True):
            assert np.array_equal(ids == number, labels == category)
        assert {*categories.tolist()} == {*np.unique(labels).tolist()} - {255}


BOXES = st.lists(
    st.tuples(st.integers(0, 2), st.floats(0, 0.7), st.floats(0, 0.7), st.floats(0.1, 0.3), st.floats(0.1, 0.3)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(BOXES, st.integers(20, 300), st.integers(20, 300))
def test_boxes_survive_other_formats(boxes, width, height):
    """COCO boxes, written in another format by a library, are read as they were, within what the format keeps."""
    supervision = pytest.importorskip("supervision")
    with tempfile.TemporaryDirectory() as place:
        root = write(Path(place), {"images/a.png": (width, height)})
        corners = [(x * width, y * height, (x + w) * width, (y + h) * height) for _, x, y, w, h in boxes]
        detections = supervision.Detections(
            xyxy=np.array(corners, np.float32).reshape(-1, 4), class_id=np.array([box[0] for box in boxes], int)
        )
        image = str(root / "images/a.png")
        data = supervision.DetectionDataset(classes=["a", "b", "c"], images=[image], annotations={image: detections})
        data.as_yolo(annotations_directory_path=str(root / "labels"), data_yaml_path=str(root / "data.yaml"))
        (root / "data.yaml").write_text((root / "data.yaml").read_text() + "\ntrain: images\n")
        _same(objects(read(yolo_format, root, "train")[0]), boxes, corners, 1e-4 * max(width, height))
        data.as_pascal_voc(annotations_directory_path=str(root / "Annotations"))
        # whole pixels
        _same(objects(read(voc_format, root)[0]), boxes, corners, 0.5)


def _same(ours: list[tuple], boxes: list[tuple], corners: list[tuple], tolerance: float) -> None:
    assert [name for _, name, _, _ in ours] == ["abc"[box[0]] for box in boxes]
    for (_, _, (x, y, w, h), _), wanted in zip(ours, corners, strict=True):
        assert [x, y, x + w, y + h] == pytest.approx(wanted, abs=tolerance + 1e-4)
