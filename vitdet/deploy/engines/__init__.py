"""Exported models on onnxruntime, OpenVINO and AOTInductor."""

from vitdet.deploy.engines.base import Engine, EngineError
from vitdet.deploy.engines.detector import EngineDetector

__all__ = ["Engine", "EngineDetector", "EngineError"]
