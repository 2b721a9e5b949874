"""Videos of moving squares, whose places are known, written with PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COLOURS = [(220, 60, 60), (60, 200, 60), (60, 60, 220), (220, 200, 60)]
CLOCK = Fraction(1, 12_800)


def picture(i: int, size: tuple[int, int], count: int = 3) -> np.ndarray:
    """Frame `i`: squares that go to and fro, each in a row of its own."""
    image = np.full((*size, 3), 110, np.uint8)
    for k in range(count):
        span = size[1] - 12
        x = abs((i * (k + 1) + 17 * k) % (2 * span) - span)
        y = (size[0] - 12) * k // max(count - 1, 1)
        image[y : y + 12, x : x + 12] = COLOURS[k]
    return image


def write(
    path: str | Path,
    count: int,
    *,
    size: tuple[int, int] = (48, 64),
    rate: int = 25,
    times: Sequence[float] | None = None,
    sound: str | None = None,
    codec: str = "libx264",
    kind: str | None = None,
    **options: str,
) -> Path:
    """A video of `count` frames.

    Args:
        path: the file, or an address.
        size: `(H, W)` in pixels.
        times: of each frame, in seconds; by default even.
        sound: the codec of a tone.
        kind: the container; by default that of the suffix.
        options: of the codec.
    """
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = CLOCK if codec == "libx264" else Fraction(1, rate)
        tone = None if sound is None else container.add_stream(sound, rate=44_100, layout="mono", bit_rate=64_000)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i, size))
            clock = stream.codec_context.time_base
            frame.pts, frame.time_base = round((i / rate if times is None else times[i]) / clock), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for k in range(int(count / rate * 44_100) // 1024 if tone else 0):
            wave = np.sin(np.arange(k * 1024, (k + 1) * 1024, dtype=np.float32) * 0.05)
            part = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = 44_100, k * 1024, Fraction(1, 44_100)
            container.mux(tone.encode(part))
        if tone:
            container.mux(tone.encode(None))
    return Path(path)


def turned(path: Path, degrees: int) -> Path:
    """Says in the header of an MP4 file how it is to be turned, as a telephone does, with the matrix of its `tkhd`."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    content = bytearray(path.read_bytes())
    # the box of version 0: kind, version and flags, times, track, layer …, and 40 bytes after the kind the matrix
    start = content.index(b"tkhd") + 4 + 40
    matrix = [cos, sin, 0, -sin, cos, 0, 0, 0, 2**14]
    for k, value in enumerate(matrix):
        scale = 1 if k == 8 else 2**16
        number = 2**30 if k == 8 else value * scale
        content[start + 4 * k : start + 4 * k + 4] = number.to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    return path
