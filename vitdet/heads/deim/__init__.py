"""DEIMv2's detection head."""
