"""Reads the frames of video files, cameras and streams with PyAV, ahead of the model.

H×W is the size of a frame in pixels, after it has been turned upright.
"""

import glob
import itertools
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.deploy.ahead import ahead
from vitdet.deploy.predict import Detector, Read
from vitdet.errors import UserError, check, extra
from vitdet.ranges import whole

_CONTAINERS = """3gp asf avi flv h264 h265 hevc ivf m2ts m3u8 m4v mjpeg mjpg mkv mov mp4 mpeg mpg mts mxf nut ogv ts vob
webm wmv y4m"""
SUFFIXES = frozenset(f".{name}" for name in _CONTAINERS.split())
# addresses of what never waits for its reader
LIVE = re.compile(r"^(rtsps?|rtmps?|rtp|udp|srt|tcp)://|^video=")
# the seconds after which a source that sends nothing is given up
PATIENCE = 20.0
# the name of the thread that reads a live source
THREAD = "vitdet-camera"
# the name of a camera by its number, and the format of FFmpeg that reads cameras
CAMERAS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation"), "win32": (None, "dshow")}


def is_video(source: str | Path) -> bool:
    """Whether a word of the command line means a video rather than an image, by its form.

    Example:
        >>> [is_video(word) for word in ("clip.MP4", "0", "/dev/video1", "rtsp://host/door", "pipe:0", "photo.jpg")]
        [True, True, True, True, True, False]
    """
    name = str(source)
    place = re.sub(r"[?#].*$", "", name) if "://" in name else name
    return _camera(name) is not None or bool(LIVE.match(name)) or name.startswith("pipe:") or _suffix(place) in SUFFIXES


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _camera(name: str) -> str | None:
    """The name under which FFmpeg opens a camera, if it is one: a number, a device or, on Windows, `video=NAME`."""
    pattern, _ = CAMERAS.get(sys.platform, (None, ""))
    if name.isdecimal() and not Path(name).exists():
        if pattern is None:
            raise UserError(f"cameras have no numbers here; give the name of camera {name}, such as 'video=NAME'")
        return pattern.format(name)
    return name if re.match(r"^/dev/video\d+$|^video=", name) else None


def divide(words: Iterable[str | Path]) -> tuple[list[str], list[str | Path]]:
    """The videos among files, globs, addresses and cameras, and all the rest; the files of a glob are divided, too."""
    videos: dict[str, None] = {}
    rest: list[str | Path] = []
    for word in words:
        name = str(word)
        pattern = any(c in name for c in "*?[") and "://" not in name and not Path(name).exists()
        found = sorted(glob.glob(name, recursive=True)) if pattern else [name]
        here = [match for match in found if is_video(match)]
        videos |= dict.fromkeys(here)
        if len(here) < len(found) or not found:
            rest.append(word)
    return list(videos), rest


@dataclass
class Frame:
    """A frame of a video.

    Attributes:
        index: its number in the video, from 0.
        time: its time in seconds since the start of the video.
        read: its picture, upright; `None` after the last frame, where only sound is left.
        sound: the packets of sound that come before it.
    """

    index: int
    time: float
    read: Read | None
    sound: list[Any] = field(default_factory=list)


