"""Using a trained model: prediction and benchmarks."""

from vitdet.checkpoint import CheckpointError
from vitdet.deploy.files import Predicted, predict_files
from vitdet.deploy.predict import Detector, load
from vitdet.deploy.tiles import TiledDetector
from vitdet.deploy.video import VideoDone, predict_video

__all__ = [
    "CheckpointError",
    "Detector",
    "Predicted",
    "TiledDetector",
    "VideoDone",
    "load",
    "predict_files",
    "predict_video",
]
