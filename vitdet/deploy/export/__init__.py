"""Exports trained models."""

from vitdet.deploy.export.finish import finish, infer
from vitdet.deploy.export.write import export_onnx

__all__ = ["export_onnx", "finish", "infer"]
