"""Tracks keep their numbers while objects move, meet and are missed for a moment."""

import numpy as np
import pytest
import torch

from vitdet.deploy.tracking import TRACKERS, TRAIL, Tracker
from vitdet.errors import UserError
from vitdet.structures import Prediction


def found(places, scores, labels=None):
    """Detections of 20×20 pixels around these places."""
    centres = np.array(places, np.float32).reshape(-1, 2)
    boxes = torch.from_numpy(np.concatenate([centres - 10, centres + 10], 1))
    labels = torch.tensor([0] * len(centres) if labels is None else labels)
    return Prediction(boxes, torch.tensor(scores, dtype=torch.float32), labels, (200, 300), names=["a", "b"])


@pytest.mark.parametrize("name", TRACKERS)
def test_objects_keep_their_numbers(name):
    tracker = Tracker(0.3, rate=25, name=name)
    seen = []
    for i in range(40):
        # the order of detections changes; the scores are those of a model that is never sure
        places, scores = [(20 + 4 * i, 50), (260 - 3 * i, 120), (150, 180)], [0.5, 0.45, 0.4]
        kept, ids = tracker.update(found(places, scores), i / 25)
        by_row = {round(y): number for (_, y), number in zip((kept.boxes_xyxy[:, :2] + 10).tolist(), ids)}
        assert len(kept) == 3
        seen.append([by_row[y] for y in (50, 120, 180)])
    assert seen[10:] == [seen[10]] * 30 and sorted(seen[10]) == [1, 2, 3] and tracker.count == 3
    assert all(2 <= len(trail) <= TRAIL for trail in tracker.trails.values())


def test_a_weak_detection_goes_on_with_a_track_but_starts_none():
    tracker = Tracker([0.5, 0.2], rate=10)
    for i in range(10):
        weak = i >= 5
        places, scores = [(50 + i, 50), (150, 100), (250, 20)], [0.3 if weak else 0.6, 0.25, 0.3]
        kept, ids = tracker.update(found(places, scores, [0, 1, 0]), i / 10)
        # the first goes on below its threshold of 0.5, the second is of a class that wants less, the third starts none
        assert kept.labels.tolist() == [0, 1]
    assert ids == [1, 2] and kept.scores[0] < 0.5


def test_a_box_with_several_classes_is_one_object():
    tracker = Tracker(0.3)
    for i in range(5):
        kept, ids = tracker.update(found([(50, 50), (50, 50)], [0.8, 0.4], [1, 0]), i / 30)
    assert ids == [1] and kept.labels.tolist() == [1]


def test_time_counts_and_not_the_number_of_frames():
    # an object that moves evenly through frames of very uneven times
    times = np.cumsum([0, *[0.04, 0.2, 0.04, 0.12] * 8])
    tracker = Tracker(0.3, rate=25)
    numbers = [tracker.update(found([(20 + 60 * t, 50)], [0.9]), float(t))[1][0] for t in times]
    assert set(numbers[2:]) == {1}


def test_frames_without_objects_and_objects_that_leave():
    tracker = Tracker(0.3, rate=10)
    for i in range(5):
        tracker.update(found([(50, 50)], [0.9]), i / 10)
    for i in range(5, 60):
        kept, ids = tracker.update(found([], []), i / 10)
        assert len(kept) == 0 and ids == []
    assert not tracker.trails
    for i in range(60, 65):
        _, ids = tracker.update(found([(50, 50)], [0.9]), i / 10)
    assert ids == [2] and tracker.count == 2


def test_unknown_trackers_are_told():
    with pytest.raises(UserError, match="bytetrack, ocsort, sort"):
        Tracker(0.3, name="deepsort")