class Frames:
    """The frames of a video file, a camera or a stream, decoded by a thread ahead of the model.

    A file waits for the model. A camera does not: while the model is busy, its frames are passed over, so that the
    newest is seen next.

    Args:
        source: A file, an address, `pipe:0` for standard input, or a camera: its number or device.
        detector: The detector whose input is made of each frame.
        every: Number of frames of which one is seen.
        count: Number of frames that are decoded ahead.

    Attributes:
        rate: frames a second, on average.
        total: the number of frames in the file, as far as it is known.
        live: whether the source does not wait.
        damaged: the number of packets or frames that could not be decoded, or only in part.
        skipped: the number of frames that were passed over, because the model was busy.
        ended: why the source ended early, if it did.
        seen: the number of frames that were decoded.

    Raises:
        UserError: it can't be opened, or has no video.
        MissingLibraryError: PyAV is not installed.
    """

    def __init__(self, source: str | Path, detector: Detector, *, every: int = 1, count: int = 16) -> None:
        ok, wanted = whole(1)
        check("every", every, ok(every), wanted)
        self.source, self.detector, self.every, self.count = str(source), detector, every, count
        self.live = _camera(self.source) is not None or bool(LIVE.match(self.source))
        self.container = _open(self.source)
        stream = self.container.streams.best("video")
        if stream is None:
            self.container.close()
            raise UserError(f"{source} has no video; give a file or an address with one")
        stream.thread_type = "AUTO"
        self.stream: Any = stream
        self.sound: Any = None if self.live else self.container.streams.best("audio")
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or 30)
        self.total = stream.frames or self._estimated()
        # what streams of television start with, and what the clock of a camera says
        start = self.container.start_time
        self.start = None if self.live else Fraction(start or 0, 1_000_000)
        self.damaged = self.skipped = self.seen = 0
        self.ended: str | None = None
        self._steps: Any = None

    def _estimated(self) -> int | None:
        length = None if self.live else self.container.duration
        return round(float(Fraction(length, 1_000_000) * self.rate)) if length else None

    def __iter__(self) -> Iterator[Frame]:
        frames = self._decoded()
        if self.live:
            self._steps = _newest(frames, self)
        else:
            # one thread, so that they come in order
            self._steps = ahead(
                lambda _: next(frames, None), itertools.repeat(0), count=self.count, threads=1, size=_bytes
            )
        return itertools.takewhile(lambda frame: frame is not None, self._steps)

    def close(self) -> None:
        """Ends the thread that decodes, and closes the source."""
        if self._steps is not None:
            self._steps.close()
        if not any(thread.name == THREAD for thread in threading.enumerate()):
            self.container.close()

    def _decoded(self) -> Iterator[Frame]:
        sound: list[Any] = []
        for packet in self._packets():
            if packet is not None and packet.stream is self.sound:
                if packet.dts is not None:
                    sound.append(packet)
                continue
            for decoded in self._decode(packet):
                index, self.seen = self.seen, self.seen + 1
                if index % self.every == 0:
                    yield Frame(index, self._time(decoded, index), self.detector.read(upright(decoded)), sound)
                    sound = []
        yield Frame(self.seen, 0.0, None, sound)

    def _packets(self) -> Iterator[Any]:
        """The packets of the file, and `None` in the end, upon which the decoder gives what it still holds."""
        from av.error import FFmpegError

        streams = [self.stream, *([self.sound] if self.sound is not None else [])]
        packets = self.container.demux(streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except FFmpegError as error:
                self.ended = error.strerror or str(error)
                break
            # an empty packet is the end of a stream
            if packet.size or packet.stream is self.sound:
                yield packet
        yield None

    def _decode(self, packet: Any) -> list[Any]:
        from av.error import EOFError, FFmpegError

        try:
            frames = self.stream.codec_context.decode(packet)
        except EOFError:
            return []
        except FFmpegError:
            self.damaged += 1
            return []
        self.damaged += sum(frame.is_corrupt for frame in frames)
        return frames

    def _time(self, frame: Any, index: int) -> float:
        if frame.pts is None:
            return float(index / self.rate)
        # the last frames, which the decoder still held, don't know their clock
        time = frame.pts * (frame.time_base or self.stream.time_base)
        if self.start is None:
            self.start = time
        return float(time - self.start)


def upright(frame: Any) -> np.ndarray:
    """A frame of PyAV as RGB `(H, W, 3)` uint8, turned as the file says."""
    array = frame.to_ndarray(format="rgb24")
    turns = round((frame.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


def _bytes(frame: Frame | None) -> int:
    return 0 if frame is None or frame.read is None else frame.read.size()


def _open(source: str) -> Any:
    with extra("video", "reading a video"):
        import av
        from av import logging
        from av.error import FFmpegError
    # what decoders say of damage is counted instead
    logging.set_level(logging.PANIC)
    camera, options = _camera(source), {}
    if source.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    try:
        if camera is not None:
            return av.open(camera, format=CAMERAS.get(sys.platform, ("", None))[1], options=options)
        file = sys.stdin.buffer if source == "pipe:0" else source
        return av.open(file, options=options, timeout=PATIENCE if "://" in source else None)
    except (FFmpegError, ValueError) as error:
        what = "camera" if camera is not None else "video"
        raise UserError(
            f"{source} can't be opened as a {what}: {getattr(error, 'strerror', None) or error}; give a video file, an "
            "address such as rtsp://…, or the number of a camera"
        ) from error


def _newest(frames: Iterator[Frame], counts: Frames) -> Iterator[Frame]:
    """The newest frame whenever one is asked for; a thread decodes meanwhile, and what nobody asked for is counted."""
    ready, stop = threading.Condition(), threading.Event()
    held: list[Frame | BaseException | None] = []

    def read() -> None:
        last: BaseException | None = None
        try:
            for frame in frames:
                if stop.is_set():
                    return
                with ready:
                    if frame.read is not None:
                        counts.skipped += len(held)
                        held[:] = [frame]
                    ready.notify()
        except Exception as error:
            last = error
        with ready:
            held.append(last)
            ready.notify()

    thread = threading.Thread(target=read, name=THREAD, daemon=True)
    thread.start()
    try:
        while True:
            with ready:
                ready.wait_for(lambda: held)
                frame = held.pop(0)
            if isinstance(frame, BaseException):
                raise frame
            if frame is None:
                return
            yield frame
    finally:
        stop.set()
        thread.join(timeout=PATIENCE)
