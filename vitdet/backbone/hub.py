"""Checks whether timm's weights are available, before timm requests them.

timm requests several files in turn, six times each; without a network this takes a minute.
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
    """The error for which the hub can't provide the weights of timm's model `name`.

    It is `None` if they are in the cache, can be fetched, or are not on the hub. A single request is sent, with a
    timeout of `HF_HUB_ETAG_TIMEOUT` (an environment variable, in seconds) or `SECONDS`.
    """
    repository, revision, files = _source(name)
    if repository is None or any(
        isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in files
    ):
        return None
    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or SECONDS)
    answer: queue.Queue[Exception | None] = queue.Queue()
    url = hf_hub_url(repository, files[0], revision=revision)
    # in a thread, because the timeout of the request does not limit the time of the DNS lookup
    threading.Thread(target=lambda: answer.put(_ask(url, seconds)), daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return TimeoutError(f"no answer from {urlsplit(url).netloc} in {seconds:g} s")


def cached(name: str) -> list[Path]:
    """The files in the caches of huggingface_hub and `torch.hub` that timm reads the weights of a model from."""
    repository, revision, files = _source(name)
    if repository is None:
        config: Any = timm.models.get_pretrained_cfg(name, allow_unregistered=True) if ":" not in name else None
        file = _downloaded(config.url or "") if config is not None else None
        return [file] if file is not None and file.is_file() else []
    found = (try_to_load_from_cache(repository, file, revision=revision) for file in (*files, *FILES))
    return [Path(file) for file in dict.fromkeys(found) if isinstance(file, str)]


def _downloaded(url: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)


def _ask(url: str, seconds: float) -> Exception | None:
    log = logging.getLogger("huggingface_hub")
    before = log.level
    # the error has all that would be logged
    log.setLevel(logging.CRITICAL)
    try:
        get_hf_file_metadata(url, timeout=seconds)
    except EntryNotFoundError:
        # only this file is missing: timm tries others
        return None
    except Exception as error:
        return error
    finally:
        log.setLevel(before)
    return None


def _source(name: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The repository on the hub, its revision, and the names of files of which any is sufficient."""
    kind, _, place = name.rpartition(":")
    if kind == "hf-hub":
        repository, _, revision = place.partition("@")
        return repository, revision or None, ("config.json",)
    try:
        config: Any = None if kind else timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:
        # timm has no such weights
        config = None
    if config is None or not config.hf_hub_id or config.file:
        return None, None, ()
    # timm, too, looks there first
    if config.url and _downloaded(config.url).is_file():
        return None, None, ()
    repository, _, revision = config.hf_hub_id.partition("@")
    first = (config.hf_hub_filename,) if config.hf_hub_filename else ()
    return repository, revision or None, (*first, *FILES)
