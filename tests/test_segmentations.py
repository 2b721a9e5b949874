"""What is no mask is refused before pycocotools sees it, and what is one gives the mask that pycocotools gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle

from vitdet.errors import DataError
from vitdet.masks import box_of, encode, to_rle
from vitdet.segmentations import LONGEST, check, decompress, extent_of, is_missing, polygons_of

NAN, INF = float("nan"), float("inf")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
def test_run_lengths_of_any_mask_are_decompressed(height, width, seed, share):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    (text,) = encode(mask[None])
    flat, counts = mask.T.flatten(), decompress(text)
    assert np.array_equal(np.repeat(np.arange(len(counts)) % 2, counts), flat)
    for form in (text, text.decode(), counts.tolist(), counts.astype(float).tolist()):
        assert np.array_equal(rle.decode(to_rle({"size": [height, width], "counts": form}, height, width)), mask)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789:;<=>?@ABCDPQRSTUVWXYZ[]^_`abcdefghijklmno", min_size=1, max_size=12))
def test_any_text_is_refused_or_covers_the_image(text):
    """pycocotools reads beyond the end of a text that breaks off, and writes beyond a mask whose runs are too long."""
    try:
        counts = decompress(text)
    except DataError:
        return
    assert (counts >= 0).all()
    total = int(counts.sum())
    if 0 < total < 2**20:
        code = to_rle({"size": [total, 1], "counts": text}, total, 1)
        assert rle.area(code) == counts[1::2].sum()
        again = rle.frPyObjects({"size": [total, 1], "counts": counts.tolist()}, total, 1)
        assert np.array_equal(rle.decode(again), rle.decode(code))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.floats(-300, 400, width=32), min_size=6, max_size=20), min_size=1, max_size=3))
def test_polygons_are_the_masks_of_pycocotools(polygons):
    """Coordinates outside the image are cut off as there."""
    polygons = [values[: len(values) // 2 * 2] for values in polygons]
    theirs = rle.decode(rle.merge(rle.frPyObjects(polygons, 30, 40)))
    assert np.array_equal(rle.decode(to_rle(polygons, 30, 40)), theirs)


@pytest.mark.parametrize("corners", [[3, 4, 12, 9], [12, 9, 3, 4], [12, 4, 3, 9]])
def test_two_corners_are_a_rectangle(corners):
    mask = np.zeros((20, 30), np.uint8)
    mask[4:9, 3:12] = 1
    assert np.array_equal(rle.decode(to_rle([corners], 20, 30)), mask) and box_of([corners]) == [3, 4, 9, 5]


def test_a_single_point_covers_nothing():
    square = [2, 2, 9, 2, 9, 9, 2, 9]
    assert to_rle([square, [5, 5], []], 20, 30) == to_rle([square], 20, 30)


@pytest.mark.parametrize("nothing", [None, [], {}, "", [[]]])
def test_what_stands_for_no_mask(nothing):
    assert is_missing(nothing)


@pytest.mark.parametrize("something", [0, False, [0], [[1, 2]], {"counts": ""}, "0", [[], []]])
def test_what_does_not_stand_for_no_mask(something):
    assert not is_missing(something)


SQUARE = [2, 2, 9, 2, 9, 9, 2, 9]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[*SQUARE[:-1], NAN]], "coordinate 7 of polygon 0 is nan; wanted a finite number"),
        ([SQUARE, [*SQUARE[:3], NAN, *SQUARE[4:]]], "coordinate 3 of polygon 1 is nan"),
        ([[*SQUARE[:-1], INF]], "coordinate 7 of polygon 0 is inf"),
        ([[-INF, *SQUARE[1:]]], "coordinate 0 of polygon 0 is -inf"),
        ([[*SQUARE[:-1], 10**400]], "coordinate 7 of polygon 0 is 1000"),
        ([[*SQUARE[:-1], None]], "coordinate 7 of polygon 0 is None; wanted a number"),
        ([[*SQUARE[:-1], "9"]], "coordinate 7 of polygon 0 is '9'; wanted a number"),
        ([[*SQUARE[:-1], True]], "coordinate 7 of polygon 0 is True; wanted a number"),
        ([[*SQUARE[:-1], [9]]], "coordinate 7 of polygon 0 is .9.; wanted a number"),
        ([[*SQUARE[:-1], 2e9]], "coordinate 7 of polygon 0 is 2000000000.0; wanted a number on the image"),
        ([[-1.6e2, 2, 3.5e8, 2, 9, 9]], "coordinate 2 of polygon 0 is 350000000.0; wanted"),
        ([[-2e9, *SQUARE[1:]]], "coordinate 0 of polygon 0 is -2000000000.0; wanted"),
        ([SQUARE[:-1]], "polygon 0 has 7 numbers; wanted x and y of each point"),
        ([[9, 9]], "neither polygons of three points or more nor run lengths"),
        ([SQUARE, 5], "neither polygons"),
        (SQUARE, "neither polygons .* put the numbers of each polygon into a list within the list"),
        ([[[2, 2], [9, 2], [9, 9]]], "coordinate 0 of polygon 0 is .2, 2.; wanted a number"),
        ("ABC", "neither polygons"),
        ([[0, 0, 9000, 9000] * 500], "the outline of polygon 0 is .* pixels long .*; wanted 4,000,000 at most"),
        ({"size": [20, 30], "counts": [600, 1]}, "run lengths cover 601 pixels, the image has 20×30"),
        ({"size": [20, 30], "counts": [599]}, "run lengths cover 599 pixels"),
        ({"size": [20, 30], "counts": []}, "run lengths cover 0 pixels"),
        ({"size": [20, 30], "counts": [-5, 605]}, "run length 0 is -5; wanted a whole number from 0 to 600"),
        ({"size": [20, 30], "counts": [0.5, 599.5]}, "run length 0 is 0.5"),
        ({"size": [20, 30], "counts": [NAN, 600]}, "run length 0 is nan"),
        ({"size": [20, 30], "counts": ["600"]}, "run length 0 is '600'"),
        ({"size": [20, 30], "counts": [True, 599]}, "run length 0 is True"),
        ({"size": [20, 30], "counts": [2**40]}, "run length 0 is 1099511627776"),
        ({"size": [20, 30], "counts": ""}, "counts '', which are not COCO's compressed ones"),
        ({"size": [20, 30], "counts": "oooo"}, "not COCO's compressed ones"),
        ({"size": [20, 30], "counts": "ooooooooooooo0"}, "one is out of range"),
        ({"size": [20, 30], "counts": "?"}, "not add|cover|negative"),
        ({"size": [20, 30], "counts": "b'PTR'"}, "not COCO's compressed ones"),
        ({"size": [20, 30], "counts": None}, "counts None; wanted a string or a list of integers"),
        ({"size": [30, 20], "counts": [600]}, r"run lengths are of size \[30, 20\], the image is 20×30"),
        ({"size": [2**40, 2**40], "counts": [1]}, "wanted the height and the width"),
        ({"size": "20x30", "counts": [600]}, "run lengths are of size '20x30'; wanted the height and the width"),
        ({"counts": [600]}, "run lengths are of size None"),
    ],
)
def test_what_is_broken_is_named(segmentation, message):
    with pytest.raises(DataError, match=message):
        to_rle(segmentation, 20, 30)


@pytest.mark.parametrize("size", [(0, 30), (70000, 70000)])
def test_an_image_without_a_size_or_of_too_many_pixels_has_no_mask(size):
    with pytest.raises(DataError, match="and so can't have a mask"):
        to_rle([SQUARE], *size)


def test_deep_and_long_values_are_cut_in_messages():
    deep = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, [deep], [["x" * 10**6]], "x" * 10**6, {"size": deep, "counts": deep}):
        with pytest.raises(DataError) as error:
            to_rle(value, 20, 30)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "valid", [[SQUARE], [[1, 2, 3, 4]], [[0, 0, LONGEST / 40, 0, 5, 5]], [[2, 2.5, 9, 2, 9, 10**5]]]
)
def test_the_quick_check_is_the_full_one(valid):

    assert check(valid) == extent_of(polygons_of(valid))
