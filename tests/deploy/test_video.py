"""Videos give a line for each frame and a video that can be played, whatever the file is like."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import clips
import cv2
import numpy as np
import pytest
from rtsp import Camera

from vitdet.cli import main
from vitdet.deploy import load
from vitdet.deploy.frames import Frames, divide
from vitdet.deploy.video import predict_video
from vitdet.errors import UserError


@pytest.fixture
def detector(checkpoint):
    return load(checkpoint, device="cpu")


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def decoded(path):
    """Pictures and times of a video's frames."""
    with av.open(str(path)) as container:
        return [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]


def test_each_frame_is_predicted_as_an_image(detector, tmp_path, capsys):
    clip = clips.write(tmp_path / "a.mp4", 11)
    done = predict_video(detector, clip, output=tmp_path / "out", threshold=0.005, batch_size=4)
    rows, frames = lines(tmp_path / "out/a.jsonl"), decoded(clip)
    assert done.frames == len(rows) == len(frames) == 11 and not done.damaged
    for row, (array, seconds) in zip(rows, frames):
        wanted = detector.predict(array, threshold=0.005)
        assert row["time"] == pytest.approx(seconds, abs=1e-5) and row["size"] == [48, 64]
        assert [one["score"] for one in row["detections"]] == pytest.approx(wanted.scores.tolist(), abs=1e-3)
        boxes = [one["bbox"] for one in row["detections"]]
        assert np.array(boxes) == pytest.approx(np.array([one["bbox"] for one in wanted.to_coco()]), abs=0.02)
        assert {one["name"] for one in row["detections"]} <= {"cat", "dog", "bird"}
    assert [row["frame"] for row in rows] == list(range(11))
    assert done.objects == sum(len(row["detections"]) for row in rows) > 0
    written = decoded(tmp_path / "out/a.mp4")
    assert [seconds for _, seconds in written] == pytest.approx([seconds for _, seconds in frames], abs=1e-4)
    assert "11 frames in" in capsys.readouterr().out


def test_times_of_a_variable_rate_are_kept(detector, tmp_path):
    times = [0, 0.04, 0.5, 0.52, 0.9, 2.0]
    clip = clips.write(tmp_path / "a.mp4", 6, times=times)
    predict_video(detector, clip, output=tmp_path / "out")
    assert [row["time"] for row in lines(tmp_path / "out/a.jsonl")] == pytest.approx(times, abs=1e-3)
    assert [seconds for _, seconds in decoded(tmp_path / "out/a.mp4")] == pytest.approx(times, abs=1e-3)
    predict_video(detector, clip, output=tmp_path / "out", every=2, drawings=False, name="b")
    assert [row["frame"] for row in lines(tmp_path / "out/b.jsonl")] == [0, 2, 4]
    assert not (tmp_path / "out/b.mp4").exists()


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_turned_as_the_file_says(detector, tmp_path, degrees):
    clip = clips.turned(clips.write(tmp_path / "a.mp4", 2), degrees)
    (first, *_), _ = list(Frames(clip, detector)), None
    seen, wanted = cv2.VideoCapture(str(clip)).read()  # OpenCV turns frames by itself
    assert seen and first.read.array.shape == wanted.shape
    assert np.abs(first.read.array.astype(int) - wanted[..., ::-1]).mean() < 3
    predict_video(detector, clip, output=tmp_path / "out")
    assert decoded(tmp_path / "out/a.mp4")[0][0].shape == wanted.shape


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.mkv", {"codec": "ffv1"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.ts", {}),
        ("a.mov", {}),
    ],
)
def test_containers_and_odd_sizes(detector, tmp_path, name, options, capsys):
    size = (47, 63) if name == "a.mkv" else (48, 64)
    clip = clips.write(tmp_path / name, 5, size=size, **options)
    assert predict_video(detector, clip, output=tmp_path / "out").frames == 5
    rows, written = lines(tmp_path / "out/a.jsonl"), decoded(tmp_path / "out/a.mp4")
    assert [row["size"] for row in rows] == [list(size)] * 5 and rows[0]["time"] == 0
    assert len(written) == 5 and written[0][0].shape == (48, 64, 3)
    assert ("63×47 is written as 64×48" in capsys.readouterr().out) == (name == "a.mkv")


