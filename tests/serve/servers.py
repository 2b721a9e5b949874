"""Servers of tiny models, each in a thread of this process, at a free port."""

import contextlib
import io
import socket
import threading
import time

import httpx
import numpy as np
import torch
from PIL import Image

from vitdet.backbone import Backbone
from vitdet.data.transforms import EvalTransform
from vitdet.deploy import Detector
from vitdet.heads import DETRHead, SemanticHead
from vitdet.serve.addresses import Fetcher
from vitdet.serve.app import create_app
from vitdet.serve.guard import Access
from vitdet.serve.limits import Limits
from vitdet.serve.server import make_server, make_service

# one for all, because each makes a TLS context
client = httpx.Client(timeout=20)
CLASSES, CATEGORY_IDS, THRESHOLDS = ["cat", "dog", "bird"], [3, 7, 90], [0.4, 0.45, 0.6]


class Slow(Detector):
    """A detector that takes a while, and remembers its batches."""

    seconds = 0.3

    def infer(self, x, sizes):
        self.batches = [*getattr(self, "batches", []), len(x)]
        time.sleep(self.seconds)
        return super().infer(x, sizes)


def make_detector(kind=Detector, *, semantic=False, masks=False, size=64):
    torch.manual_seed(0)
    backbone = Backbone("vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=2, out_channels=32)
    given = (backbone.out_channels, backbone.strides, len(CLASSES))
    small = {"dim": 32, "num_queries": 12, "num_layers": 2, "decoder": {"num_heads": 2, "ffn_dim": 64}}
    head = SemanticHead(*given, dim=32) if semantic else DETRHead(*given, **small, masks=masks)
    if not semantic:
        # so that scores and boxes depend on the image, and thresholds matter
        for name, parameter in head.named_parameters():
            if "class" in name:
                torch.nn.init.normal_(parameter, std=0.12 if parameter.ndim > 1 else 0.0)
            elif "box" in name and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.06)
    transform = EvalTransform(size={"long_side": size}, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    names = {"classes": CLASSES, "category_ids": CATEGORY_IDS}
    return kind(backbone, head, **names, transform=transform, device="cpu", thresholds=THRESHOLDS)


@contextlib.contextmanager
def running(detector, *, urls=(), access=None, **limits):
    """The address of a server."""
    limits = Limits(**limits)
    fetcher = Fetcher(urls, max_bytes=limits.max_bytes, timeout=limits.timeout)
    service = make_service(detector, "tiny.ckpt", limits=limits, fetcher=fetcher)
    server = make_server(create_app(service, access or Access()), limits)
    place = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def photo(seed=0, size=(48, 64)):
    """An array of coarse noise, different for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize(size[::-1], Image.Resampling.BILINEAR))


def encoded(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()
