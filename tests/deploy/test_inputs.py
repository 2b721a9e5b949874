"""What may be given to `Detector.predict` and `vitdet predict` in place of a file, and odd folders."""

import http.server
import io
import json
import os
import sys
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.cli import main
from vitdet.deploy import load, predict_files
from vitdet.deploy.inputs import find_images, pictures, places, stems
from vitdet.errors import UserError
from vitdet.images import ImageError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "deep/b.png", "deep/c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def detector(checkpoint):
    return load(checkpoint, device="cpu")


@pytest.fixture
def site(folder, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def boxes(prediction):
    return prediction.boxes_xyxy.tolist()


def test_every_form_is_predicted_as_the_file_is(detector, folder, site, monkeypatch):
    file = folder / "a.png"
    wanted = detector.predict(file, threshold=0)
    array = np.asarray(Image.open(file))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    forms = [str(file), file.read_bytes(), io.BytesIO(file.read_bytes()), Image.open(file), array, array / 255, tensor]
    for form in [*forms, tensor / 255, f"{site}/a.png", "-"]:
        found = detector(form, threshold=0)
        assert boxes(found) == boxes(wanted) and found.size == (32, 48)
        assert found.path == (form if isinstance(form, str) and form != "-" else None)
    assert detector.predict(f"{site}/a.png").plot().size == (48, 32)


def test_folders_patterns_and_lists_of_them(detector, folder, site, caplog):
    (folder / "notes.txt").touch()
    alone = [detector.predict(folder / name, threshold=0) for name in ("a.png", "deep/b.png", "deep/c.png")]
    for images in (folder, str(folder), f"{folder}/**/*.png", [folder], [folder / "a.png", f"{folder}/deep/*"]):
        found = detector.predict(images, threshold=0, batch_size=1)
        assert [one.path for one in found] == [one.path for one in alone]
        assert [boxes(one) for one in found] == [boxes(one) for one in alone]
    assert "left out of" in caplog.text and "1 .txt" in caplog.text
    mixed = detector.predict([f"{site}/a.png", folder / "deep", np.zeros((8, 8), np.uint8)])
    assert [one.path and os.path.basename(one.path) for one in mixed] == ["a.png", "b.png", "c.png", None]
    with pytest.raises(FileNotFoundError, match=r"no image at .*\*\.gif"):
        detector.predict(f"{folder}/*.gif")
    with pytest.raises(ImageError, match="wanted http:// or https://"):
        detector.predict("s3://bucket/a.png")


def test_a_pattern_does_not_find_the_results_of_an_earlier_run(checkpoint, folder):
    out = folder / "out"
    for _ in range(2):
        assert predict_files(checkpoint, f"{folder}/**/*.png", output=out).read == 3
    # unless they are what is asked for
    assert predict_files(checkpoint, f"{out}/**/*.png", output=folder / "other").read == 3
    assert find_images(f"{out}/*.png", leave_out=out)[0] == [out / "a.png"]


def test_many_images_one_after_the_other(detector, folder):
    """A stream takes images as it needs them, so it need not end."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield folder / "a.png"

    stream = detector.stream(endless(), threshold=0, batch_size=2)
    first = [next(stream) for _ in range(3)]
    assert boxes(first[0]) == boxes(first[2]) and taken <= 12
    stream.close()
    with pytest.raises(UserError, match="batch_size"):
        detector.stream([], batch_size=0)
    with pytest.raises(ImageError, match=r"gone\.png"):
        list(detector.stream([folder / "a.png", folder / "gone.png"]))


def test_links_in_circles_are_walked_once(folder):
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "deep" / "up").symlink_to("..", target_is_directory=True)
    files = [folder / "a.png", folder / "deep" / "b.png", folder / "deep" / "c.png"]
    found, ignored = find_images(folder)
    assert found == files and ignored == {"links to folders": 2}
    for pattern in (f"{folder}/**/*.png", f"{folder}/**"):
        assert find_images(pattern)[0] == files
    # by another way it is the same file, but a link to a file is one of its own
    assert find_images([folder, folder / "again" / "a.png"])[0] == files
    (folder / "copy.png").symlink_to("a.png")
    assert folder / "copy.png" in find_images(folder)[0]


def test_hidden_files_are_found_by_name_alone(folder):
    (folder / ".hidden").mkdir()
    (folder / "a.png").rename(folder / ".hidden" / "a.png")
    assert find_images(f"{folder}/**/*.png")[0] == [folder / "deep" / "b.png", folder / "deep" / "c.png"]
    assert find_images(f"{folder}/.hidden/**/*.png")[0] == [folder / ".hidden" / "a.png"]


def test_a_folder_without_an_image(checkpoint, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image at .*empty; give image files"):
        predict_files(checkpoint, [tmp_path / "empty"], output=tmp_path / "out")
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(SystemExit) as end:
        main(["predict", str(checkpoint), str(tmp_path / "empty"), "--output", str(tmp_path / "out")])
    assert end.value.code == 2 and "only 1 file that can't be read as images (1 .txt)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(checkpoint, folder, tmp_path):
    (folder / "deep").chmod(0)
    with pytest.raises(PermissionError):
        predict_files(checkpoint, [folder], output=tmp_path / "out")


def test_a_file_that_is_cut_off_in_the_middle_of_a_folder(checkpoint, folder, tmp_path, capsys):
    path = folder / "deep" / "b.png"
    path.write_bytes(path.read_bytes()[:100])
    options = {"output": tmp_path / "out", "batch_size": 1, "formats": ["coco", "yolo"]}
    assert predict_files(checkpoint, [folder], **options) == (2, 1)
    assert f"left out: {path} can't be decoded" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {row["image_id"] for row in rows} == {1, 3}
    assert not (tmp_path / "out" / "yolo" / "labels" / "deep" / "b.txt").exists()


def test_addresses_beside_files(checkpoint, folder, site, tmp_path):
    images = [f"{site}/deep/b.png?size=large", f"{site}/gone.png", folder / "a.png"]
    assert predict_files(checkpoint, images, output=tmp_path / "out", formats=["coco", "labelstudio"]) == (2, 1)
    host = site.removeprefix("http://").replace(":", "_")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")} == {
        "a.png",
        f"{host}/deep/b.png",
    }
    tasks = json.loads((tmp_path / "out" / "labelstudio" / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [images[0], "/data/local-files/?d=a.png"]


def test_standard_input_of_the_command(checkpoint, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / "a.png").read_bytes())))
    main(["predict", str(checkpoint), "-", "--output", str(tmp_path), "--format", "csv,yolo", "--no_drawings"])
    assert "1 images in" in capsys.readouterr().out
    assert (tmp_path / "predictions.csv").is_file() and (tmp_path / "yolo" / "labels" / "stdin.txt").is_file()
    assert not (tmp_path / "stdin.png").exists() and not (tmp_path / "predictions.json").exists()


def test_names_never_collide_nor_leave_the_output():
    urls = ["https://h.org/../../a.png", "https://user:word@h.org/a.png", "https://h.org/", "http://[::1]:80/%2e%2e/b"]
    names = places(["/x/a.png", "/x/y/a.png", *urls])
    assert names == ["a.png", "y/a.png", "h.org/__/__/a.png", "h.org/a.png", "h.org", "[__1]_80/__/b"]
    for given in (names * 2, ["a", "a.png", "a.png.png", "a.jpg", "a.png"], [""]):
        for made in (pictures(given), stems(pictures(given))):
            assert len(set(made)) == len(given)
