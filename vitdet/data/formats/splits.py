"""A split of images by a hash of their names, which is written down and stays as it is when images are added."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitdet.data.formats.store import places, replace
from vitdet.errors import DataError

# the share of the images that validate where a folder has no split
FRACTION = 0.2
# Roboflow writes augmented copies of `x.jpg` as `x_jpg.rf.HASH.jpg`: they belong to the same side
_COPY = re.compile(r"\.rf\.\w+(?=\.\w+$)")


def divide(folder: Path, names: Sequence[str], fraction: float) -> tuple[list[bool], str]:
    """Which images are for validation, and a line about it.

    A side that was written down in the folder stays. Of other images, those whose names have a hash in the lowest
    `fraction` of all hashes are for validation; of two images and more, at least one is on each side.

    Args:
        folder: the folder of the data, in whose `.vitdet/` the split is written down, or else in the user's cache.
        names: the paths of the images relative to the folder, or what stands for them in the labels.
        fraction: the share of the images that validate; 0 for none.

    Raises:
        DataError: what was written down can't be read.
    """
    keys = [_key(name) for name in names]
    if fraction == 0 or len(set(keys)) < 2:
        return [False] * len(names), ""
    files = [place / f"split-{fraction:g}.json" for place in places(folder)]
    known = _read(files)
    sides = {key: known.get(key, _hash(key) < fraction) for key in keys}
    if len(set(sides.values())) == 1:
        # few images: the nearest to the border changes sides
        all_val = next(iter(sides.values()))
        alone = (max if all_val else min)(sides, key=_hash)
        sides[alone] = not all_val
    if not sides.keys() <= known.keys() or any(known[key] != side for key, side in sides.items()):
        known |= sides
        content = {split: sorted(key for key in known if known[key] == side) for split, side in SIDES.items()}
        where = f", written down in {replace(folder, files[0].name, json.dumps(content, indent=1))}"
    else:
        where = f", as written down in {next(file for file in files if file.is_file())}"
    flags = [sides[key] for key in keys]
    line = f"split: there are no validation images, so {sum(flags)} of {len(flags)} are taken by a hash of their names"
    return flags, f"{line}{where}; another share: --data.val_fraction 0.1"


SIDES = {"train": False, "val": True}


def _read(files: Iterable[Path]) -> dict[str, bool]:
    for path in files:
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                return {str(name): side for split, side in SIDES.items() for name in content[split]}
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                wanted = 'wanted {"train": [NAME, …], "val": [NAME, …]}; remove it for a new split'
                raise DataError(f"{path} is no split: {wanted}") from error
    return {}


def _key(name: str) -> str:
    return _COPY.sub("", name.replace("\\", "/"))


def _hash(key: str) -> float:
    """A number in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=6).digest(), "big") / 2**48
