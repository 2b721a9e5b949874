"""Servers that the tests of a module, or of all, share."""

import pytest
from servers import make_detector, running


@pytest.fixture(scope="session")
def detector():
    return make_detector()


@pytest.fixture(scope="session")
def url(detector):
    with running(detector, max_bytes=300_000, max_pixels=1_000_000, timeout=10) as address:
        yield address


@pytest.fixture(scope="module")
def with_masks():
    return make_detector(masks=True)


@pytest.fixture(scope="module")
def mask_url(with_masks):
    with running(with_masks) as address:
        yield address
