"""DEIMv2's detection head."""

from vitdet.heads.deim.head import DEIMHead

__all__ = ["DEIMHead"]
