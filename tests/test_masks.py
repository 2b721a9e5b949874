"""Mask arithmetic against pycocotools and by hand."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as rle

from vitdet.masks import bounds, encode, joined, outlines, resize_labels, resize_mask, to_rle


def test_every_form_of_a_segmentation_is_the_same_mask():
    mask = np.zeros((20, 30), np.uint8)
    mask[5:12, 8:21] = 1
    polygon = [[8, 5, 21, 5, 21, 12, 8, 12]]
    counts, last = [0], 0
    for value in mask.T.flatten():
        if value == last:
            counts[-1] += 1
        else:
            counts.append(1)
            last = value
    plain = {"size": [20, 30], "counts": counts}
    compressed = {"size": [20, 30], "counts": encode(mask[None])[0].decode()}
    for segmentation in (polygon, plain, compressed):
        assert np.array_equal(rle.decode(to_rle(segmentation, 20, 30)), mask)


@pytest.mark.parametrize("shape", [(0, 20, 30), (7, 20, 30), (5, 2100, 2100)])  # the last is encoded in two parts
def test_masks_are_encoded_as_pycocotools_does_one_at_a_time(shape):
    masks = np.random.default_rng(0).random(shape) > 0.5
    assert encode(masks) == [rle.encode(np.asfortranarray(mask, np.uint8))["counts"] for mask in masks]


@pytest.mark.parametrize("wrong", [None, [], [[1, 2]], {"size": [3, 3], "counts": "x"}, "abc"])
def test_what_is_no_segmentation_is_an_error(wrong):
    with pytest.raises(ValueError, match="polygons|size"):
        to_rle(wrong, 20, 30)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31))
def test_a_boundary_moves_by_no_more_than_half_a_pixel(height, width, to_h, to_w, seed):
    """A half-plane's edge, as a fraction of the image, is where it was, to half a pixel of the coarser grid."""
    edge = int(np.random.default_rng(seed).integers(1, width))
    mask = np.zeros((height, width), np.uint8)
    mask[:, :edge] = 1
    for resized in (resize_mask(mask, to_h, to_w), resize_labels(mask, to_h, to_w)):
        assert resized.shape == (to_h, to_w) and np.isin(resized, (0, 1)).all()
        assert abs(resized[0].sum() / to_w - edge / width) <= 0.5 / min(to_w, width) + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**31))
def test_labels_come_back_from_a_larger_size(height, width, times, seed):
    labels = np.random.default_rng(seed).integers(0, 200, (height, width)).astype(np.uint8)
    larger = resize_labels(labels, height * times, width * times)
    assert np.array_equal(larger, labels.repeat(times, 0).repeat(times, 1))
    assert np.array_equal(resize_labels(larger, height, width), labels)


def test_bounds_by_hand():
    masks = np.zeros((2, 6, 8), np.uint8)
    masks[0, 2:4, 3:8] = 1
    assert bounds(masks).tolist() == [[3, 2, 8, 4], [0, 0, 0, 0]]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31))
def test_a_mask_is_resized_as_if_all_of_it_were(height, width, new_height, new_width, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8, order="FC"[seed % 2])
    for _ in range(int(rng.integers(0, 3))):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        part = mask[top : top + int(rng.integers(1, 30)), left : left + int(rng.integers(1, 30))]
        part[...] = rng.integers(0, 2, part.shape) if seed % 3 else 1
    wanted = mask * np.uint8(255)
    for w, h in ((width, new_height), (new_width, new_height)):
        shrinks = h * w < wanted.size
        wanted = cv2.resize(wanted, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    assert np.array_equal(resize_mask(mask, new_height, new_width), wanted > 127)


@settings(max_examples=150, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_enclose_the_mask(mask):
    """Parts, holes and corners that touch; the polygon filled by pycocotools is the mask."""
    lines = outlines(mask)
    if not mask.any():
        assert lines == []
        return
    height, width = mask.shape
    (code,) = rle.frPyObjects([joined(lines).ravel().tolist()], height, width)
    assert np.array_equal(rle.decode(code).astype(bool), mask)
    parts = [rle.decode(rle.frPyObjects([line.ravel().tolist()], height, width)[0]) for line in lines]
    assert np.array_equal(sum(parts), mask)  # each pixel is in one part


@pytest.mark.parametrize(("tolerance", "overlap", "share"), [(0.5, 1.0, 0.9), (1.0, 0.99, 0.2)])
def test_slopes_take_few_corners(tolerance, overlap, share):
    y, x = np.mgrid[:200, :200]
    mask = ((x - 100) / 90) ** 2 + ((y - 100) / 60) ** 2 < 1
    (exact,), (line,) = outlines(mask), outlines(mask, tolerance=tolerance)
    (code,) = rle.frPyObjects([line.ravel().tolist()], 200, 200)
    back = rle.decode(code).astype(bool)
    assert (back & mask).sum() >= overlap * (back | mask).sum() and len(line) <= share * len(exact)
