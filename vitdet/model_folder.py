"""The folder of a shared model, `model.safetensors` and `config.json`, and how it comes from the Hugging Face hub.

`config.json` holds the entry `vitdet` of a checkpoint, see `vitdet.checkpoint`. Reading builds nothing but vitdet's own
parts, and those of modules that the program has imported itself, so that no file decides which code is run.
"""

import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vitdet import atomic, checksum
from vitdet.entry import misfit
from vitdet.errors import UserError, short
from vitdet.trust import classes_in, how_to_trust, is_known

log = logging.getLogger("vitdet")

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# the keys of the digests of the weights, and of all else that `config.json` says
DIGEST, CONFIG_DIGEST = "weights_sha256", "config_sha256"
HUB = "hf://"
# seconds to wait for the hub's answer
SECONDS = 10.0


class SharedModelError(UserError):
    """A shared model that can't be fetched or read; the message names it, and says what to do."""


def is_shared(name: str | Path) -> bool:
    """Whether a name means a shared model: a folder that has its files, or `hf://user/name`.

    Example:
        >>> is_shared("hf://user/name"), is_shared("runs/best.ckpt")
        (True, False)
    """
    return str(name).startswith(HUB) or (str(name) != "" and Path(name, WEIGHTS).is_file())


def read(name: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a shared model, and what `config.json` says of it.

    Args:
        name: the folder, or `hf://user/name`, `hf://user/name@revision`.

    Raises:
        SharedModelError: it can't be fetched, is damaged, was not written by vitdet, or has parts of others.
    """
    folder = fetch(str(name)) if str(name).startswith(HUB) else Path(name)
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read ({error})"
        raise SharedModelError(f"{name}: {CONFIG} {reason}; wanted a folder that vitdet wrote") from error
    _check_config(name, content)
    saved = content.get("vitdet") if isinstance(content, dict) else None
    if not isinstance(saved, dict):
        raise SharedModelError(f"{name} is no model of vitdet's: {CONFIG} has no entry vitdet")
    if wrong := misfit(saved):
        raise SharedModelError(f"{name} was not written by vitdet, or changed: {wrong}")
    if unknown := next((path for path in classes_in(saved) if not is_known(path)), None):
        raise SharedModelError(f"{name} needs {short(unknown)}, which is no part of vitdet; {how_to_trust(unknown)}")
    try:
        _check(folder / WEIGHTS, content.get(DIGEST))
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise SharedModelError(f"{name}: {WEIGHTS} is damaged ({error}); fetch or write it again") from error
    return weights, saved


def _check(path: Path, wanted: str | None) -> None:
    """Raises:
    OSError: the content of a file is not the one that the digest was made of.
    """
    if wanted is not None and (found := checksum.file_digest(path)) != wanted:
        raise OSError(f"its SHA-256 is {found[:12]}…, and {CONFIG} says {str(wanted)[:12]}…")


def _check_config(name: Any, content: Any) -> None:
    """Raises:
    SharedModelError: what `config.json` says is not what was written.
    """
    if not isinstance(content, dict):
        return
    wanted = content.get(CONFIG_DIGEST)
    # a key of the same length is this one, damaged
    strange = next((key for key in content if len(key) == len(CONFIG_DIGEST) and key != CONFIG_DIGEST), None)
    if wanted is None and (strange is None or DIGEST not in content):
        return
    if wanted != _config_digest(content):
        fix = f"fetch or write it again, or, if you have changed it, remove {strange or CONFIG_DIGEST} from it"
        raise SharedModelError(f"{name}: {CONFIG} is damaged, or was changed (its SHA-256 is another); {fix}")


def _config_digest(content: Mapping[str, Any]) -> str:
    """The digest of all that `config.json` says, but itself."""
    rest = {key: value for key, value in content.items() if key != CONFIG_DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(folder: Path, saved: Mapping[str, Any], weights: Mapping[str, Tensor], *, version: str) -> None:
    """Writes the weights and the entry `vitdet` of a checkpoint into a folder.

    Args:
        version: vitdet's version, for the reader of the file.

    Raises:
        SharedModelError: the folder can't be written.
    """
    # tensors of a safetensors file share no memory
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = save(tensors, metadata={"format": "pt"})
        digest = hashlib.sha256(data).hexdigest()
        about = {"library_name": "vitdet", "vitdet_version": version, DIGEST: digest}
        content = json.loads(json.dumps({**about, "vitdet": dict(saved)}, allow_nan=False))
        content = {CONFIG_DIGEST: _config_digest(content), **content}
        text = json.dumps(content, indent=2) + "\n"
        # both are complete before the first takes its place
        atomic.replace(
            folder / CONFIG,
            lambda file: file.write(text.encode()),
            before=lambda: atomic.replace(folder / WEIGHTS, lambda file: file.write(data)),
        )
    except OSError as error:
        raise SharedModelError(f"{folder} can't be written ({error.strerror}); give another folder") from error


def split_name(name: str) -> tuple[str, str | None]:
    """The repository and the revision of `hf://user/name@revision`.

    Raises:
        SharedModelError: it has another form.

    Example:
        >>> split_name("hf://user/name@v1")
        ('user/name', 'v1')
    """
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?", name)
    if found is None:
        raise SharedModelError(f"{name} names no model of the hub; wanted hf://user/name or hf://user/name@revision")
    return found[1], found[2]


@functools.cache
def fetch(name: str) -> Path:
    """The folder of a model of the hub in huggingface_hub's cache; the hub is asked once by a process.

    Raises:
        SharedModelError: the name is wrong, there is no such model, or it is neither in the cache nor to be reached.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    repository, revision = split_name(name)
    wanted = {"repo_id": repository, "revision": revision, "allow_patterns": [WEIGHTS, CONFIG]}
    try:
        folder = Path(snapshot_download(**wanted, etag_timeout=SECONDS, library_name="vitdet"))
    except GatedRepoError as error:
        fix = f"ask for access at {constants.ENDPOINT}/{repository}, and log in: hf auth login"
        raise SharedModelError(f"{name} is given out on request; {fix}") from error
    except RevisionNotFoundError as error:
        raise SharedModelError(f"{name}: {repository} has no revision {revision}; leave @{revision} out") from error
    except RepositoryNotFoundError as error:
        what = f"there is no model {repository} at {constants.ENDPOINT} that you may read"
        raise SharedModelError(f"{what}; check the name, or log in if it is private: hf auth login") from error
    # errors of the network are those of whichever HTTP library huggingface_hub was built on
    except Exception as error:
        try:
            folder = Path(snapshot_download(**wanted, local_files_only=True))
        except Exception:
            raise SharedModelError(_unreachable(name, repository, str(constants.HF_HUB_CACHE), error)) from error
        log.warning("%s: the hub gives no answer (%s), so the files of the cache are taken", name, type(error).__name__)
    if missing := [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]:
        raise SharedModelError(f"{name} is no model of vitdet's: it has no {' and no '.join(missing)}")
    return folder


def _unreachable(name: str, repository: str, cache: str, error: Exception) -> str:
    offline = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else "no answer"
    reason = offline if "Local" in type(error).__name__ else f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return (
        f"{name} is not in the cache {cache}, and can't be fetched ({reason}): run once where there is a network, or "
        f"copy {WEIGHTS} and {CONFIG} of {repository} into a folder, and give that folder"
    )
