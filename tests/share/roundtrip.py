"""Uploads a model to a hub on this machine, and reads it from there and from the cache; prints what happened as JSON.

A process of its own, since huggingface_hub reads its environment when it is imported. Arguments: the folder of the
model, and one for the cache.
"""

import json
import os
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from hub_server import TOKEN, serving

FOLDER, CACHE = sys.argv[1:]


def said(*words: str) -> str:
    """What `vitdet words` prints."""
    from vitdet.cli import _main

    out = StringIO()
    with redirect_stdout(out):
        _main(list(words))
    return out.getvalue()


def failure(function, *arguments, **options) -> str:
    """The sentence of the error."""
    from vitdet.errors import UserError

    start = time.monotonic()
    try:
        function(*arguments, **options)
    except UserError as error:
        print(f"{time.monotonic() - start:.1f} s: {error}", file=sys.stderr)
        return str(error)
    return "no error"


def main() -> None:
    told = {}
    with serving() as (hub, address):
        own = {"HF_ENDPOINT": address, "HF_HOME": CACHE, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        os.environ.update(own, HF_HUB_DISABLE_PROGRESS_BARS="1")
        os.environ.pop("HF_TOKEN", None)
        import vitdet
        from vitdet import model_folder
        from vitdet.share import push_to_hub

        told["no token"] = failure(said, "push", FOLDER, "someone/shapes")
        told["no requests without a token"] = not any("POST" in line for line in hub.log)
        os.environ["HF_TOKEN"] = TOKEN
        told["push"] = said("push", FOLDER, "someone/shapes")
        told["private"] = sorted(hub.private)
        (_, files) = hub.commit("someone/shapes", "main")
        told["files"] = sorted(files)
        told["card"] = files["README.md"].decode()
        told["same"] = files["model.safetensors"] == Path(FOLDER, "model.safetensors").read_bytes()
        push_to_hub(FOLDER, "someone/shapes", revision="v1", private=False)
        told["classes"] = vitdet.load("hf://someone/shapes").classes
        told["classes of v1"] = vitdet.load("hf://someone/shapes@v1", device="cpu").classes
        told["fetched"] = sorted(
            {line.rpartition("/")[2] for line in hub.log if line.startswith("GET") and "resolve" in line}
        )
        told["no revision"] = failure(vitdet.load, "hf://someone/shapes@v9")
        told["no model"] = failure(vitdet.load, "hf://someone/nothing")
        del os.environ["HF_TOKEN"]
        hub.branches["someone/secret", "main"] = [files]
        hub.private.add("someone/secret")
        told["private to others"] = failure(vitdet.load, "hf://someone/secret")
        told["no name"] = failure(vitdet.load, "hf://someone")
        os.environ["HF_TOKEN"] = TOKEN
        hub.branches["someone/other", "main"] = [{"config.json": b"{}", "README.md": b""}]
        told["no vitdet"] = failure(vitdet.load, "hf://someone/other")
        hub.refuse = 403
        told["may not write"] = failure(push_to_hub, FOLDER, "another/shapes")
    model_folder.fetch.cache_clear()
    told["cached"] = vitdet.load("hf://someone/shapes").classes
    told["not cached"] = failure(vitdet.load, "hf://someone/else")
    told["no server"] = failure(push_to_hub, FOLDER, "someone/shapes")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
