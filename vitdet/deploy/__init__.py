"""Using a trained model: prediction and benchmarks."""

from vitdet.checkpoint import CheckpointError
from vitdet.deploy.files import Predicted, predict_files
from vitdet.deploy.predict import Detector, load

__all__ = ["CheckpointError", "Detector", "Predicted", "load", "predict_files"]
