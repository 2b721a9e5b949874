"""Sharing a trained model: a folder of its weights, configuration and model card, and the Hugging Face hub.

`save` writes the folder, `push_to_hub` uploads it, and `vitdet.load` reads both.
"""

from vitdet.share.folder import Saved, save
from vitdet.share.push import push_to_hub

__all__ = ["Saved", "push_to_hub", "save"]
