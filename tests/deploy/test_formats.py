"""Predictions as labels, read back by vitdet's own readers of these formats, and against each tool's schema."""

import csv
import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.backbone import Backbone
from vitdet.config import config_of
from vitdet.data.formats import labelme, yolo
from vitdet.deploy import load, predict_files
from vitdet.deploy.formats import inside
from vitdet.errors import UserError
from vitdet.heads import MaskDecoderHead
from vitdet.masks import rle as codes
from vitdet.masks import to_rle

NAMES = ["a.png", "deep/ein Bär.jpg", "deep/none.png"]


def mask_model(contents, path, task="instances"):
    backbone = Backbone("vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=2, out_channels=32)
    options = {"dim": 32, "num_queries": 9, "num_heads": 4, "rules": {"threshold": 0.0, "overlap": 0.0}}
    head = MaskDecoderHead(backbone.out_channels, backbone.strides, 3, task=task, **options)
    contents["vitdet"]["model"] = {"backbone": config_of(backbone), "head": config_of(head)}
    contents["state_dict"] = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    contents["state_dict"] |= {f"head.{k}": v for k, v in head.state_dict().items()}
    torch.save(contents, path)
    return path


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 96, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture(params=["boxes", "masks", "panoptic"])
def found(request, contents, checkpoint, images, tmp_path):
    """A model, and what it finds in each image above a threshold that leaves some out."""
    if request.param != "boxes":
        checkpoint = mask_model(contents, checkpoint, "panoptic" if request.param == "panoptic" else "instances")
    detector = load(checkpoint, device="cpu")
    everything = detector.predict([images / name for name in NAMES], threshold=0)
    scores = torch.cat([one.scores for one in everything]).sort().values
    middle = scores[len(scores) // 4 : -len(scores) // 4]
    # where two scores are far apart, since a batch of another size may round them in another way
    at = int((middle[1:] - middle[:-1]).argmax())
    threshold = float(middle[at : at + 2].mean())
    options = {"output": tmp_path / "out", "threshold": threshold, "batch_size": 2}
    formats = ["yolo", "labelme", "labelstudio", "csv", "crops"]
    assert predict_files(checkpoint, [images], formats=formats, drawings=False, device="cpu", **options) == (3, 0)
    predictions = {name: one.above(threshold) for name, one in zip(NAMES, everything)}
    assert sum(map(len, predictions.values())) > 3
    return predictions


def wanted(prediction):
    """The class, the box inside the image, and the mask of each object that has an area inside the image."""
    for i, one in enumerate(prediction):
        box = inside(one.box_xyxy, prediction.size)
        mask = one.mask if prediction.panoptic is None else prediction.panoptic == i + 1
        if box is not None and (mask is None or mask.any()):
            yield one, box, None if mask is None else mask.numpy()


def check_labels(content, predictions, tolerance):
    """The content of a COCO JSON against predictions."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = [image["file_name"].rsplit("/", 1)[-1] for image in content["images"]]
    assert sorted(files) == sorted(name.rsplit("/", 1)[-1] for name in NAMES)
    for image in content["images"]:
        prediction = next(one for name, one in predictions.items() if image["file_name"].endswith(name))
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        objects = list(wanted(prediction))
        assert [names[row["category_id"]] for row in rows] == [one.name for one, _, _ in objects]
        for row, (_, box, mask) in zip(rows, objects):
            if mask is None:
                x, y, w, h = row["bbox"]
                assert np.allclose((x, y, x + w, y + h), box, atol=tolerance)
            else:
                back = codes.decode(to_rle(row["segmentation"], 48, 96)).astype(bool)
                assert (back & mask).sum() >= 0.95 * (back | mask).sum()


def test_yolo(found, images, tmp_path):
    out = tmp_path / "out" / "yolo"
    shutil.copytree(out / "labels", tmp_path / "labels")
    shutil.copy(out / "classes.txt", tmp_path / "classes.txt")
    shutil.rmtree(tmp_path / "out")
    (labels,) = yolo.recognise(tmp_path).values()
    content, _ = labels.read()
    check_labels(content, found, 1e-3)
    rows = (tmp_path / "labels" / "a.txt").read_text().splitlines()
    first = next(wanted(found["a.png"]))
    if first[2] is None:
        assert len(rows[0].split()) == 6 and float(rows[0].split()[5]) == pytest.approx(first[0].score, abs=1e-4)
    assert all(len(row.split()) % 2 == (first[2] is not None) for row in rows)


def test_labelme(found, images, tmp_path):
    content = json.loads((tmp_path / "out" / "labelme" / "deep" / "ein Bär.json").read_text())
    assert set(content) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
    path = tmp_path / "out" / "labelme" / "deep" / content["imagePath"]
    assert path.samefile(images / "deep" / "ein Bär.jpg") and (content["imageHeight"], content["imageWidth"]) == (
        48,
        96,
    )
    for shape in content["shapes"]:
        assert {"label", "points", "group_id", "description", "shape_type", "flags", "mask"} < set(shape)
        assert len(shape["points"]) == 2 if shape["shape_type"] == "rectangle" else len(shape["points"]) >= 3
    shutil.copytree(tmp_path / "out" / "labelme", tmp_path / "images", dirs_exist_ok=True)
    (labels,) = labelme.recognise(tmp_path / "images").values()
    check_labels(labels.read()[0], found, 0.01)


def test_label_studio(found, tmp_path):
    tasks = json.loads((tmp_path / "out" / "labelstudio" / "tasks.json").read_text())
    view = ElementTree.parse(tmp_path / "out" / "labelstudio" / "config.xml").getroot()
    (image,) = view.findall("Image")
    controls = {tag.get("name"): tag for tag in view if tag is not image}
    places = ["a.png", "deep/ein%20B%C3%A4r.jpg", "deep/none.png"]
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={place}" for place in places]
    assert image.get("value") == "$image"
    for task, prediction in zip(tasks, found.values()):
        (said,) = task["predictions"]
        results = said["result"]
        assert 0 <= said["score"] <= 1 and said["model_version"] == "best"
        assert len({result["id"] for result in results}) == len(results)
        for result in results:
            control = controls[result["from_name"]]
            assert control.get("toName") == result["to_name"] == image.get("name")
            assert result["type"] == control.tag.lower() and result["image_rotation"] == 0
            assert (result["original_height"], result["original_width"]) == prediction.size
            (label,) = result["value"][result["type"]]
            assert label in {tag.get("value") for tag in control}
        objects = list(wanted(prediction))
        if objects and objects[0][2] is None:
            for result, (one, box, _) in zip(results, objects, strict=True):
                value = result["value"]
                x, y, w, h = (value[key] / 100 for key in ("x", "y", "width", "height"))
                assert np.allclose((x * 96, y * 48, (x + w) * 96, (y + h) * 48), box, atol=1e-3)
                assert result["score"] == pytest.approx(one.score, abs=1e-4)
        for result in results:
            for point in result["value"].get("points", []):
                assert all(0 <= side <= 100 for side in point)


def test_csv(found, images, tmp_path):
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tables = [prediction.to_table() for prediction in found.values()]
    assert [row["name"] for row in rows] == [name for table in tables for name in table["name"]]
    assert [float(row["x2"]) for row in rows] == [side for table in tables for side in table["x2"]]
    assert {row["file"] for row in rows} <= {str(images / name) for name in NAMES}


def test_crops(found, images, tmp_path):
    crops = {
        path.relative_to(tmp_path / "out" / "crops").as_posix(): path for path in (tmp_path / "out").rglob("*_*.*")
    }
    expected = {}
    for name, prediction in found.items():
        stem, suffix = name.rsplit(".", 1)
        for i, one in enumerate(prediction):
            if (box := inside(one.box_xyxy, prediction.size)) is not None:
                expected[f"{one.name}/{stem}_{i}.{suffix}"] = (images / name, box)
    assert set(crops) == set(expected)
    for name, (image, box) in expected.items():
        x1, y1, x2, y2 = np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3])
        whole = np.asarray(Image.open(image))[int(y1) : int(y2), int(x1) : int(x2)]
        assert Image.open(crops[name]).size == whole.shape[1::-1]
        if name.endswith(".png"):
            assert np.array_equal(np.asarray(Image.open(crops[name])), whole)


def test_odd_names_of_classes(contents, checkpoint, images, tmp_path):
    contents["vitdet"]["classes"] = ["same", "same", "日" * 120]
    torch.save(contents, checkpoint)
    formats, out = ["crops", "labelstudio"], tmp_path / "out"
    # a number of any library is a threshold
    assert predict_files(checkpoint, images, output=out, formats=formats, threshold=np.float32(0)).read == 3
    view = ElementTree.parse(out / "labelstudio" / "config.xml").getroot()
    assert [[label.get("value") for label in kind] for kind in view[1:]] == [["same", "日" * 120]] * 2
    assert {path.name[:4] for path in (out / "crops").iterdir()} <= {"same", "日日日日"}


def test_tiles_of_a_panoptic_model_are_refused_before_anything_is_written(contents, checkpoint, images, tmp_path):
    mask_model(contents, checkpoint, "panoptic")
    with pytest.raises(UserError, match="predict without tiles"):
        predict_files(checkpoint, images, output=tmp_path / "out", tiling={"tile": 32})
    assert predict_files(checkpoint, images, output=tmp_path / "out").read == 3


def test_labels_cannot_be_made_of_a_label_map(contents, checkpoint, images, tmp_path):
    model = mask_model(contents, checkpoint, "semantic")
    with pytest.raises(UserError, match="format csv needs objects, and a semantic model gives label maps"):
        predict_files(model, [images], output=tmp_path / "out", formats=["coco", "csv"])


def test_formats_that_are_not_there(checkpoint, images, tmp_path):
    with pytest.raises(UserError, match="format is 'voc'; wanted one of coco, yolo, labelme, labelstudio, csv, crops"):
        predict_files(checkpoint, [images], output=tmp_path / "out", formats=["voc"])
    with pytest.raises(UserError, match="nothing would be written"):
        predict_files(checkpoint, [images], output=tmp_path / "out", formats=[], drawings=False)
