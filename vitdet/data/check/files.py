"""Reading image files for the check: sizes, tags and digests, and with `decode` also their pixels.

Nothing here raises an error because of a file: what is wrong with it stands in its `Facts`.
"""

import hashlib
import io
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitdet.images import MAX_PIXELS, open_pil

ORIENTATION = 0x0112
# the side of the small grey pictures that are compared
SIDE = 32
# what turns an image upright, by its EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass
class Facts:
    """What is known of an image file.

    Attributes:
        width, height: in pixels as they are stored; 0 if the file can't be read.
        orientation: the EXIF tag, 1 to 8; 1 if there is none.
        digest: of all bytes.
        problem: the code of what is wrong with the file, or empty; `why` says more.
        odd: the codes of what is unusual about it.
        grey: the upright image at a small size, `(SIDE, SIDE)` uint8, if it was decoded.
    """

    width: int = 0
    height: int = 0
    orientation: int = 1
    digest: bytes = b""
    problem: str = ""
    why: str = ""
    odd: tuple[str, ...] = ()
    grey: np.ndarray | None = None

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height after the turn that the EXIF tag asks for."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_facts(path: Path, *, decode: bool = False) -> Facts:
    """What is known of an image file.

    Args:
        path: the file.
        decode: whether its pixels are decoded, too. Files that seem to end too early always are.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return Facts(problem="image-unreadable", why="it is no regular file")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Facts(problem="image-missing")
    except (OSError, ValueError) as error:
        return Facts(problem="image-unreadable", why=str(getattr(error, "strerror", None) or error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        image = open_pil(io.BytesIO(data))
    except Image.DecompressionBombError:
        return Facts(digest=digest, problem="image-too-large", why=f"more than {MAX_PIXELS:,} pixels")
    except Exception as error:
        why = "no known format" if "cannot identify" in str(error) else str(error)
        if not data.strip(b"\0"):
            why = "all its bytes are zero" if data else "it is empty"
        elif data.startswith(b"version https://git-lfs"):
            why = "a pointer of Git LFS; fetch the file itself with git lfs pull"
        return Facts(digest=digest, problem="image-unreadable", why=why)
    with image:
        width, height = image.size
        facts = Facts(width, height, _orientation(image, data), digest, odd=_odd(image))
        if width * height > MAX_PIXELS:
            facts.problem, facts.why = "image-too-large", f"{width}×{height}"
        elif decode or ends_early(image.format or "", data):
            _decode(image, facts, keep=decode)
    return facts


def _orientation(image: Image.Image, data: bytes) -> int:
    # `getexif` of a PNG decodes all pixels when there is no such chunk before them
    if image.format == "PNG" and b"eXIf" not in data:
        return 1
    try:
        tag = image.getexif().get(ORIENTATION, 1)
    except Exception:
        # a damaged tag is none, as for `ImageOps.exif_transpose`
        return 1
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def _odd(image: Image.Image) -> tuple[str, ...]:
    found = {
        "image-depth": image.mode.startswith("I") or image.mode == "F",
        "image-transparent": image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info,
        # a photo of a phone may hold a preview as a second frame
        "image-frames": image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
    }
    return tuple(code for code, yes in found.items() if yes)


def ends_early(form: str, data: bytes) -> bool:
    """Whether the end of an image file, which its format prescribes, is not where it should be.

    Some programs write something behind the end, so that only decoding tells.
    """
    if form in ("JPEG", "MPO"):
        return b"\xff\xd9" not in data[-32:]
    if form == "PNG":
        return b"IEND" not in data[-16:]
    if form == "GIF":
        return not data.endswith(b";")
    if form == "WEBP":
        return struct.unpack("<I", data[4:8])[0] + 8 > len(data)
    if form == "BMP":
        return struct.unpack("<I", data[2:6])[0] > len(data)
    return form == "TIFF"


def _decode(image: Image.Image, facts: Facts, *, keep: bool) -> None:
    try:
        image.load()
        if keep:
            small = image.convert("L") if image.mode in ("RGB", "L", "YCbCr") else image.convert("RGB").convert("L")
            small = small.resize((SIDE, SIDE), Image.Resampling.BOX)
            turn = TURNS.get(facts.orientation)
            facts.grey = np.asarray(small if turn is None else small.transpose(turn))
    except Exception as error:
        early = any(word in str(error) for word in ("truncated", "incomplete", "Truncated"))
        facts.problem, facts.why = "image-truncated" if early else "image-unreadable", str(error)
