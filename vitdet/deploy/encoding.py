"""Writes pictures as a video that players show, with the sound of the original."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# the best that this build of FFmpeg has is taken, with its options: quality and speed
CODECS = {"libx264": {"crf": "23", "preset": "veryfast"}, "libopenh264": {}, "mpeg4": {"qscale": "4"}}
# parts of a second in which times are written: all usual frame rates fit
CLOCK = Fraction(1, 90_000)


class Encoder:
    """Writes an MP4 file; `close` makes it playable, also after an interruption.

    Args:
        path: File to write.
        size: `(H, W)` of the first picture in pixels. Odd sides get another row or column, since players want even
            ones; later pictures of another size are resized to it.
        rate: Frames a second, on average.
        sound: Stream of PyAV whose packets are copied; `None` for none.
        start: Time in seconds at which the original starts.

    Attributes:
        lines: messages about what was changed or left out.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], *, rate: Fraction, sound: Any = None, start: Fraction = Fraction(0)
    ) -> None:
        self.path, self.size, self.rate, self.start = path, size, rate, start
        self.lines: list[str] = []
        self.even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        if self.even != size:
            self.lines.append(f"{size[1]}×{size[0]} is written as {self.even[1]}×{self.even[0]}: sides must be even")
        self.last, self.resized = -1, 0
        try:
            self._open(sound)
        except Exception as error:
            if sound is None:
                raise
            self._open(None)
            self.lines.append(
                f"the sound is left out: {sound.codec_context.name} can't be put in an MP4 file ({error})"
            )

    def _open(self, sound: Any) -> None:
        import av

        self.container = av.open(str(self.path), "w", format="mp4")
        codec = next(name for name in CODECS if name in av.codecs_available)
        self.stream: Any = self.container.add_stream(codec, rate=self.rate, options=CODECS[codec])
        self.stream.height, self.stream.width = self.even
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = self.stream.time_base = CLOCK
        try:
            self.sound: Any = None if sound is None else self.container.add_stream_from_template(sound)
            self.container.start_encoding()
        except Exception:
            self.container.close()
            raise

    def write(self, picture: Image.Image, time: float, sound: Sequence[Any] = ()) -> None:
        """Writes a picture that is shown from `time` on, in seconds, and the packets of sound before it."""
        import av

        self.copy(sound)
        height, width = self.size
        if picture.size != (width, height):
            self.resized += 1
            picture = picture.resize((width, height))
        array = np.asarray(picture)
        pad = [(0, even - side) for even, side in zip(self.even, self.size)]
        frame = av.VideoFrame.from_ndarray(
            np.pad(array, (*pad, (0, 0)), mode="edge") if self.even != self.size else array
        )
        # players want times that grow
        self.last = frame.pts = max(self.last + 1, round(time / CLOCK))
        frame.time_base = CLOCK
        self.container.mux(self.stream.encode(frame))

    def copy(self, sound: Sequence[Any]) -> None:
        """Copies packets of sound."""
        for packet in sound if self.sound is not None else ():
            shift = round(self.start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self.sound
            self.container.mux(packet)

    def close(self) -> None:
        """Writes what is left and the index of the file."""
        try:
            self.container.mux(self.stream.encode(None))
        finally:
            self.container.close()
        if self.resized:
            self.lines.append(f"{self.resized} frames of another size were resized to {self.size[1]}×{self.size[0]}")
