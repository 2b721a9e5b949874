"""Which files `predict_files` looks at, what it writes, and what it says of the rest."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.backbone import Backbone
from vitdet.config import config_of
from vitdet.deploy import load, predict_files
from vitdet.deploy.files import _state
from vitdet.deploy.inputs import check_apart, find_images, pictures, places, suffixes
from vitdet.errors import UserError
from vitdet.heads import MaskDecoderHead
from vitdet.metrics import evaluate

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 90, "name": "bird"}]
TRUTH = {"images": [], "categories": CATEGORIES, "annotations": []}


def test_files_are_drawn_and_written(contents, checkpoint, array, file, tmp_path, capsys):
    (file.parent / "deep").mkdir()
    Image.fromarray(array[:, :50]).save(file.parent / "deep" / "a.png")
    (file.parent / "b.jpg").write_bytes(b"no image")
    output = tmp_path / "out"
    assert predict_files(checkpoint, [file.parent], output=output, threshold=0.0, device="cpu", batch_size=2) == (2, 1)

    rows = json.loads((output / "predictions.json").read_text())
    names = {row["image_id"]: row["file_name"] for row in rows}
    assert names == {1: str(file), 3: str(file.parent / "deep" / "a.png")}
    alone = load(checkpoint, device="cpu").predict(file, threshold=0).to_coco()
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
    found, ignored = find_images([folder], leave_out=folder / "out")
    assert found == [file, folder / "c.JPG"] and ignored == {".txt": 1}
    assert find_images([folder / "c.JPG", f"{folder}/?.*"])[0] == [folder / "c.JPG", file]
    assert find_images(str(file))[0] == [file]  # one path is no list of letters
    with pytest.raises(UserError, match="is an empty name"):
        find_images([""])
    assert find_images(["https://x.org/a.jpg", "-"])[0] == ["https://x.org/a.jpg", "-"]
    with pytest.raises(FileNotFoundError, match=r"no image at .*\*\.gif"):
        find_images([folder, f"{folder}/*.gif"])


@pytest.mark.parametrize("task", ["semantic", "panoptic", "instances"])
def test_maps_are_written_in_the_format_of_their_kind(task, contents, file, tmp_path):
    backbone = Backbone("vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=2, out_channels=32)
    head = MaskDecoderHead(
        backbone.out_channels,
        backbone.strides,
        3,
        task=task,
        dim=32,
        num_queries=9,
        num_heads=4,
        rules={"threshold": 0.0, "overlap": 0.0},
    )
    contents["vitdet"]["model"] = {"backbone": config_of(backbone), "head": config_of(head)}
    contents["state_dict"] = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    contents["state_dict"] |= {f"head.{k}": v for k, v in head.state_dict().items()}
    torch.save(contents, tmp_path / "best.ckpt")
    prediction = load(tmp_path / "best.ckpt", device="cpu").predict(file, threshold=0)
    truth = {**TRUTH, "images": [{"id": 77, "file_name": "a.png", "width": 96, "height": 48}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    options = {"output": tmp_path / "out", "device": "cpu", "annotations": tmp_path / "truth.json"}
    predict_files(tmp_path / "best.ckpt", [file], **options, threshold=0.0)
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
        assert {row["image_id"] for row in rows} == {77}
        return
    (row,) = rows["annotations"]
    assert (row["image_id"], row["file_name"]) == (77, "000000000077.png")
    assert rows["images"] == [{"id": row["image_id"], "file_name": str(file)}]
    ids = np.asarray(Image.open(tmp_path / "out" / "predictions" / row["file_name"])).astype(int) @ [1, 256, 65536]
    assert np.array_equal(ids, prediction.panoptic.numpy()) and len(row["segments_info"]) == len(prediction) > 0
    assert {s["category_id"] for s in row["segments_info"]} <= set(contents["vitdet"]["category_ids"])


def test_all_that_can_be_decoded_is_looked_at_and_the_rest_is_said(checkpoint, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    picture = Image.new("RGB", (32, 32), "red")
    picture.save(folder / "a.gif")
    picture.save(folder / "b.jfif", format="JPEG")
    picture.save(folder / "c.PNG")
    picture.save(folder / "d.qoi")
    picture.save(folder / "ein Bär ü.webp")
    for name in ("e.txt", "f.heic", "g.txt", "README"):
        (folder / name).write_bytes(b"no image")
    os.mkfifo(folder / "pipe.png")  # reading it would never end
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    (folder / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "empty.png").touch()
    assert predict_files(checkpoint, [folder, f"{folder}/", folder / ".." / "images"], output=tmp_path / "out") == (
        5,
        2,
    )
    printed = capsys.readouterr().out
    assert "left out: 6 files that can't be read as images (2 .txt, " in printed
    assert all(part in printed for part in ("1 .heic", "1 no suffix", "1 no regular files", "1 links to folders"))
    assert all(f"left out: {folder / name} can't be read" in printed for name in ("broken.png", "empty.png"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a.gif.png", "b.jfif.png", "c.PNG", "d.qoi.png", "ein Bär ü.webp", "predictions.json")
    }


def test_suffixes_are_those_that_pil_decodes():
    assert suffixes() > {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jfif", ".ppm", ".jp2"}
    assert not suffixes() & {".eps", ".h5", ".mpg", ".txt", ".json", ".pdf"}


def test_names_that_are_no_utf_8_can_be_printed(checkpoint, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("RGB", (32, 32)).save(folder / name)
    except OSError:
        pytest.skip("the file system takes no such names")
    assert predict_files(checkpoint, [folder], output=tmp_path / "out", threshold=0) == (1, 0)
    assert "caf?.png" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())[0]["file_name"] == str(folder / name)


def test_nothing_readable_is_no_success(checkpoint, tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("text")
    assert predict_files(checkpoint, [tmp_path / "a.jpg"], output=tmp_path / "out") == (0, 1)
    assert "nothing was predicted or written: 1 of 1 files could not be read" in capsys.readouterr().out
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", [".dds", ".gif", ".tga", ".ico", ".webp", ".psd"])
def test_damaged_files_of_any_kind_are_left_out(checkpoint, tmp_path, suffix):
    kind = Image.registered_extensions()[suffix]
    whole = tmp_path / f"whole{suffix}"
    if kind in Image.SAVE:
        Image.new("RGB", (32, 32)).save(whole, kind)
    else:
        whole.write_bytes(b"8BPS" + bytes(22))
    content = bytearray(whole.read_bytes())
    rng = np.random.default_rng(0)
    for i in range(20):
        for place in rng.integers(len(content[:200]), size=6):
            content[place] = rng.integers(256)
        (tmp_path / f"{i}{suffix}").write_bytes(content)
    done = predict_files(checkpoint, [f"{tmp_path}/[0-9]*"], output=tmp_path / "out")
    assert done.read + done.unreadable == 20 and done.unreadable


def test_drawings_keep_apart(tmp_path):
    names = ["a.gif", "a.gif.png", "x/a.png", "y/a.png"]
    drawn = pictures(places([tmp_path / name for name in names]))
    assert drawn == ["a.gif.png", "a.gif.png.png", "x/a.png", "y/a.png"]
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    links = [tmp_path / "l.png", tmp_path / "m.png"]
    for link in links:
        link.symlink_to(tmp_path / "one.png")
    assert find_images(links)[0] == links and places(links) == ["l.png", "m.png"]


def test_the_output_folder_is_left_out_only_below_the_images(file):
    folder = file.parent
    assert find_images([folder], leave_out=folder.parent)[0] == [file]  # as with --output .
    with pytest.raises(UserError, match="got no images"):
        find_images([])


def test_output_that_cannot_be_written(checkpoint, file, tmp_path, capsys):
    (tmp_path / "taken").touch()
    for output in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(UserError, match=r"taken.* (is a file; give|can't be written: Not a directory)"):
            predict_files(checkpoint, [file], output=output)
    full = tmp_path / "full"
    full.mkdir()
    (full / "a.png").symlink_to("/dev/full")  # no space left on that device
    with pytest.raises(UserError, match=r"can't be written: No space left on device; free some space, or give another"):
        predict_files(checkpoint, [file], output=full)
    (full / "a.png").unlink()
    assert predict_files(checkpoint, [file], output=full) == (1, 0)
    predict_files(checkpoint, [file], output=full)
    assert "holds earlier results: those of the same name are replaced" in capsys.readouterr().out


@pytest.fixture
def folder(tmp_path):
    """Three images, in two folders, and an annotation file that has them by other ids than their order."""
    names = ["x/a.png", "x/b ü.png", "y/a.png"]
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    images = [{"id": 30 - i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)]
    (tmp_path / "truth.json").write_text(json.dumps({**TRUTH, "images": images}))
    return tmp_path / "images"


def ids_in(output):
    rows = json.loads((output / "predictions.json").read_text())
    return {row["file_name"]: row["image_id"] for row in rows}


@pytest.mark.parametrize("relative", [False, True])
def test_ids_of_the_data_set(checkpoint, folder, tmp_path, monkeypatch, capsys, relative):
    monkeypatch.chdir(folder)
    given = ["x", "y/a.png"] if relative else [folder]
    options = {"output": tmp_path / "out", "annotations": tmp_path / "truth.json"}
    assert predict_files(checkpoint, given, **options) == (3, 0)
    root = "" if relative else f"{folder}/"
    assert ids_in(tmp_path / "out") == {f"{root}x/a.png": 30, f"{root}x/b ü.png": 29, f"{root}y/a.png": 28}
    assert "left out" not in capsys.readouterr().out


def test_ids_of_a_panoptic_file(checkpoint, folder, tmp_path):
    truth = json.loads((tmp_path / "truth.json").read_text())
    truth["annotations"] = [{"image_id": 30, "file_name": "a.png", "segments_info": []}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert predict_files(checkpoint, [folder], output=tmp_path / "out", annotations=tmp_path / "truth.json") == (3, 0)
    assert ids_in(tmp_path / "out") == {f"{folder}/x/a.png": 30, f"{folder}/x/b ü.png": 29, f"{folder}/y/a.png": 28}


def test_images_that_the_annotation_file_does_not_have(checkpoint, folder, tmp_path, capsys):
    (folder / "z").mkdir()
    (folder / "y" / "a.png").rename(folder / "z" / "a.png")
    options = {"output": tmp_path / "out", "annotations": tmp_path / "truth.json"}
    assert predict_files(checkpoint, [folder], **options) == (2, 0)
    assert set(ids_in(tmp_path / "out").values()) == {30, 29}
    printed = capsys.readouterr().out
    assert f"left out: 1 files that are no image of {tmp_path}/truth.json, such as {folder}/z/a.png" in printed
    assert "1 of the 3 images of" in printed and "not among the files" in printed
    with pytest.raises(UserError, match=r"none of the 1 files, such as .*z/a\.png, is an image of .*truth\.json"):
        predict_files(checkpoint, [folder / "z"], **options)


def test_annotations_of_other_images_are_refused(checkpoint, folder, tmp_path, capsys):
    truth = json.loads((tmp_path / "truth.json").read_text())
    options = {"output": tmp_path / "out", "annotations": tmp_path / "truth.json"}
    truth["categories"][1]["name"] = "fish"
    truth["images"][2]["width"] = 32
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"y/a\.png is 64×48, but .*truth\.json says 32×48"):
        predict_files(checkpoint, [folder], **options)
    assert "1 of the model's 3 categories are not those of" in capsys.readouterr().out
    truth["images"][2]["file_name"] = "x/a.png"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"could be 2 images"):
        predict_files(checkpoint, [folder], **options)


@pytest.mark.parametrize("known", [False, True])
def test_predict_then_evaluate(checkpoint, folder, tmp_path, known):
    """What the model finds is the truth, so evaluate must find it all, by whichever ids predict wrote."""
    truth = json.loads((tmp_path / "truth.json").read_text())
    detector = load(checkpoint, device="cpu")
    for image in truth["images"]:
        best = detector.predict(folder / image["file_name"], threshold=0).to_coco()[0]
        truth["annotations"].append({**best, "id": image["id"], "image_id": image["id"], "iscrowd": 0})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    options = {"annotations": tmp_path / "truth.json"} if known else {}
    predict_files(checkpoint, [folder], output=tmp_path / "out", **options)
    scores, protocol = evaluate(tmp_path / "out" / "predictions.json", tmp_path / "truth.json", max_dets=100)
    assert scores["AR100"] == pytest.approx(1)
    assert ("3 images matched by file_name" in protocol) == (not known)


def test_links_that_lead_to_each_other_have_drawings_of_their_own(tmp_path):
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    check_apart([tmp_path / "a.png"], ["a.png"], tmp_path / "out")
    with pytest.raises(FileExistsError, match="would overwrite an image"):
        check_apart([tmp_path / "a.png"], ["a.png"], tmp_path)


def test_a_model_that_is_a_folder_is_told_from_one_that_was_written_anew(tmp_path):
    (tmp_path / "model.xml").write_text("first")
    first = _state(tmp_path)
    assert first == _state(str(tmp_path))
    (tmp_path / "model.xml").write_text("another")
    assert _state(tmp_path) != first
