"""Plain ViTs of timm over packed tokens: images of any sizes to feature levels."""

from vitdet.backbone.attention import attend
from vitdet.backbone.vit import Backbone, create_backbone

__all__ = ["Backbone", "attend", "create_backbone"]
