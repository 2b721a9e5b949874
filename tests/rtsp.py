"""A camera on the network: an RTSP server (RFC 2326) that sends H.264 (RFC 6184) to one client over its connection."""

import re
import socket
import struct
import threading
import time
from fractions import Fraction

import av
import clips

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
)
# the most bytes of a packet's payload
MOST = 1200


def access_units(count: int, rate: int, size: tuple[int, int]):
    """The NAL units of each frame."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *size, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, rate), Fraction(rate)
    encoder.options = {"tune": "zerolatency", "g": "10"}
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(clips.picture(i, size))
        frame.pts, frame.time_base = i, Fraction(1, rate)
        for packet in encoder.encode(frame):
            yield [unit for unit in re.split(b"\0\0\0?\1", bytes(packet)) if unit]


def payloads(unit: bytes):
    """A NAL unit, or its fragments (FU-A)."""
    if len(unit) <= MOST:
        yield unit
        return
    parts = [unit[i : i + MOST] for i in range(1, len(unit), MOST)]
    for k, part in enumerate(parts):
        ends = 0x80 * (k == 0) | 0x40 * (k == len(parts) - 1)
        yield bytes([unit[0] & 0x60 | 28, ends | unit[0] & 0x1F]) + part


class Camera:
    """Waits for a client in a thread, and sends it `count` frames at `rate`; `address` is that of the stream."""

    def __init__(self, count: int, *, rate: int = 25, size: tuple[int, int] = (48, 64)) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://127.0.0.1:{self.server.getsockname()[1]}/door"
        self.thread = threading.Thread(target=self._serve, args=(count, rate, size), daemon=True)
        self.thread.start()

    def _serve(self, count: int, rate: int, size: tuple[int, int]) -> None:
        with self.server, self.server.accept()[0] as client:
            requests = client.makefile("rb")
            while not self._answer(client, requests):
                pass
            number = 0
            for i, units in enumerate(access_units(count, rate, size)):
                packets = [part for unit in units for part in payloads(unit)]
                for k, part in enumerate(packets):
                    last = 0x80 * (k == len(packets) - 1)
                    head = struct.pack(">BBHII", 0x80, last | 96, number % 2**16, i * 90_000 // rate, 7)
                    client.sendall(b"$\0" + struct.pack(">H", len(head) + len(part)) + head + part)
                    number += 1
                time.sleep(1 / rate)

    def _answer(self, client: socket.socket, requests) -> bool:
        """Answers a request, and returns whether it was the last before the frames."""
        lines = []
        while (line := requests.readline().decode().strip()) or not lines:
            lines.append(line)
        verb = lines[0].split()[0]
        order = next(line for line in lines if line.lower().startswith("cseq"))
        own = {
            "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n",
            "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n",
            "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
            "PLAY": "Session: 1\r\n",
        }[verb]
        body = SDP if verb == "DESCRIBE" else ""
        client.sendall(f"RTSP/1.0 200 OK\r\n{order}\r\n{own}\r\n{body}".encode())
        return verb == "PLAY"
