"""Exported models on onnxruntime and OpenVINO: a graph that is written by hand, beside NumPy."""

import copy
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from graphs import CATEGORY_IDS, CLASSES, METADATA, by_hand, write_graph
from PIL import Image

import vitdet
from vitdet.cli import main
from vitdet.deploy.engines import EngineDetector, EngineError
from vitdet.deploy.engines.convert import to_openvino
from vitdet.errors import UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The graph in each format."""
    folder = tmp_path_factory.mktemp("graphs")
    source = write_graph(folder / "model.onnx")
    return {
        "onnx": source,
        "xml": to_openvino(source, folder / "model.xml"),
        "half": to_openvino(source, folder / "half" / "half.xml", half=True),
    }


@pytest.fixture
def images():
    """Of three sizes, mixed."""
    rng = np.random.default_rng(1)
    sizes = [(48, 96), (30, 30), (48, 96), (96, 48), (30, 30)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) // (i + 1) for i, size in enumerate(sizes)]


CHOICES = [("onnx", {}), ("onnx", {"engine": "openvino"}), ("onnx", {"threads": 1, "device": "cpu"}), ("xml", {})]


@pytest.mark.parametrize(("kind", "options"), CHOICES)
def test_predictions_are_those_of_the_graph_in_the_order_of_the_images(files, images, kind, options):
    detector = vitdet.load(files[kind], **options)
    assert isinstance(detector, EngineDetector)
    assert detector.classes == CLASSES and detector.category_ids == CATEGORY_IDS
    assert detector.thresholds == METADATA["thresholds"] and detector.kind == "instances"
    found = detector.predict(images, threshold=0.0, batch_size=4)
    for image, prediction in zip(images, found):
        x = detector.transform(image).numpy()[None]
        boxes, scores, labels = by_hand(x)
        height, width = image.shape[:2]
        scale = np.array([width, height] * 2) / ([x.shape[3], x.shape[2]] * 2)
        np.testing.assert_allclose(prediction.boxes_xyxy, boxes[0] * scale, rtol=1e-4)
        np.testing.assert_allclose(prediction.scores, scores[0], rtol=1e-4)
        np.testing.assert_array_equal(prediction.labels, labels[0])
        assert prediction.size == (height, width) and prediction.names == CLASSES


@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_threads_share_a_detector_and_copies_predict_the_same(files, images, kind):
    detector = vitdet.load(files[kind], threads=1)
    detector.thresholds = [0.0] * len(CLASSES)
    wanted = detector.predict(images)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: detector.predict(images[i % len(images)]), range(40)))
    copies = [copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))]
    for some in (found[: len(images)], found[-len(images) :], *(one.predict(images) for one in copies)):
        for one, other in zip(some, wanted):
            np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, rtol=1e-4, atol=1e-4)


def test_half_is_close_and_a_folder_of_openvino_loads(files, images):
    detector = vitdet.load(files["half"].parent)
    whole = vitdet.load(files["xml"]).predict(images, threshold=0.0)
    for one, other in zip(detector.predict(images, threshold=0.0), whole):
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, rtol=0.03, atol=1)
    assert "f32" in vitdet.load(files["xml"]).runs_on


def test_a_shape_that_comes_often_is_compiled_for_itself(files, images):
    detector = vitdet.load(files["xml"], threads=1)
    first = detector.predict(images, threshold=0.0)
    for _ in range(4):
        again = detector.predict(images, threshold=0.0)
    # three sizes, in batches of two, two and one
    assert len(detector.engine._fixed) == 3
    for one, other in zip(first, again):
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, rtol=1e-5)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


DAMAGES = {
    "no metadata": (lambda path: write_graph(path, metadata=None), "was not exported by vitdet"),
    "damaged metadata": (lambda path: write_graph(path, metadata="{"), "are damaged"),
    "no list of classes": (lambda path: write_graph(path, metadata=json.dumps({"format": 1})), "export the model"),
    "newer metadata": (lambda path: write_graph(path, metadata=METADATA | {"format": 99}), "update vitdet"),
    "not a file of ONNX": (lambda path: path.write_bytes(b"hello" * 99), "export the model again"),
    "cut": (lambda path: path.write_bytes(write_graph(path).read_bytes()[:300]), "export the model again"),
    "newer opset": (lambda path: _with(write_graph(path), opset=99), "smaller opset"),
    "newer file format": (lambda path: _with(write_graph(path), ir=99), "update it"),
}


def _with(path, *, opset=None, ir=None):
    model = onnx.load(path)
    model.opset_import[0].version = opset or model.opset_import[0].version
    model.ir_version = ir or model.ir_version
    onnx.save(model, path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_can_not_be_used_says_why(tmp_path, damage):
    write, message = DAMAGES[damage]
    write(tmp_path / "model.onnx")
    with pytest.raises(EngineError, match=message) as caught:
        vitdet.load(tmp_path / "model.onnx")
    assert "model.onnx" in str(caught.value)


def test_missing_and_foreign_files(tmp_path, files):
    with pytest.raises(FileNotFoundError, match="vitdet export"):
        vitdet.load(tmp_path / "model.onnx")
    (tmp_path / "model.xml").write_bytes(files["xml"].read_bytes())
    with pytest.raises(FileNotFoundError, match=r"model\.bin"):
        vitdet.load(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(EngineError, match=r"model\.xml"):
        vitdet.load(tmp_path / "model.xml")
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    with pytest.raises(EngineError, match=r"can't read .*model\.pt2"):
        vitdet.load(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"device": "abacus", "engine": "openvino"}, "choose from cpu"),
        ({"threads": 0}, "threads is 0"),
        ({"speed": 2}, "speed is no option"),
    ],
)
def test_wrong_options(files, options, message):
    with pytest.raises(UserError, match=message):
        vitdet.load(files["onnx"], **options)


@pytest.mark.parametrize(("kind", "library"), [("onnx", "onnxruntime"), ("xml", "OpenVINO")])
def test_the_engine_knows_its_devices(files, images, tmp_path, kind, library, capsys):
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    words = ["predict", str(files[kind]), str(tmp_path / "image.png"), "--output", str(tmp_path / "out"), "--device"]
    # names that PyTorch does not have
    with pytest.raises(SystemExit) as end:
        main([*words, "abacus"])
    assert end.value.code == 2 and f"{library} has no device 'abacus' here" in capsys.readouterr().err
    main([*words, {"onnx": "cpu", "xml": "auto"}[kind]])
    assert (tmp_path / "out" / "predictions.json").is_file()


def test_openvino_names_the_type_that_auto_chose(files):
    assert "(AUTO, " in (said := vitdet.load(files["xml"], device="auto").runs_on) and "f32" in said


def test_other_models_take_no_options_of_engines(files, checkpoint):
    with pytest.raises(UserError, match="threads is an option of exported models"):
        vitdet.load(checkpoint, threads=1)
    with pytest.raises(EngineError, match="read by openvino"):
        vitdet.load(files["xml"], engine="onnxruntime")


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_missing_library_is_named_with_its_extra(files, library, monkeypatch, capsys):
    path = files["onnx" if library == "onnxruntime" else "xml"]
    # an import of it now fails as if it were not there
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit) as end:
        main(["test", "--engine", str(path)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "pip install 'vitdet[export]'" in said and library in said


def test_an_engine_that_can_not_run_a_batch_says_what_the_graph_takes(files):
    detector = vitdet.load(files["onnx"])
    detector.engine.inputs["wrong"] = detector.engine.inputs.pop("images")
    with pytest.raises(EngineError, match="can't run a batch"):
        detector.predict(np.zeros((8, 8, 3), np.uint8))
