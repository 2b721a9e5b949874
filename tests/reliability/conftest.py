"""What tests of promises share."""

import pytest
from nursery import Nursery


@pytest.fixture(scope="session")
def nursery():
    """Starts real runs without the seconds that imports take."""
    with Nursery() as started:
        yield started
