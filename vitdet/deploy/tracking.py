"""Gives objects of a video numbers that they keep from frame to frame.

T is the number of detections of a frame.
"""

from collections import deque
from fractions import Fraction
from typing import Any

import numpy as np

from vitdet.errors import check, extra
from vitdet.structures import Prediction
from vitdet.thresholds import Threshold

# the trackers of the library `trackers`, by the name that a user gives
TRACKERS = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker", "sort": "SORTTracker"}
# to a tracker, a detection that a user would see has at least this score, and one below it may only go on with a track
SURE = 0.6
# detections below this share of their threshold are no help
LEAST = 1 / 3
# the number of frames whose centres a trail shows
TRAIL = 30


class Tracker:
    """Numbers the objects of a video, from 1 on, by a tracker of the library `trackers`.

    Args:
        threshold: Lowest score of a detection that starts a track, or a list of these, indexed by label. Detections
            with a lower score, down to a third of it, go on with a track that has been started.
        rate: Frames a second.
        name: `bytetrack`, `ocsort` or `sort`.

    Attributes:
        count: the number of tracks so far.

    Raises:
        UserError: there is no such tracker.
        MissingLibraryError: the library is not installed.
    """

    def __init__(self, threshold: Threshold, *, rate: float | Fraction = 30, name: str = "bytetrack") -> None:
        check("track", name, name in TRACKERS, f"one of {', '.join(TRACKERS)}")
        with extra("video", "tracking"):
            import trackers
        self.threshold = threshold
        options = {"frame_rate": float(rate)}
        if name != "ocsort":
            options["track_activation_threshold"] = SURE
        if name == "bytetrack":
            options["high_conf_det_threshold"] = SURE
        self.tracker: Any = getattr(trackers, TRACKERS[name])(**options)
        self.count = 0
        self.trails: dict[int, deque[tuple[float, float]]] = {}

    def update(self, prediction: Prediction, time: float) -> tuple[Prediction, list[int | None]]:
        """The next frame.

        Args:
            prediction: what was found in it, of all scores.
            time: in seconds; it grows from call to call.

        Returns:
            The detections that are shown, those that reach the threshold or go on with a track, and the number of the
            track of each; `None` for those that are new, which become a track in the next frame. Of several classes
            that the model gives the same box, only the best counts.
        """
        import supervision

        scores = self._scaled(prediction)
        # a query that gives several classes has found one object: the best of them
        _, first = np.unique(prediction.boxes_xyxy.numpy(), axis=0, return_index=True)
        near = np.sort(first[scores[first] >= SURE * LEAST])
        boxes = prediction.boxes_xyxy.numpy()[near].astype(np.float64)
        detections = supervision.Detections(
            xyxy=boxes, confidence=scores[near], class_id=prediction.labels.numpy()[near], data={"row": near}
        )
        tracked = self.tracker.update(detections, timestamp=time)
        numbers = dict(zip(tracked.data.get("row", np.zeros(0, int)).tolist(), (tracked.tracker_id + 1).tolist()))
        shown = [i for i in near.tolist() if scores[i] >= SURE or numbers.get(i, 0) > 0]
        ids = [numbers.get(i, 0) or None for i in shown]
        self.count = max([self.count, *(number for number in ids if number)])
        kept = prediction[np.array(shown, int)]
        self._extend(kept, ids)
        return kept, ids

    def _scaled(self, prediction: Prediction) -> np.ndarray:
        """Scores in which each class has the threshold `SURE`, so that a tracker's own thresholds fit every model."""
        scores, labels = prediction.scores.double().numpy(), prediction.labels.numpy()
        limit = self.threshold if isinstance(self.threshold, (int, float)) else np.array(self.threshold)[labels]
        limit = np.clip(np.broadcast_to(limit, scores.shape), 1e-6, 1 - 1e-6)
        above = SURE + (1 - SURE) * (scores - limit) / (1 - limit)
        return np.where(scores >= limit, above, SURE * scores / limit)

    def _extend(self, kept: Prediction, ids: list[int | None]) -> None:
        present = {number for number in ids if number}
        for (x1, y1, x2, y2), number in zip(kept.boxes_xyxy.tolist(), ids):
            if number:
                self.trails.setdefault(number, deque(maxlen=TRAIL)).append(((x1 + x2) / 2, (y1 + y2) / 2))
        # an object that is gone leaves a trail that shrinks
        for number in [number for number in self.trails if number not in present]:
            self.trails[number].popleft()
            if not self.trails[number]:
                del self.trails[number]
