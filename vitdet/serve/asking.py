"""What a request asks for: an image, in any of the forms that it may come in, and how it is to be answered."""

import base64
import binascii
import json
import math
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser

from vitdet.errors import clip
from vitdet.serve.limits import Limits
from vitdet.serve.refusal import Refusal
from vitdet.thresholds import Threshold

MASKS, OUTPUTS = ("rle", "polygons", "none"), ("json", "jpeg", "png")
IMAGE, URL, OPTIONS = "image", "url", ("threshold", "masks", "output")
# what a form or JSON may have around the image
AROUND = 2**16
FORM, JSON, RAW = "multipart/form-data", "application/json", "application/octet-stream"
HOW = f"send the file itself (content-type image/jpeg or {RAW}), a form ({FORM}), or {JSON}"


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Args:
        image: the bytes of an image file, or an address of one.
        threshold: the lowest score of an object that is told, or one for each class; by default those of the model.
        masks: how masks are told: as run lengths of COCO, as polygons, or not at all.
        output: JSON, or a picture on which the objects are drawn.
    """

    image: bytes | str
    threshold: Threshold | None = None
    masks: str = "rle"
    output: str = "json"


def kind_of(headers: Headers) -> str:
    """The content type, without its parameters.

    Raises:
        Refusal: 415; it is none of an image, a form or JSON.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in (FORM, JSON, RAW) or kind.startswith("image/"):
        return kind
    raise Refusal(415, f"content-type is {clip(kind or 'not given', 60)}; {HOW}")


def most_bytes(kind: str, limits: Limits) -> int:
    """The largest body of a request of a content type: the image as it is, or in base64, and what is around it."""
    return {FORM: limits.max_bytes + AROUND, JSON: limits.max_bytes * 4 // 3 + AROUND}.get(kind, limits.max_bytes)


async def parse(
    body: bytes, kind: str, headers: Headers, query: Mapping[str, str], classes: Sequence[str], limits: Limits
) -> Asked:
    """What a request asks for; what its form or JSON says goes before the query.

    Args:
        body: the whole body.
        kind: its content type.
        query: the parameters in the address.
        classes: the class names, indexed by label.

    Raises:
        Refusal: 400 for a form or JSON that can't be read, 413 for too large a file, 422 for wrong values.
    """
    image: Any = body
    given: dict[str, Any] = {}
    if kind == FORM:
        image, given = await _form(body, headers)
    elif kind == JSON:
        image, given = _json(body)
    if isinstance(image, bytes) and len(image) > limits.max_bytes:
        raise Refusal(413, f"the image has {len(image):,} bytes; at most {limits.max_bytes:,} are taken")
    given = {**query, **given}
    if unknown := sorted(set(given) - set(OPTIONS)):
        raise Refusal(422, f"there is no option {clip(unknown[0], 40)!r}; choose from {', '.join(OPTIONS)}")
    chosen = {name: _choice(name, given[name], known) for name, known in CHOICES.items() if name in given}
    return Asked(image, _threshold(given.get("threshold"), classes), **chosen)


CHOICES = {"masks": MASKS, "output": OUTPUTS}


class _Parser(MultiPartParser):
    # the body is in memory already; a file on the disk would not make it less
    spool_max_size = sys.maxsize


async def _form(body: bytes, headers: Headers) -> tuple[bytes | str, dict[str, Any]]:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        items = (await _Parser(headers, once(), max_files=1, max_fields=8).parse()).multi_items()
    except Exception as error:
        # whatever it is, the form is at fault
        raise Refusal(400, f"the form can't be read; send {FORM} with a single file, named {IMAGE}") from error
    given = {name: value for name, value in items if isinstance(value, str)}
    files = [await value.read() for _, value in items if isinstance(value, UploadFile)]
    if URL in given and not files:
        return given.pop(URL), given
    if not files:
        raise Refusal(422, f"the form has no file; send one, named {IMAGE}")
    return files[0], given


def _json(body: bytes) -> tuple[bytes | str, dict[str, Any]]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the JSON can't be read; check its brackets and quotes") from error
    if not isinstance(given, dict):
        raise Refusal(422, f'the JSON is no object; wanted {{"{IMAGE}": "the file in base64"}}')
    sources = [name for name in (IMAGE, URL) if name in given]
    if len(sources) != 1 or not isinstance(given[sources[0]], str):
        raise Refusal(422, f"the JSON needs either {IMAGE}, a file in base64, or {URL}, both as text")
    value = given.pop(sources[0])
    if sources[0] == URL:
        return value, given
    try:
        # pages give data:image/png;base64,…
        text = value.partition(",")[2] if value.startswith("data:") else value
        return base64.b64decode(text.encode("ascii"), validate=True), given
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, f"{IMAGE} is no base64; encode the bytes of the file") from error


def _choice(name: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise Refusal(422, f"{name} is {clip(str(value), 40)!r}; choose from {', '.join(known)}")
    return value


def _threshold(value: Any, classes: Sequence[str]) -> Threshold | None:
    """A score, or scores by the names of classes; classes that are not named keep those of the model, as NaN."""
    if value is None:
        return None
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Refusal(422, 'threshold is no JSON; wanted {"class": score}') from error
    if not isinstance(value, dict):
        return _score("threshold", value)
    if unknown := [name for name in value if name not in classes]:
        raise Refusal(422, f"threshold names {clip(unknown[0], 40)!r}, which is no class of the model")
    scores = {name: _score(f"threshold of {name}", score) for name, score in value.items()}
    return [scores.get(name, math.nan) for name in classes]


def _score(name: str, value: Any) -> float:
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not 0 <= score <= 1:
        raise Refusal(422, f"{name} is {clip(str(value), 40)!r}; wanted a number from 0 to 1")
    return score
