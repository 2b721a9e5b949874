"""Whatever form an image comes in, it is answered with what `Detector.predict` finds in it."""

import base64
import concurrent.futures
import functools
import http.server
import io
import json
import threading
from typing import ClassVar

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from servers import CATEGORY_IDS, CLASSES, THRESHOLDS, client, encoded, make_detector, photo, running

from vitdet import __version__
from vitdet.deploy import load
from vitdet.deploy.export import export_onnx
from vitdet.serve.answer import WORK_PIXELS, polygons, work_size

FILE = encoded(photo())


def same(told, prediction):
    """The objects of an answer are those of a prediction."""
    assert [one["label"] for one in told] == prediction.labels.tolist()
    assert [one["name"] for one in told] == [CLASSES[one["label"]] for one in told]
    assert [one["category_id"] for one in told] == [CATEGORY_IDS[one["label"]] for one in told]
    np.testing.assert_allclose([one["score"] for one in told], prediction.scores, atol=6e-5)
    boxes = np.array([one["box"] for one in told]).reshape(-1, 4)
    np.testing.assert_allclose(boxes, prediction.boxes_xyxy, atol=6e-3)


def post(url, data=FILE, kind="image/png", **options):
    answer = client.post(f"{url}/predict", content=data, headers={"content-type": kind}, params=options)
    assert answer.status_code == 200, answer.text
    return answer


def test_each_form_of_a_request_gets_what_predict_finds(url, detector):
    in_base64 = base64.b64encode(FILE).decode()
    answers = [
        post(url),
        post(url, kind="application/octet-stream"),
        post(url, kind="image/jpeg; charset=utf-8"),
        client.post(f"{url}/predict", files={"image": ("a.png", FILE, "image/png")}),
        client.post(f"{url}/predict", files={"anything": ("a.png", FILE)}),
        client.post(f"{url}/predict", json={"image": in_base64}),
        client.post(f"{url}/predict", json={"image": f"data:image/png;base64,{in_base64}"}),
    ]
    expected = detector.predict(photo())
    assert 0 < len(expected) < len(detector.predict(photo(), threshold=0.0))
    for answer in answers:
        told = answer.json()
        same(told["objects"], expected)
        assert told["size"] == {"width": 64, "height": 48} and told["threshold"] == THRESHOLDS
        assert told["model"] == {"name": "tiny.ckpt", "version": "unknown", "vitdet": __version__}
        assert set(told["timing"]) == {"wait_ms", "decode_ms", "model_ms", "total_ms", "batch"}


@pytest.mark.parametrize("given", [0, 0.5, 1, {"dog": 0.9}, {"cat": 0, "bird": 1}])
def test_thresholds_are_the_models_unless_others_are_asked_for(url, detector, given):
    own = dict(zip(CLASSES, THRESHOLDS))
    threshold = [*(own | given).values()] if isinstance(given, dict) else float(given)
    expected = detector.predict(photo(), threshold=threshold)
    word = json.dumps(given)
    body = {"image": base64.b64encode(FILE).decode(), "threshold": given}
    files = {"image": FILE}
    for answer in (
        post(url, threshold=word),
        client.post(f"{url}/predict", json=body),
        client.post(f"{url}/predict", files=files, data={"threshold": word}),
        # the form goes before the address
        client.post(f"{url}/predict?threshold=0.77", files=files, data={"threshold": word}),
    ):
        same(answer.json()["objects"], expected)
        assert answer.json()["threshold"] == threshold


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_kinds_of_files(url, detector, kind, tmp_path):
    data = encoded(photo(), kind)
    (tmp_path / "a").write_bytes(data)
    same(post(url, data, "application/octet-stream").json()["objects"], detector.predict(tmp_path / "a"))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_modes_of_pixels(url, detector, mode, tmp_path):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(photo()[..., 0].astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(photo())
    (image if mode == "I;16" else image.convert(mode)).save(path)
    same(post(url, path.read_bytes()).json()["objects"], detector.predict(path))


def test_images_are_turned_upright(url, detector):
    turned = Image.fromarray(photo())
    turned.getexif()[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "PNG", exif=turned.getexif())
    told = post(url, file.getvalue()).json()
    assert told["size"] == {"width": 48, "height": 64}
    same(told["objects"], detector.predict(np.rot90(photo(), -1).copy()))


def test_a_picture_comes_back(url, detector):
    for kind in ("jpeg", "png"):
        answer = post(url, output=kind, threshold=0.0)
        assert answer.headers["content-type"] == f"image/{kind}"
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    np.testing.assert_array_equal(drawn, np.asarray(detector.predict(photo(), threshold=0.0).plot(photo())))
    large = post(url, encoded(photo(size=(700, 1400)), "JPEG"), output="png").content
    assert Image.open(io.BytesIO(large)).size == (1400, 700)


def filled(lines, size):
    """Polygons by the even-odd rule, drawn four times as large."""
    canvas = np.zeros((size[0] * 4, size[1] * 4), np.uint8)
    points = [np.round(np.array(line).reshape(-1, 1, 2) * 4 - 0.5).astype(np.int32) for line in lines]
    cv2.fillPoly(canvas, points, 1)
    return canvas[2::4, 2::4].astype(bool)


def test_masks_as_run_lengths_and_polygons(mask_url, with_masks):
    expected = with_masks.predict(photo(), threshold=0.0)
    told = post(mask_url, threshold=0.0).json()["objects"]
    same(told, expected)
    for one, mask in zip(told, expected.masks.numpy(), strict=True):
        np.testing.assert_array_equal(rle.decode(one["mask"]), mask)
    told = post(mask_url, threshold=0.0, masks="polygons").json()["objects"]
    for one, mask in zip(told, expected.masks.numpy(), strict=True):
        assert one["mask"]["size"] == [48, 64]
        assert (filled(one["mask"]["polygons"], (48, 64)) ^ mask).sum() <= border(mask)
    assert not any("mask" in one for one in post(mask_url, threshold=0.0, masks="none").json()["objects"])


def border(mask):
    """A tenth of the pixels that have another one beside them."""
    return (
        0.1
        * (cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) - cv2.erode(mask.astype(np.uint8), np.ones((3, 3)))).sum()
    )


