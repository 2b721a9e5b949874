"""Whatever stands in files of labels, the readers return content that vitdet can read, or raise DataError."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest
from exports import RICH, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitdet.annotations.reader import parse_text
from vitdet.data.formats import cvat, geometry, labelme, supervisely, via, yolo
from vitdet.data.formats import voc as voc_format
from vitdet.data.formats.files import read_xml
from vitdet.errors import DataError, UserError

MODULES = (yolo, voc_format, labelme, cvat, supervisely, via)
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = (
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    math.nan,
    -math.inf,
    "",
    "x",
    "nan",
    "1_0",
    "\ud800",
    [],
    [[]],
    {},
    [None],
    "é",
)


def only_content_or_data_errors(root: Path) -> int:
    """The number of splits that are read; every other one must raise a DataError."""
    good = 0
    for module in MODULES:
        try:
            for labels in (module.recognise(root) or {}).values():
                content, lines = labels.read()
                parse_text(json.dumps(content).encode(), "content")
                assert all(isinstance(line, str) for line in lines)
                good += 1
        except DataError as error:
            assert str(error) and "Traceback" not in str(error)
    return good


def places(value, path=()):
    """The path to each value in a JSON value."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", ["LabelMe", "Supervisely", "VGG Image Annotator"])
def test_changed_json(name, tmp_path):
    """Each value of each file is replaced by each of the odd ones."""
    root = write(tmp_path, RICH[name])
    assert only_content_or_data_errors(root) >= 1
    rng = random.Random(0)
    for file, content in RICH[name].items():
        if isinstance(content, tuple):
            continue
        cases = [(path, new) for path in places(content) for new in VALUES]
        for path, new in rng.sample(cases, min(150, len(cases))):
            (root / file).write_text(json.dumps(changed(content, path, new)))
            only_content_or_data_errors(root)
        write(root, {file: content})


@pytest.mark.parametrize("name", RICH)
def test_changed_bytes(name, tmp_path):
    """Pieces of the files are cut out, doubled, or replaced by odd values."""
    root = write(tmp_path, RICH[name])
    rng = random.Random(1)
    words = [b"nan", b"-1", b"1e999", b"", b"\xff", b"\0", b"<", b">", b'"', b"{", b"99999999999", b"\n", b"&", b";,"]
    for file in (file for file, content in RICH[name].items() if not isinstance(content, tuple)):
        before = (root / file).read_bytes()
        for _ in range(60):
            start = rng.randrange(len(before))
            end = min(start + rng.choice([0, 1, 2, 3, 8, 60]), len(before))
            (root / file).write_bytes(before[:start] + rng.choice([*words, before[start:end] * 2]) + before[end:])
            only_content_or_data_errors(root)
        (root / file).write_bytes(before)


TEXT = st.text("0123456789.-+eEnainfxy \t\n,#_\r\u2028\ufeff", max_size=60)
NUMBERS = st.lists(st.floats(-0.1, 1.2) | st.integers(-2, 5) | st.floats(), max_size=12)


@SETTINGS
@given(TEXT | NUMBERS.map(lambda row: " ".join(map(str, row))) | st.binary(max_size=40))
def test_rows_of_yolo(text):
    root = Path("fuzz-yolo")
    data = text if isinstance(text, bytes) else text.encode()
    try:
        write(root, {"images/a.jpg": (40, 20), "labels/a.txt": data, "data.yaml": "train: images\nnames: [a, b, c]"})
        only_content_or_data_errors(root)
    finally:
        shutil.rmtree(root)


YAML = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.sampled_from(["images", "", "/", "..", "a.txt", "é", "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "x"]), inner, max_size=3),
    max_leaves=6,
)


@SETTINGS
@given(st.dictionaries(st.sampled_from(["train", "val", "test", "path", "names", "nc", "kpt_shape"]), YAML))
def test_descriptions_of_yolo(content):
    root = Path("fuzz-yaml")
    try:
        # JSON is YAML, too
        write(root, {"images/a.jpg": (4, 4), "labels/a.txt": "0 0.5 0.5 1 1", "a.txt": "x", "data.yaml": content})
        only_content_or_data_errors(root)
    finally:
        shutil.rmtree(root)


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@SETTINGS
@given(st.binary(max_size=200))
def test_xml_of_any_bytes(data):
    path = Path("any.xml")
    path.write_bytes(data)
    try:
        read_xml(path)
    except DataError as error:
        assert "any.xml" in str(error)


@SETTINGS
@given(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4), st.floats(-720, 720))
def test_turned_boxes_keep_their_area_and_centre(corners, degrees):
    x0, y0, x1, y1 = corners
    polygon = geometry.turned(corners, degrees)
    assert geometry.area(polygon) == pytest.approx(abs((x1 - x0) * (y1 - y0)), rel=1e-6, abs=1e-4)
    assert sum(polygon[::2]) / 4 == pytest.approx((x0 + x1) / 2, abs=1e-6)


@SETTINGS
@given(st.floats(0.5, 3000), st.floats(0.5, 3000))
def test_ellipses_are_near_and_have_exact_boxes(rx, ry):
    polygon = geometry.ellipse(0, 0, rx, ry)
    assert geometry.around([polygon]) == pytest.approx((-rx, -ry, rx, ry), rel=1e-9)
    # the largest distance from the circle is in the middle of an edge
    middle = [(polygon[i] + polygon[i + 2]) / 2 for i in range(2)]
    assert math.hypot(middle[0] / rx, middle[1] / ry) > 1 - 0.5 / max(rx, ry, 1)


def test_what_never_ends_is_refused(tmp_path):
    import os

    root = write(tmp_path / "set", {"train/a.jpg": (4, 4), "train/a.txt": "0 .5 .5 1 1"})
    os.mkfifo(root / "train/b.txt")
    os.symlink(root, root / "train/loop")
    content, _ = yolo.recognise(root)["train"].read()
    assert [image["file_name"] for image in content["images"]] == ["train/a.jpg"]
    with pytest.raises(UserError, match="not a file"):
        read_xml(root / "train/b.txt")
