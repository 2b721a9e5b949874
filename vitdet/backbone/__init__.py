"""Backbones: plain ViTs of timm over packed tokens, from images of any sizes to feature levels."""

from vitdet.backbone.attention import attend
from vitdet.backbone.backbone import Backbone, create_backbone
from vitdet.backbone.necks import CSPNeck, HybridNeck, Neck, Projector, Pyramid
from vitdet.backbone.stems import ConvStem, SpatialAdapter, Stem
from vitdet.backbone.trunk import TrunkOptions

__all__ = [
    "Backbone",
    "CSPNeck",
    "ConvStem",
    "HybridNeck",
    "Neck",
    "Projector",
    "Pyramid",
    "SpatialAdapter",
    "Stem",
    "TrunkOptions",
    "attend",
    "create_backbone",
]
