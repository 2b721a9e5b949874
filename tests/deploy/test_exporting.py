"""`vitdet export`: the file in its engine gives what PyTorch gives, and is judged by its score there."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import vitdet
from vitdet.cli import main
from vitdet.command.export import _parser, run
from vitdet.command.export_steps import Export
from vitdet.deploy.score import score
from vitdet.errors import UserError


@pytest.fixture
def labelled(checkpoint, contents, tmp_path):
    """A checkpoint that knows its data, whose labels are what it finds best, so that its score is high."""
    detector, rng = vitdet.load(checkpoint), np.random.default_rng(0)
    images, annotations = [], []
    for i, (height, width) in enumerate([(48, 96), (64, 64), (48, 96), (40, 60)]):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height)).save(path)
        images.append({"id": i + 1, "file_name": path.name, "height": height, "width": width})
        found = detector.predict(path, threshold=0.0)
        for row in found.to_coco()[:3]:
            number = len(annotations) + 1
            area = row["bbox"][2] * row["bbox"][3]
            annotations.append({**row, "id": number, "image_id": i + 1, "area": area, "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in zip([3, 7, 90], ["cat", "dog", "bird"])]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    files = {"images": str(tmp_path / "images"), "annotations": str(tmp_path / "truth.json")}
    data = {"class_path": "vitdet.CocoData", "init_args": {"train": files, "val": files, "size": 64}}
    torch.save({**contents, "vitdet": {**contents["vitdet"], "data": data}}, checkpoint)
    return checkpoint


def scores(text):
    """The two scores of the line `AP 0.5 → 0.5 (…)`."""
    words = next(line for line in text.splitlines() if "→" in line).split()
    return float(words[1]), float(words[3])


def test_a_file_is_judged_by_its_score_and_gives_what_the_model_gives(labelled, tmp_path, capsys):
    out = tmp_path / "out" / "model.onnx"
    main(["export", str(labelled), "--output", str(out), "--threads", "1"])
    said = capsys.readouterr().out
    before, after = scores(said)
    assert before == after > 0.5 and "onnxruntime" in said and list(out.parent.iterdir()) == [out]
    files = sorted((tmp_path / "images").iterdir())
    model, exported = vitdet.load(labelled), vitdet.load(out)
    for one, other in zip(model.predict(files, threshold=0.0), exported.predict(files, threshold=0.0)):
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(one.labels, other.labels) and one.size == other.size
    main(["test", "--engine", str(out), "--threads", "1"])
    said = capsys.readouterr().out
    assert f"{after:.4f}" in said and "onnxruntime" in said.splitlines()[-3]
    assert json.loads((out.parent / "model.predictions.json").read_text())[0]["category_id"] in (3, 7, 90)
    main(["predict", str(out), str(files[0]), "--output", str(tmp_path / "predictions")])
    assert (tmp_path / "predictions" / "predictions.json").is_file()


@pytest.mark.parametrize("words", [["--format", "openvino"], ["--format", "openvino", "--half"], ["--half"]])
def test_other_types(labelled, tmp_path, capsys, words):
    out = tmp_path / ("model.xml" if "openvino" in words else "model.onnx")
    # in bf16, boxes of a few pixels move by a part of a pixel
    main(["export", str(labelled), "--output", str(out), *words, "--loss", "20", "--threads", "1"])
    before, after = scores(capsys.readouterr().out)
    assert abs(after - before) <= (0.2 if "--half" in words else 1e-3)
    assert len(vitdet.load(out).predict(sorted((tmp_path / "images").iterdir()))) == 4


# NNCF goes through the data several times
@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_whole_numbers_of_8_bits(labelled, tmp_path, capsys, kind):
    out = tmp_path / ("model.onnx" if kind == "onnx" else "model.xml")
    main(["export", str(labelled), "--output", str(out), "--format", kind, "--int8", "--loss", "90", "--threads", "1"])
    assert abs(np.subtract(*scores(capsys.readouterr().out))) < 0.9
    if kind == "onnx":
        kinds = {node.op_type for node in onnx.load(out).graph.node}
        assert kinds & {"DynamicQuantizeMatMul", "MatMulInteger", "QGemm"}
    else:
        assert 'element_type="i8"' in out.read_text()


def test_a_file_that_has_lost_too_much_keeps_another_name(labelled, tmp_path):
    words = [str(labelled), "--output", str(tmp_path / "model.onnx"), "--threads", "1"]
    for allowed, lost in (("2", 0.015), ("1.4", 0.015), ("0.2", 0.0015)):
        export = Export(_parser().parse_args([*words, "--loss", allowed]), [])
        scored = score(export.detector, export.data, split=export.split)
        # as if the model had been better by so much
        before = replace(scored, values={"AP": scored.main[1] + lost})
        if 100 * lost <= float(allowed):
            export.finish(before)
            assert (tmp_path / "model.onnx").is_file()
            (tmp_path / "model.onnx").unlink()
        else:
            with pytest.raises(UserError, match=r"falls by 1\.50 points, .*model\.unchecked\.onnx"):
                export.finish(before)
            assert not (tmp_path / "model.onnx").exists()
            assert vitdet.load(tmp_path / "model.unchecked.onnx").classes == ["cat", "dog", "bird"]


def test_without_labelled_images_the_predictions_are_compared(checkpoint, tmp_path, capsys):
    main(["export", str(checkpoint), "--output", str(tmp_path / "model.onnx")])
    assert "no labelled images are known" in capsys.readouterr().out
    with pytest.raises(UserError, match="does not know its data"):
        run([str(checkpoint), "--output", str(tmp_path / "i.xml"), "--format", "openvino", "--int8"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--half", "--int8"], "choose one"),
        (["--int8", "images"], "--int8 is images, .* give --int8 alone, or --format openvino"),
        (["--format", "pt2", "--half"], "--half goes with"),
        (["--output", "model.txt"], r"end in \.onnx"),
        (["--loss", "-1"], "loss is -1"),
        (["--size", "32", "64"], "add --no-check"),
        (["--model.lr", "1"], "--model.lr is no option"),
        (["--size", "0", "32", "--no-check"], "--size is 0; wanted a whole number from 1"),
        (["--images", "0"], "--images is 0"),
        (["--no-check", "--outptu", "a.onnx"], "--outptu is not used"),
        (["--no-check", "--images", "3"], "--images is not used"),
        (["--title", "Cells"], "--title is for a model card"),
        (["--checkpoint", "weights.pth"], r"best\.ckpt has its own weights; leave it out"),
    ],
)
def test_wrong_options(checkpoint, words, message):
    with pytest.raises(UserError, match=message):
        run([str(checkpoint), *words])


def test_the_model_may_follow_an_option_whose_value_may_be_left_out(checkpoint):
    with pytest.raises(UserError, match="choose one"):
        run(["--half", "--int8", str(checkpoint)])
    with pytest.raises(UserError, match=r"which model\? vitdet export MODEL"):
        run(["--int8"])


def test_what_is_exported_is_not_exported_again(checkpoint, tmp_path):
    out = tmp_path / "model.onnx"
    run([str(checkpoint), "--output", str(out), "--no-check"])
    with pytest.raises(UserError, match="exported already"):
        run([str(out), "--output", str(tmp_path / "other.onnx")])
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match="is a folder; give the file"):
        run([str(checkpoint), "--output", str(tmp_path / "folder.onnx"), "--no-check"])


def test_a_fixed_size_is_that_of_the_graph(checkpoint, tmp_path):
    out = tmp_path / "model.onnx"
    run([str(checkpoint), "--output", str(out), "--size", "64", "32", "--no-check"])
    detector = vitdet.load(out, threads=1)
    assert detector.engine.inputs["images"][1][2:] == [64, 32]
    assert len(detector.predict(np.zeros((128, 64, 3), np.uint8), threshold=0.0)) == 12
    with pytest.raises(UserError, match="the graph takes"):
        detector.predict(np.zeros((64, 64, 3), np.uint8))


def test_a_package_needs_a_compiler(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert shutil.which("g++") is None
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        run([str(checkpoint), "--format", "pt2", "--output", str(tmp_path / "model.pt2"), "--no-check"])
