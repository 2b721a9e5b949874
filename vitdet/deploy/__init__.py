"""What is done with a trained model: predict, benchmark."""

from vitdet.deploy.files import Predicted, predict_files
from vitdet.deploy.predict import Detector, load
from vitdet.zoo import CheckpointError

__all__ = ["CheckpointError", "Detector", "Predicted", "load", "predict_files"]