def test_sound_is_kept_or_said_to_be_left_out(detector, tmp_path, capsys):
    for name, codec, kept in (("a.mp4", "aac", True), ("b.avi", "wmav2", False)):
        clip = clips.write(tmp_path / name, 30, sound=codec, codec="mpeg4")
        predict_video(detector, clip, output=tmp_path / "out", every=3)
        with av.open(str(tmp_path / "out" / f"{clip.stem}.mp4")) as container, av.open(str(clip)) as original:
            assert len(container.streams.audio) == kept
            if kept:
                sound, before = ([bytes(p) for p in c.demux(audio=0) if p.size] for c in (container, original))
                assert sound == before
        assert ("the sound is left out: wmav2" in capsys.readouterr().out) != kept


def test_damage_is_counted(detector, tmp_path, capsys):
    clip = clips.write(tmp_path / "a.ts", 40, g="5")
    content = bytearray(clip.read_bytes())
    rng = np.random.default_rng(0)
    for start in rng.integers(len(content) // 4, len(content) * 3 // 4, 25):
        content[start : start + 30] = rng.bytes(30)
    clip.write_bytes(content)
    done = predict_video(detector, clip, output=tmp_path / "out")
    assert done.damaged and 20 < done.frames <= 41
    assert f"{done.damaged} frames or packets are damaged" in capsys.readouterr().out
    assert len(decoded(tmp_path / "out/a.mp4")) == done.frames == len(lines(tmp_path / "out/a.jsonl"))


@pytest.mark.parametrize("content", [b"", b"no video", "sound"])
def test_what_is_no_video_is_told(detector, tmp_path, content):
    clip = tmp_path / "a.mp4"
    if content == "sound":
        with av.open(str(clip), "w") as container:
            tone = container.add_stream("aac", rate=44_100, layout="mono")
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            part.sample_rate = 44_100
            container.mux([*tone.encode(part), *tone.encode(None)])
    else:
        clip.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4 (has no video|can't be opened as a video)"):
        predict_video(detector, clip, output=tmp_path / "out")


def test_the_original_is_not_overwritten(detector, tmp_path):
    clip = clips.write(tmp_path / "a.mp4", 2)
    before = clip.read_bytes()
    with pytest.raises(UserError, match="would overwrite its original"):
        predict_video(detector, clip, output=tmp_path)
    assert clip.read_bytes() == before


def test_words_that_mean_videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.MOV", "c.jpg"):
        (tmp_path / name).touch()
    assert divide(["*", "0", "photo.jpg", "rtsp://host/x", "http://host/y.mp4?z=1", "*.mp4"]) == (
        ["a.mp4", "b.MOV", "0", "rtsp://host/x", "http://host/y.mp4?z=1"],
        ["*", "photo.jpg"],
    )


def test_an_address_and_standard_input(detector, tmp_path, monkeypatch):
    clips.write(tmp_path / "a.mp4", 7)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *words: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.mp4"
        assert predict_video(detector, address, output=tmp_path / "out", name="web").frames == 7
        server.shutdown()
    with open(clips.write(tmp_path / "a.ts", 6), "rb") as file:
        monkeypatch.setattr("sys.stdin", type("Input", (), {"buffer": file}))
        assert predict_video(detector, "pipe:0", output=tmp_path / "out", name="pipe").frames == 6


def test_a_live_stream_does_not_wait_for_the_model(detector, tmp_path, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def send():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                clips.write(f"tcp://127.0.0.1:{port}", 300, kind="mpegts", g="5", tune="zerolatency")
                return
            except av.error.ConnectionRefusedError:
                time.sleep(0.05)

    sender = threading.Thread(target=send)
    sender.start()
    slow = detector.find
    detector.find = lambda reads: (time.sleep(0.05), slow(reads))[1]
    done = predict_video(detector, f"tcp://127.0.0.1:{port}?listen=1", output=tmp_path / "out", name="live")
    sender.join()
    assert done.frames + done.skipped == 300 and done.skipped > 0
    indices = [row["frame"] for row in lines(tmp_path / "out/live.jsonl")]
    assert indices == sorted(set(indices)) and len(decoded(tmp_path / "out/live.mp4")) == len(indices) == done.frames
    assert "frames were passed over" in capsys.readouterr().out


def test_a_camera_on_the_network(detector, tmp_path):
    camera = Camera(40, rate=50)
    done = predict_video(detector, camera.address, output=tmp_path / "out", track="bytetrack")
    camera.thread.join()
    (rows,) = (tmp_path / "out").glob("127_0_0_1_*_door.jsonl")
    assert done.frames == len(lines(rows)) > 0 and 30 <= done.frames + done.skipped <= 40
    assert len(decoded(rows.with_suffix(".mp4"))) == done.frames


def test_command_takes_videos_with_images(checkpoint, tmp_path, file, capsys):
    clips.write(tmp_path / "a.mp4", 4), clips.write(tmp_path / "a.mkv", 3)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    out, words = tmp_path / "out", [str(tmp_path / "*.m*"), str(file)]
    main(["predict", str(checkpoint), *words, "--output", str(out), "--track", "--every", "2", "--tile", "48"])
    assert len(lines(out / "a.jsonl")) == 2 and len(lines(out / "a-2.jsonl")) == 2 and (out / "a.png").exists()
    assert "left out" in capsys.readouterr().out
    for wrong, message in ((["--track"], "is about videos"), (["--track", "deepsort"], "invalid choice")):
        with pytest.raises(SystemExit):
            main(["predict", str(checkpoint), str(file), *wrong])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["predict", str(checkpoint), "63", "--output", str(out)])
    assert end.value.code == 2 and "63 can't be opened as a camera" in capsys.readouterr().err


def test_command_keeps_the_results_of_videos_apart(checkpoint, tmp_path, capsys):
    clips.write(tmp_path / "a.mp4", 2), clips.write(tmp_path / "a.mkv", 2), clips.write(tmp_path / "a-2.mp4", 2)
    words = ["predict", str(checkpoint), *(str(tmp_path / name) for name in ("a.mp4", "a.mkv", "a-2.mp4"))]
    main([*words, "--output", str(tmp_path / "out"), "--annotations", "truth.json"])
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.jsonl")) == ["a", "a-2", "a-2-2"]
    assert "--annotations: about images alone" in capsys.readouterr().out
    before = (tmp_path / "a-2.mp4").read_bytes()
    with pytest.raises(SystemExit):
        main([words[0], words[1], *words[3:], "--output", str(tmp_path)])
    assert "would overwrite the video" in capsys.readouterr().err and (tmp_path / "a-2.mp4").read_bytes() == before


@pytest.mark.slow
def test_an_interruption_leaves_a_video_that_can_be_played(checkpoint, tmp_path):
    clip = clips.write(tmp_path / "a.mp4", 6000, preset="ultrafast")
    command = [sys.executable, "-m", "vitdet", "predict", str(checkpoint), str(clip), "--output", str(tmp_path / "out")]
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True)
    rows, deadline = tmp_path / "out/a.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (rows.exists() and rows.stat().st_size > 2_000):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "frames in" in said
    done = lines(rows)
    # it may come between a line and its frame
    assert 0 < len(done) < 6000 and len(done) - len(decoded(tmp_path / "out/a.mp4")) in (0, 1)
