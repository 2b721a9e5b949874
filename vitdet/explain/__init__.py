"""What a model looked at: the attention of its ViT and of its queries for an image, as arrays and as a page."""

from vitdet.explain.arrays import AttentionMap, Explanation, SamplingPoints, Subject
from vitdet.explain.page import write_page
from vitdet.explain.subjects import explain

__all__ = ["AttentionMap", "Explanation", "SamplingPoints", "Subject", "explain", "write_page"]
