"""DETR-style detection heads."""
