"""The built-in data set: exact, repeatable, and readable by pycocotools."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from vitdet.data import ShapesData, ShapesPanopticData
from vitdet.data.shapes import make_shapes
from vitdet.data.shapes_scene import STUFF, THINGS
from vitdet.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=12, val=3)


def test_boxes_and_areas_are_those_of_masks_that_do_not_overlap(root):
    coco = COCO(str(root / "annotations" / "instances_train.json"))
    assert {c["name"] for c in coco.cats.values()} == set(THINGS)
    for image in coco.imgs.values():
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image["id"]]]
        for annotation, mask in zip(coco.imgToAnns[image["id"]], masks):
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)
            assert annotation["area"] == mask.sum() >= 30
        assert sum(masks, np.zeros((image["height"], image["width"]), int)).max() <= 1


def test_panoptic_and_semantic_labels_cover_each_image_and_agree_with_the_instances(root):
    coco = COCO(str(root / "annotations" / "instances_train.json"))
    panoptic = json.loads((root / "annotations" / "panoptic_train.json").read_text())
    assert [c["name"] for c in panoptic["categories"]] == [*THINGS, *STUFF]
    for annotation in panoptic["annotations"]:
        png = cv2.imread(str(root / "panoptic_train" / annotation["file_name"]))[..., ::-1].astype(int)
        ids = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]
        semantic = cv2.imread(str(root / "semantic_train" / annotation["file_name"]), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(ids)) == {s["id"] for s in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            where = ids == segment["id"]
            assert where.sum() == segment["area"] and (semantic[where] == segment["category_id"] - 1).all()
        for instance in coco.imgToAnns[annotation["image_id"]]:
            segment = ids[coco.annToMask(instance) == 1]
            assert len(set(segment)) == 1 and (ids == segment[0]).sum() == instance["area"]


def test_a_seed_gives_the_same_files_and_another_gives_others(root, tmp_path):
    def content(folder):
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    again = make_shapes(tmp_path / "again", train=12, val=3)
    other = make_shapes(tmp_path / "other", train=12, val=3, seed=1)
    assert content(root) == content(again)
    assert content(root)["annotations/instances_val.json"] != content(other)["annotations/instances_val.json"]


def test_it_is_drawn_once_and_with_other_settings_beside_it(tmp_path):
    root = make_shapes(tmp_path / "a", train=2, val=1)
    stamp = (root / "train" / "000000.jpg").stat().st_mtime_ns
    for _ in range(2):
        assert make_shapes(root, train=3, val=1) == tmp_path / "a-3-1"
        assert make_shapes(root, train=3, val=1, seed=5) == tmp_path / "a-3-1-2"
        assert make_shapes(root, train=2, val=1) == root
    assert (root / "train" / "000000.jpg").stat().st_mtime_ns == stamp
    assert len(list((tmp_path / "a-3-1" / "train").glob("*.jpg"))) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a-3-1", "a-3-1-2"]


def test_the_default_place_is_kept_for_the_default_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ShapesData(train_images=2, val_images=1)
    assert data.splits["train"].images == "datasets/shapes-2-1/train"
    assert ShapesPanopticData(train_images=2, val_images=1).splits["val"].images == "datasets/shapes-2-1/val"
    assert [p.name for p in (tmp_path / "datasets").iterdir()] == ["shapes-2-1"]


def test_an_interrupted_drawing_leaves_what_was_there(tmp_path, monkeypatch):
    import vitdet.data.shapes as module

    draw, drawn = module.draw_scene, []

    def interrupted(rng):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(draw(rng))
        return drawn[-1]

    make_shapes(tmp_path / "old", train=2, val=1)
    monkeypatch.setattr(module, "draw_scene", interrupted)
    for name in ("new", "old"):
        drawn.clear()
        with pytest.raises(KeyboardInterrupt):
            make_shapes(tmp_path / name, train=4, val=1)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    make_shapes(tmp_path / "old", train=2, val=1)  # whole still: nothing has to be drawn


def test_several_may_draw_at_once(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        roots = list(pool.map(lambda count: make_shapes(tmp_path / "a", train=count, val=1), [2, 2, 3, 3]))
    assert roots[0] == roots[1] != roots[2] == roots[3]
    assert {len(list((root / "train").glob("*.jpg"))) for root in roots} == {2, 3}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_that_cannot_be_renamed_is_an_error_that_says_why(tmp_path, monkeypatch):
    def busy(self, target):  # as of a mounted folder
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(OSError, match=r"busy.*data\.root"):
        make_shapes(tmp_path / "a", train=2, val=1)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(FileExistsError, match=r"data\.root"):
        make_shapes(tmp_path, train=2, val=1)
    assert (tmp_path / "photo.jpg").exists()


@pytest.mark.parametrize("text", ['{"version": 2, "theme": "dark"}', "[]", "not json"])
def test_settings_of_another_program_are_no_licence_to_replace_a_folder(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(FileExistsError, match=r"data\.root"):
        make_shapes(tmp_path, train=2, val=1)
    assert (tmp_path / "settings.json").read_text() == text


def test_places_where_nothing_can_be_drawn(tmp_path):
    (tmp_path / "file").touch()
    for root, message in (
        (tmp_path / "file", r"can't be drawn at .*file: Not a directory; set data\.root"),
        (tmp_path / "file" / "below", r"can't be drawn at .*below: .*; set data\.root"),
        ("", r"data\.root is '\.'; wanted a folder of its own"),
    ):
        with pytest.raises(UserError, match=message):
            make_shapes(root, train=1, val=1)
