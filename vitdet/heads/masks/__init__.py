"""Heads for segmentation, and the masks of detection heads."""
