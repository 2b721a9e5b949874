"""Necks: from the outputs of some of the ViT's blocks (taps) to feature levels of several strides."""

from vitdet.backbone.necks.csp import CSPNeck
from vitdet.backbone.necks.hybrid import HybridNeck
from vitdet.backbone.necks.simple import Expand, Neck, Projector, Pyramid

__all__ = ["CSPNeck", "Expand", "HybridNeck", "Neck", "Projector", "Pyramid"]
