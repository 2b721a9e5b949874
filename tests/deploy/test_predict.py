"""A checkpoint alone is enough to predict, and predicts what the model in memory would."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.backbone import Backbone
from vitdet.config import config_of
from vitdet.data import CocoData, Split
from vitdet.data.images import ImageError
from vitdet.deploy import CheckpointError, load, predict_files
from vitdet.deploy.files import find_images
from vitdet.heads import MaskDecoderHead
from vitdet.structures import Prediction


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)


@pytest.fixture
def file(array, tmp_path):
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    Image.fromarray(array).save(path)
    return path


def assert_same(a, b):
    torch.testing.assert_close(a.boxes_xyxy, b.boxes_xyxy, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=1e-4)
    assert a.labels.tolist() == b.labels.tolist()


def test_prediction_is_the_models_own(model, contents, checkpoint, array):
    (backbone, head), saved = model, contents["vitdet"]
    small = torch.nn.functional.interpolate(  # 96×48 to 64×32: cv2's area average is this average
        torch.from_numpy(array).permute(2, 0, 1)[None].double(), scale_factor=2, mode="nearest"
    )
    small = torch.nn.functional.avg_pool2d(small, 3).round()[0]
    mean, std = (torch.tensor(saved[key], dtype=torch.double).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        outputs = head(backbone([((small / 255 - mean) / std).float()]))
    (wanted,) = head.predict(outputs, [(48, 96)])
    got = load(checkpoint, device="cpu").predict(array)
    torch.testing.assert_close(got.boxes_xyxy, wanted.boxes_xyxy, atol=0.5, rtol=0.02)  # half a grey level of rounding
    assert (got.names, got.category_ids, got.size) == (saved["classes"], saved["category_ids"], (48, 96))


@pytest.mark.parametrize("size", [None, 64, {"square": 48}, {"short_side": 40, "max_long_side": 70}])
def test_files_are_seen_as_validation_sees_them(model, contents, tmp_path, size):
    (backbone, head), saved = model, contents["vitdet"]
    sizes = [(48, 96), (70, 50), (33, 47)]  # height, width
    rng = np.random.default_rng(1)
    for i, shape in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in enumerate(sizes)],
        "categories": [{"id": number, "name": name} for number, name in zip(saved["category_ids"], saved["classes"])],
        "annotations": [],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    data = CocoData(val=Split(str(tmp_path), str(tmp_path / "val.json")), size=size, batch_size=2)
    data.use_backbone(mean=saved["mean"], std=saved["std"], patch_size=backbone.patch_size)
    saved["eval_transform"] = data.eval_transform().config
    torch.save(contents, tmp_path / "best.ckpt")
    detector = load(tmp_path / "best.ckpt", device="cpu")
    seen = set()
    with torch.inference_mode():
        for images, targets in data.val_dataloader():
            wanted = head.predict(head(backbone(images)), [target.orig_size for target in targets])
            for one, target in zip(wanted, targets):
                seen.add(target.image_id)
                assert_same(detector.predict(tmp_path / f"{target.image_id}.png"), one)
    assert seen == {0, 1, 2}


def test_path_array_and_picture_give_the_same(checkpoint, array, file):
    detector = load(checkpoint, device="cpu")
    one = detector.predict(array)
    assert len(one) > 0 and detector.predict(file).path == str(file)
    for same in (file, str(file), Image.fromarray(array)):
        assert_same(detector.predict(same), one)


def test_a_list_is_predicted_as_its_images_are_alone(checkpoint, array):
    detector = load(checkpoint, device="cpu")
    images = [array, array[:, :40], array[::-1], array[:20]]
    together = detector.predict(images, batch_size=3)
    assert [p.size for p in together] == [(48, 96), (48, 40), (48, 96), (20, 96)]
    for image, prediction in zip(images, together):
        assert_same(prediction, detector.predict(image))
    assert detector.predict([]) == []


def test_threshold_keeps_what_scores_at_least_that(checkpoint, array):
    detector = load(checkpoint, device="cpu")
    scores = detector.predict(array).scores
    middle = float(scores.median())
    kept = detector.predict(array, threshold=middle).scores
    assert len(kept) == int((scores >= middle).sum()) < len(scores)


def test_averaged_weights_are_preferred(contents, tmp_path, array):
    average = {name: tensor * 0.5 for name, tensor in contents["state_dict"].items()}
    torch.save({**contents, "ema_state_dict": average}, tmp_path / "both.ckpt")
    torch.save({**contents, "state_dict": average}, tmp_path / "average.ckpt")
    both, alone = (load(tmp_path / name, device="cpu").predict(array) for name in ("both.ckpt", "average.ckpt"))
    assert_same(both, alone)


def test_pictures_that_are_turned_by_exif_come_upright(checkpoint, array, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    detector = load(checkpoint, device="cpu")
    from_file = detector.predict(tmp_path / "turned.png")
    assert from_file.size == (96, 48)
    with Image.open(tmp_path / "turned.png") as opened:
        assert_same(detector.predict(opened), from_file)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), torch.zeros(3, 4, 4), 5]
)
def test_what_is_no_image_is_refused(checkpoint, image):
    with pytest.raises(TypeError, match="wanted a path, a PIL image"):
        load(checkpoint, device="cpu").predict(image)


class Code:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bad_checkpoints_say_what_is_wrong(contents, checkpoint, tmp_path, capsys):
    path = tmp_path / "bad.ckpt"
    whole = checkpoint.read_bytes()
    for junk in (whole[: len(whole) // 2], b"", b"hello", whole[:-20], pickle.dumps(Code())):
        path.write_bytes(junk)
        with pytest.raises(CheckpointError, match=r"bad\.ckpt can't be read"):
            load(path)
    assert "must not run" not in capsys.readouterr().out
    for other in ({"state_dict": {}}, [1, 2], {"vitdet": contents["vitdet"]}):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="was not written by vitdet"):
            load(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt does not exist"):
        load(tmp_path / "nowhere.ckpt")


def test_checkpoints_that_do_not_fit_are_refused(contents, tmp_path):
    path, saved = tmp_path / "other.ckpt", contents["vitdet"]
    head = {"class_path": "somebody.elses.Head", "init_args": {}}
    unknown = {**saved, "model": {**saved["model"], "head": head}}
    fewer = {name: tensor for name, tensor in contents["state_dict"].items() if not name.startswith("head")}
    cases = [
        ({**contents, "vitdet": {**saved, "format": 99}}, "update vitdet"),
        ({**contents, "vitdet": {**saved, "format": 1}}, "of models whose parts were others"),
        ({**contents, "vitdet": unknown}, "can't be built: No module named 'somebody'"),
        ({**contents, "state_dict": fewer}, "do not fit its model"),
    ]
    for bad, message in cases:
        torch.save(bad, path)
        with pytest.raises(CheckpointError, match=message):
            load(path)


def test_files_are_drawn_and_written(contents, checkpoint, array, file, tmp_path, capsys):
    (file.parent / "deep").mkdir()
    Image.fromarray(array[:, :50]).save(file.parent / "deep" / "a.png")
    (file.parent / "b.jpg").write_bytes(b"no image")
    output = tmp_path / "out"
    assert predict_files(checkpoint, [file.parent], output=output, threshold=0.0, device="cpu", batch_size=2) == 1

    rows = json.loads((output / "predictions.json").read_text())
    names = {row["image_id"]: row["file_name"] for row in rows}
    assert names == {1: str(file), 3: str(file.parent / "deep" / "a.png")}
    alone = load(checkpoint, device="cpu").predict(file).to_coco()
    assert [row["category_id"] for row in rows if row["image_id"] == 1] == [row["category_id"] for row in alone]
    assert {row["category_id"] for row in rows} <= set(contents["vitdet"]["category_ids"])
    with Image.open(output / "a.png") as drawn:
        assert drawn.size == (96, 48) and (np.asarray(drawn) != array).any()
    with Image.open(output / "deep" / "a.png") as drawn:
        assert drawn.size == (50, 48)
    printed = capsys.readouterr().out
    assert "left out:" in printed and "b.jpg" in printed
    assert "2 images in" in printed and "1 could not be read" in printed


def test_inputs_are_never_overwritten(checkpoint, file):
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="another output folder"):
        predict_files(checkpoint, [file], output=file.parent, device="cpu")
    assert file.read_bytes() == before


def test_files_folders_and_globs(file, tmp_path):
    folder = file.parent
    for name in ("c.JPG", "notes.txt", "out/d.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert find_images([folder], leave_out=folder / "out") == [file, folder / "c.JPG"]
    assert find_images([folder / "c.JPG", f"{folder}/?.*"]) == [folder / "c.JPG", file]
    with pytest.raises(FileNotFoundError, match=r"no image at .*\*\.gif"):
        find_images([folder, f"{folder}/*.gif"])


def test_a_missing_image_names_its_file(checkpoint, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        load(checkpoint, device="cpu").predict(tmp_path / "gone.jpg")


@pytest.mark.parametrize("task", ["semantic", "panoptic", "instances"])
def test_maps_are_written_in_the_format_of_their_kind(task, contents, file, tmp_path):
    backbone = Backbone("vit_tiny_patch16_224", embed_dim=32, depth=2, num_heads=2, out_channels=32)
    head = MaskDecoderHead(
        backbone.out_channels,
        backbone.strides,
        3,
        task=task,
        dim=32,
        num_queries=9,
        num_heads=4,
        threshold=0.0,
        overlap=0.0,
    )
    contents["vitdet"]["model"] = {"backbone": config_of(backbone), "head": config_of(head)}
    contents["state_dict"] = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    contents["state_dict"] |= {f"head.{k}": v for k, v in head.state_dict().items()}
    torch.save(contents, tmp_path / "best.ckpt")
    prediction = load(tmp_path / "best.ckpt", device="cpu").predict(file)
    predict_files(tmp_path / "best.ckpt", [file], output=tmp_path / "out", device="cpu", threshold=0.0)
    assert (tmp_path / "out" / "a.png").is_file()  # the drawing
    results = tmp_path / "out" / "predictions.json"
    if task == "semantic":
        values = np.asarray(Image.open(tmp_path / "out" / "predicted_labels" / "a.png"))
        assert np.array_equal(values, np.array(contents["vitdet"]["category_ids"])[prediction.semantic.numpy()])
        assert not results.exists()
        return
    rows = json.loads(results.read_text())
    if task == "instances":
        assert rows and all(row["segmentation"]["size"] == [48, 96] for row in rows)
        return
    (row,) = rows["annotations"]
    assert rows["images"] == [{"id": row["image_id"], "file_name": str(file)}]
    ids = np.asarray(Image.open(tmp_path / "out" / "predictions" / row["file_name"])).astype(int) @ [1, 256, 65536]
    assert np.array_equal(ids, prediction.panoptic.numpy()) and len(row["segments_info"]) == len(prediction) > 0
    assert {s["category_id"] for s in row["segments_info"]} <= set(contents["vitdet"]["category_ids"])


def test_a_threshold_takes_its_pixels_from_a_segment():
    ids = torch.tensor([[0, 1, 2, 3, 3]], dtype=torch.int32)
    prediction = Prediction(
        torch.zeros(3, 4), torch.tensor([0.9, 0.2, 0.6]), torch.tensor([4, 5, 6]), size=(1, 5), panoptic=ids
    )
    kept = prediction.above(0.5)
    assert kept.labels.tolist() == [4, 6] and kept.panoptic.tolist() == [[0, 1, 0, 2, 2]]
