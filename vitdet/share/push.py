"""Uploads a shared model to the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitdet import model_folder
from vitdet.errors import UserError
from vitdet.share.card import PLACEHOLDER
from vitdet.share.folder import IMAGES, PICTURE, README


class PushError(UserError):
    """A model could not be uploaded; the message says what to do."""


def push_to_hub(
    folder: str | Path,
    name: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Upload of a vitdet model",
) -> str:
    """Uploads a folder that `save` wrote, and creates the repository if there is none.

    Args:
        folder: the folder.
        name: the repository, `user/name`.
        private: whether a repository that is created can be read by its owner alone. One that exists stays as it is.
        revision: the branch to upload to; by default `main`.
        token: a token that may write; by default `HF_TOKEN`, or that of `hf auth login`.
        message: the message of the commit.

    Returns:
        The address of the upload.

    Raises:
        PushError: the folder or the name is wrong, there is no token, or the hub can't be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = files_of(folder)
    repository, _ = model_folder.split_name(f"{model_folder.HUB}{name.removeprefix(model_folder.HUB)}")
    api = HfApi(token=token, library_name="vitdet")
    if not (token or api.token or _stored_token()):
        raise PushError("there is no token for the Hugging Face hub; log in with `hf auth login`, or set HF_TOKEN")
    operations = [CommitOperationAdd(path.name, _content(path, repository)) for path in files]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        done = api.create_commit(repository, operations, commit_message=message, revision=revision)
    # errors of the network are those of whichever HTTP library huggingface_hub was built on
    except Exception as error:
        raise PushError(f"{repository} could not be uploaded to {api.endpoint}: {_reason(error)}") from error
    return str(done.commit_url)


def files_of(folder: str | Path) -> list[Path]:
    """The files of a shared model, which are all that is uploaded.

    Raises:
        PushError: it is no such folder.
    """
    wanted = [model_folder.WEIGHTS, model_folder.CONFIG, README]
    if missing := [file for file in wanted if not Path(folder, file).is_file()]:
        fix = f"write one: vitdet export CHECKPOINT --format safetensors --output {folder}"
        raise PushError(f"{folder} has no {missing[0]}, so it is no shared model; {fix}")
    pictures = [Path(folder, f"{PICTURE}{suffix}") for suffix in IMAGES]
    return [*(Path(folder, file) for file in wanted), *(path for path in pictures if path.is_file())]


def _content(path: Path, repository: str) -> Any:
    """A file as it is uploaded: the card names the repository."""
    if path.name != README:
        return str(path)
    text = path.read_text(encoding="utf-8")
    return text.replace(PLACEHOLDER, f"{model_folder.HUB}{repository}").encode()


def _stored_token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    advice = {
        401: "the token is not valid; log in again: hf auth login",
        403: "the token may not write there; make one of the kind `write`, or take a repository of your own",
        409: "the branch has changed meanwhile; try again",
    }
    first: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return advice.get(status or 0, f"{first[0]}; is there a network, and is HF_HUB_OFFLINE unset?")
