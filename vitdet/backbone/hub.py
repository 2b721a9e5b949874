"""Whether timm's weights can be had, before timm asks for them.

timm asks for one file after another, six times each, which takes a minute without a network.
"""

import logging
import os
import queue
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SECONDS = 4.0


def why_not(name: str) -> Exception | None:
    """Why the hub can't be asked for what timm's model `name` needs.

    `None` where it is in the cache, can be fetched, or lies elsewhere.

    One question, which waits for `HF_HUB_ETAG_TIMEOUT` seconds, or `SECONDS`.
    """
    repository, revision, files = _source(name)
    if repository is None or any(
        isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in files
    ):
        return None
    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or SECONDS)
    answer: queue.Queue[Exception | None] = queue.Queue()
    url = hf_hub_url(repository, files[0], revision=revision)
    # in a thread, because looking up a name takes as long as the system likes
    threading.Thread(target=lambda: answer.put(_ask(url, seconds)), daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return TimeoutError(f"no answer from {urlsplit(url).netloc} in {seconds:g} s")


def _ask(url: str, seconds: float) -> Exception | None:
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.CRITICAL)  # what it would log is in the error
    try:
        get_hf_file_metadata(url, timeout=seconds)
    except EntryNotFoundError:  # this file: timm knows others
        return None
    except Exception as error:
        return error
    finally:
        log.setLevel(before)
    return None


def _source(name: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The repository on the hub, its revision, and the files of which one is enough."""
    kind, _, place = name.rpartition(":")
    if kind == "hf-hub":
        repository, _, revision = place.partition("@")
        return repository, revision or None, ("config.json",)
    try:
        config: Any = None if kind else timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # timm says that there are no such weights
        config = None
    if config is None or not config.hf_hub_id or config.file:
        return None, None, ()
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(config.url or "").path).name)
    if config.url and cached.is_file():  # where timm itself looks first
        return None, None, ()
    repository, _, revision = config.hf_hub_id.partition("@")
    own = (config.hf_hub_filename,) if config.hf_hub_filename else ()
    return repository, revision or None, (*own, *FILES)