def test_polygons_have_holes_and_single_pixels():
    mask = np.zeros((20, 30), bool)
    mask[3:12, 4:20], mask[6:9, 8:15], mask[15, 25] = True, False, True
    lines = polygons(mask, mask.shape)
    assert len(lines) == 2
    np.testing.assert_array_equal(filled(lines, mask.shape), mask)
    assert polygons(np.zeros((4, 4), bool), (4, 4)) == []


def test_masks_of_large_images_are_made_smaller_and_enlarged(mask_url, with_masks):
    array = photo(size=(1200, 1800))
    assert work_size((1200, 1800)) != (1200, 1800) and np.prod(work_size((1200, 1800))) <= WORK_PIXELS
    expected = with_masks.predict(array)
    told = post(mask_url, encoded(array)).json()["objects"]
    assert len(told) == len(expected) > 0
    np.testing.assert_allclose([one["box"] for one in told], expected.boxes_xyxy, atol=3)
    for one, mask in zip(told, expected.masks.numpy(), strict=True):
        assert one["mask"]["size"] == [1200, 1800]
        assert (rle.decode(one["mask"]) != mask).mean() < 0.01


def test_semantic_maps_are_areas():
    detector = make_detector(semantic=True)
    with running(detector) as url:
        told = post(url).json()["objects"]
        drawn = post(url, output="png").content
    classes = detector.predict(photo()).semantic.numpy()
    assert sum(one["area"] for one in told) == pytest.approx(1, abs=1e-3)
    for one in told:
        np.testing.assert_array_equal(rle.decode(one["mask"]), classes == one["label"])
    assert Image.open(io.BytesIO(drawn)).size == (64, 48)


def test_an_address_is_fetched_where_that_is_allowed(detector, url, tmp_path):
    (tmp_path / "a.png").write_bytes(FILE)
    (tmp_path / "big").write_bytes(bytes(400_000))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    there = f"http://127.0.0.1:{server.server_port}"
    with running(detector, urls=["127.0.0.0/8"], max_bytes=300_000, timeout=5) as address:
        for options in (
            {"json": {"url": f"{there}/a.png"}},
            {"files": {"x": (None, "")}, "data": {"url": f"{there}/a.png"}},
        ):
            if "json" in options:
                same(client.post(f"{address}/predict", **options).json()["objects"], detector.predict(photo()))
        status = {}
        for name in ("big", "none", "moved", "loop", "away"):
            status[name] = client.post(f"{address}/predict", json={"url": f"{there}/{name}"}).status_code
    assert status == {"big": 413, "none": 422, "moved": 200, "loop": 422, "away": 403}
    assert client.post(f"{url}/predict", json={"url": f"{there}/a.png"}).status_code == 403
    server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, and paths that lead elsewhere."""

    moved: ClassVar = {"/moved": "/a.png", "/loop": "/loop", "/away": "http://169.254.169.254/latest"}

    def do_GET(self):
        if self.path not in self.moved:
            return super().do_GET()
        self.send_response(302)
        self.send_header("location", self.moved[self.path])
        self.end_headers()

    def log_message(self, *_):
        pass


def test_an_exported_model_is_served_as_its_own(with_masks, tmp_path):
    """Images of several sizes in one batch, on onnxruntime."""
    export_onnx(with_masks, tmp_path / "model.onnx")
    with running(load(tmp_path / "model.onnx"), max_wait=200) as url:
        arrays = [photo(seed, size) for seed, size in enumerate(((48, 64), (64, 40), (48, 64)))]
        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            answers = list(threads.map(lambda array: post(url, encoded(array)).json(), arrays))
    for told, array in zip(answers, arrays):
        same(told["objects"], with_masks.predict(array))
