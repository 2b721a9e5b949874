"""A checkpoint alone is enough to predict, and predicts what the model in memory would."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.data import CocoData, Split
from vitdet.deploy import CheckpointError, load, predict_files
from vitdet.errors import UserError
from vitdet.handshake import Needs
from vitdet.images import ImageError
from vitdet.progress import Progress
from vitdet.structures import THRESHOLD, Prediction


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
    got = load(checkpoint, device="cpu").predict(array, threshold=0)
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
    data.prepare(Progress(), Needs(tuple(saved["mean"]), tuple(saved["std"]), backbone.patch_size))
    saved["eval_transform"] = data.eval_transform().config
    torch.save(contents, tmp_path / "best.ckpt")
    detector = load(tmp_path / "best.ckpt", device="cpu")
    seen = set()
    with torch.inference_mode():
        for images, targets in data.val_dataloader():
            wanted = head.predict(head(backbone(images)), [target.orig_size for target in targets])
            for one, target in zip(wanted, targets):
                seen.add(target.image_id)
                assert_same(detector.predict(tmp_path / f"{target.image_id}.png", threshold=0), one)
    assert seen == {0, 1, 2}


def test_path_array_and_picture_give_the_same(checkpoint, array, file):
    detector = load(checkpoint, device="cpu")
    one = detector.predict(array, threshold=0)
    assert len(one) > 0 and detector.predict(file).path == str(file)
    for same in (file, str(file), Image.fromarray(array)):
        assert_same(detector.predict(same, threshold=0), one)


def test_a_list_is_predicted_as_its_images_are_alone(checkpoint, array):
    detector = load(checkpoint, device="cpu")
    images = [array, array[:, :40], array[::-1], array[:20]]
    together = detector.predict(images, threshold=0, batch_size=3)
    assert [p.size for p in together] == [(48, 96), (48, 40), (48, 96), (20, 96)]
    for image, prediction in zip(images, together):
        assert_same(prediction, detector.predict(image, threshold=0))
    assert detector.predict([]) == []


def test_threshold_keeps_what_scores_at_least_that(checkpoint, array):
    detector = load(checkpoint, device="cpu")
    scores = detector.predict(array, threshold=0).scores
    middle = float(scores.median())
    kept = detector.predict(array, threshold=middle).scores
    assert len(kept) == int((scores >= middle).sum()) < len(scores)
    with torch.no_grad():
        detector.head.decoder.classify.bias += 3.3  # scores on both sides of the default
    scores = detector.predict(array, threshold=0).scores
    assert 0 < len(detector.predict(array)) == int((scores >= THRESHOLD).sum()) < len(scores)


@pytest.mark.parametrize("threshold", [50, -1, float("nan"), 1.01, "0.3", [0.3, 7], [None]])
def test_what_is_no_score_is_no_threshold(checkpoint, array, file, tmp_path, threshold):
    detector = load(checkpoint, device="cpu")
    prediction = detector.predict(array, threshold=0)
    refused = [
        lambda: detector.predict([], threshold=threshold),
        lambda: prediction.above(threshold),
        lambda: prediction.plot(array, threshold=threshold),
        lambda: prediction.save(tmp_path / "a.png", image=array, threshold=threshold),
        lambda: predict_files(checkpoint, [file], output=tmp_path / "out", threshold=threshold),
    ]
    for call in refused:
        with pytest.raises(UserError, match="threshold (of a class )?is .*; wanted a score from 0 to 1"):
            call()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_batch_sizes_are_positive(checkpoint, array, file, tmp_path, batch_size):
    for call in (
        lambda: load(checkpoint, device="cpu").predict([array], batch_size=batch_size),
        lambda: predict_files(checkpoint, [file], output=tmp_path / "out", batch_size=batch_size),
    ):
        with pytest.raises(UserError, match="batch_size is .*; wanted a whole number from 1"):
            call()


@pytest.mark.parametrize("device", ["gpu", "tpu", "cuda:7777", "", "meta", 3.5, 10**30])
def test_devices_that_are_not_there(checkpoint, file, tmp_path, device):
    for call in (
        lambda: load(checkpoint, device=device),
        lambda: predict_files(checkpoint, [file], output=tmp_path / "out", device=device),
    ):
        with pytest.raises(UserError, match="there is no device .* here; choose from cpu"):
            call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_without_one(checkpoint):
    with pytest.raises(UserError, match="there is no device 'cuda' here"):
        load(checkpoint, device="cuda")


def test_averaged_weights_are_preferred(contents, tmp_path, array):
    average = {name: tensor * 0.5 for name, tensor in contents["state_dict"].items()}
    torch.save({**contents, "ema_state_dict": average}, tmp_path / "both.ckpt")
    torch.save({**contents, "state_dict": average}, tmp_path / "average.ckpt")
    both, alone = (
        load(tmp_path / name, device="cpu").predict(array, threshold=0) for name in ("both.ckpt", "average.ckpt")
    )
    assert_same(both, alone)


def test_pictures_that_are_turned_by_exif_come_upright(checkpoint, array, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    detector = load(checkpoint, device="cpu")
    from_file = detector.predict(tmp_path / "turned.png", threshold=0)
    assert from_file.size == (96, 48)
    with Image.open(tmp_path / "turned.png") as opened:
        assert_same(detector.predict(opened, threshold=0), from_file)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 2), np.uint8), np.zeros((3, 9, 9)), np.zeros((4, 4, 3), np.int64), torch.zeros(2, 4, 4), 5],
)
def test_what_is_no_image_is_refused(checkpoint, image):
    with pytest.raises(TypeError, match="wanted (a path, a URL|uint8, uint16)"):
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
        with pytest.raises(CheckpointError, match=r"bad\.ckpt (can't be read|is damaged)"):
            load(path)
    assert "must not run" not in capsys.readouterr().out
    for other in ({"state_dict": {}}, [1, 2], {"vitdet": contents["vitdet"]}):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="was not written by vitdet"):
            load(path)
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(
        CheckpointError, match=r"is a folder; wanted a best\.ckpt or last\.ckpt of a run, such as .*best\.ckpt"
    ):
        load(tmp_path)
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
        (
            {**contents, "vitdet": unknown},
            "can't be built: 'somebody.elses.Head' is no part of vitdet; if you trust it, import",
        ),
        ({**contents, "state_dict": fewer}, "do not fit its model"),
    ]
    for bad, message in cases:
        torch.save(bad, path)
        with pytest.raises(CheckpointError, match=message):
            load(path)


def test_each_class_has_its_threshold_and_a_checkpoint_keeps_them(checkpoint, array, tmp_path):
    contents = torch.load(checkpoint, weights_only=True)
    contents["state_dict"]["head.decoder.classify.bias"] += 3.3  # scores on both sides of the default
    contents["vitdet"]["thresholds"] = {"values": [0.25, 0.9, 0.4], "rule": "f1"}
    torch.save(contents, tmp_path / "chosen.ckpt")
    detector = load(tmp_path / "chosen.ckpt", device="cpu")
    assert detector.thresholds == [0.25, 0.9, 0.4] and load(checkpoint, device="cpu").thresholds == [THRESHOLD] * 3
    everything = detector.predict(array, threshold=0)
    wanted = everything.scores >= torch.tensor([0.25, 0.9, 0.4])[everything.labels]
    assert 0 < wanted.sum() < len(wanted)
    for threshold in (None, [0.25, 0.9, 0.4], np.array([0.25, 0.9, 0.4]), torch.tensor([0.25, 0.9, 0.4])):
        assert_same(detector.predict(array, threshold=threshold), everything.above(detector.thresholds))
    assert torch.equal(detector.predict(array).scores, everything.scores[wanted])
    assert len(detector.predict(array, threshold=0.0)) == len(everything)
    with pytest.raises(UserError, match="threshold has 2 scores; wanted one for each of the 3 classes"):
        detector.predict(array, threshold=[0.1, 0.2])
    with pytest.raises(UserError, match="threshold has 1 scores, and there is a detection of label 1"):
        replace(everything, names=(), labels=torch.ones_like(everything.labels)).above([0.5])


def test_a_missing_image_names_its_file(checkpoint, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        load(checkpoint, device="cpu").predict(tmp_path / "gone.jpg")


def test_a_threshold_takes_its_pixels_from_a_segment():
    ids = torch.tensor([[0, 1, 2, 3, 3]], dtype=torch.int32)
    prediction = Prediction(
        torch.zeros(3, 4), torch.tensor([0.9, 0.2, 0.6]), torch.tensor([4, 5, 6]), size=(1, 5), panoptic=ids
    )
    kept = prediction.above(0.5)
    assert kept.labels.tolist() == [4, 6] and kept.panoptic.tolist() == [[0, 1, 0, 2, 2]]
