"""Folders with files that are missing, broken or out of place give data or a `UserError`, never another error."""

import json
import shutil

import folders
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vitdet.data
from vitdet.data import ImageData
from vitdet.data.formats.classes import ClassList, _of_line, _read
from vitdet.data.formats.names import match
from vitdet.data.formats.tree import Tree, split_of
from vitdet.errors import UserError

JUNK = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00\xd8",
    b'{"images": 3, "annotations": []}',
    b'{"images": [{}], "categories": []}',
    b'{"images": [], "annotations": [], "categories": []}',
    b'{"images": [{"id": 1, "file_name": 7, "width": 1, "height": 1}], "categories": [{"id": 1, "name": "a"}]}',
    b'{"segments_info": 1, "images": []}',
    b'{"classes": [1, 2]}',
    b'["a", "a"]',
    b"name,r,g,b\nx,1\n",
    b"cat\ncat\n",
    b"0 999 0 x\n",
    b"names: [a\n",
    b"<annotation>",
    b"\x89PNG\r\n\x1a\n",
)
NAMES = ("classes.txt", "a.json", "data.yaml", "labels.json", "class_dict.csv", "_classes.csv", "x.xml", "b.txt")
NAMES += ("c.png", "_annotations.coco.json", "classes.json", "train.json", "split-0.2.json")
PLACES = ("", "train", "images", "annotations", "x y", "val/labels", ".vitdet")


def damage(root, draw):
    """One change of a folder, at random."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and ".vitdet" not in path.parts)
    change = draw(st.sampled_from(["junk", "missing", "more", "moved", "folder", "link"]))
    if change == "more" or not files:
        path = root / draw(st.sampled_from(PLACES)) / draw(st.sampled_from(NAMES))
        if not path.is_dir() and not any(parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw(st.sampled_from(JUNK)))
        return
    path = draw(st.sampled_from(files))
    if change == "junk":
        path.write_bytes(draw(st.sampled_from(JUNK)))
    elif change == "missing":
        path.unlink()
    elif change == "moved":
        shutil.move(path, path.with_name(draw(st.sampled_from(["train", "val", "x", "a b", "Ü"])) + path.suffix))
    elif change == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()
        path.symlink_to(draw(st.sampled_from([root, root / "nowhere"])))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(draw=st.data())
def test_odd_folders(tmp_path_factory, draw):
    root = tmp_path_factory.mktemp("odd") / "set"
    root.mkdir()
    for name in draw.draw(st.lists(st.sampled_from(sorted(folders.MAKERS)), max_size=2)):
        folders.MAKERS[name](root)
    for _ in range(draw.draw(st.integers(0, 4))):
        damage(root, draw.draw)
    try:
        assert isinstance(vitdet.data.open(root), ImageData)
    except UserError as error:
        assert "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_lists_of_classes_are_read_or_refused(text):
    name, value, colour = _of_line(text.replace("\n", " ") or "x")
    assert isinstance(name, str) and (value is None or 0 <= value < 100_000) and (colour is None or len(colour) == 3)


@pytest.mark.parametrize("name", ["classes.txt", "classes.csv", "classes.json"])
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_files_of_classes_are_read_or_refused(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        found = _read(path)
    except UserError:
        return
    assert found is None or (isinstance(found, ClassList) and len(set(found.names)) == len(found.names))


@given(st.text())
def test_a_name_tells_of_a_split_or_does_not(word):
    split, rest = split_of(word)
    assert split in (None, "train", "val", "test") and ("*" in rest) >= (split is not None)


@given(st.lists(st.text(min_size=1), max_size=5))
def test_names_mean_files_that_are_there(names):
    tree = Tree(None, {"": [], "images": ["a.jpg", "b b.JPG"], "masks": ["a.jpg"]})
    found = match([*names, "C:\\x\\A.jpg", "images/b%20b.jpg"], tree, split=None, folder="")
    assert set(found.values()) <= tree.files
    assert found["C:\\x\\A.jpg"] == "images/a.jpg" and found["images/b%20b.jpg"] == "images/b b.JPG"
