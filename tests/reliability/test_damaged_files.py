"""A damaged file is never used: any flipped bit and any cut is found, and a good file is offered or taken."""

import hashlib
import io
import json
import random
import shutil
import time
import zipfile

import pytest
import torch
from chaos import finish, rounds, start, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vitdet import Backbone, PlainDETRHead, checksum, kept, model_folder
from vitdet.backbone.weights import read_weights
from vitdet.checkpoint import Checkpoint, CheckpointError, write, write_thresholds
from vitdet.checksum import DamagedError
from vitdet.download.files import DownloadError, check_again
from vitdet.errors import UserError

THRESHOLDS = {"values": [0.3, 0.4], "rule": "f1"}


@pytest.fixture(scope="module")
def contents():
    backbone = Backbone("vit_tiny_patch16_224", depth=1, model_args={"embed_dim": 32, "num_heads": 2}, neck=None)
    head = PlainDETRHead(backbone.out_channels, backbone.strides, 2, dim=32, num_layers=1)
    return write({}, backbone, head, classes=["cat", "dog"], category_ids=[3, 7], eval_transform={"size": 64})


@pytest.fixture
def checkpoint(contents, tmp_path):
    path = tmp_path / "best.ckpt"
    checksum.write(path, lambda file: torch.save(contents, file))
    # so that a change has another time
    time.sleep(0.02)
    return path


def damages(content, count):
    """Copies of bytes with a bit flipped, or cut off: at both ends, and at random places between."""
    chance, size = random.Random(0), len(content)
    ends = [*range(32), *range(size - 120, size)]
    places = [*chance.sample(ends, min(len(ends), count // 3)), *(chance.randrange(size) for _ in range(count // 3))]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        yield f"bit at {place}", bytes(changed)
    cuts = [0, 1, 3, 4, size - 1, size - 64, size - 78, size - 100]
    for length in [*cuts, *(chance.randrange(size) for _ in range(max(0, count - len(places) - len(cuts))))]:
        yield f"cut at {length}", content[:length]


def undetected(path, read, error, count):
    """Damages that `read` has not refused with the right kind of error."""
    content, missed, cases = path.read_bytes(), [], 0
    for name, changed in damages(content, count):
        path.write_bytes(changed)
        cases += 1
        try:
            read()
            missed.append(name)
        except error:
            pass
    path.write_bytes(content)
    read()
    return missed, cases


def test_every_damage_of_a_checkpoint_is_found(checkpoint):
    missed, cases = undetected(checkpoint, lambda: checksum.verify(checkpoint), DamagedError, rounds(150, 500))
    assert not missed and cases >= rounds(150, 500), missed


def test_a_damaged_checkpoint_is_not_read(checkpoint):
    missed, _ = undetected(checkpoint, lambda: Checkpoint.read(checkpoint), CheckpointError, rounds(30, 500))
    assert not missed


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_bit_and_any_cut(tmp_path_factory, data):
    file = io.BytesIO()
    summed = checksum._Summed(file)
    torch.save({"a": torch.arange(data.draw(st.integers(0, 50))), "b": data.draw(st.text(max_size=9))}, summed)
    summed.finish()
    content = bytearray(file.getvalue())
    path = tmp_path_factory.mktemp("any") / "a.ckpt"
    path.write_bytes(content)
    assert checksum.verify(path)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        checksum.verify(path)


def test_torch_and_zip_tools_read_files_with_a_checksum(checkpoint, contents):
    for options in ({}, {"mmap": True}, {"weights_only": True, "mmap": True}, {"weights_only": False}):
        read = torch.load(checkpoint, **options)
        assert read["vitdet"] == contents["vitdet"]
        assert all(torch.equal(read["state_dict"][key], value) for key, value in contents["state_dict"].items())
    with zipfile.ZipFile(checkpoint) as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"vitdet sha256 ")
    # the digest is that of all bytes before it
    content = checkpoint.read_bytes()
    assert hashlib.sha256(content[:-64]).hexdigest().encode() == content[-64:]


def test_files_of_before_are_read_and_said_to_have_none(contents, tmp_path, caplog):
    path = tmp_path / "old.ckpt"
    torch.save(contents, path)
    caplog.set_level("INFO", logger="vitdet")
    assert not checksum.verify(path)
    Checkpoint.read(path)
    assert "old.ckpt has no checksum" in caplog.text
    # the CRC-32 of each member finds what is in members
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda one: one.file_size)
    for place in random.Random(0).sample(range(largest.header_offset + 200, largest.header_offset + 2000), 20):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged: the CRC-32"):
            Checkpoint.read(path)
        content[place] ^= 1
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="is cut off"):
        Checkpoint.read(path)
    torch.save(contents, path, _use_new_zipfile_serialization=False)
    assert Checkpoint.read(path).classes == ["cat", "dog"]


def test_thresholds_are_written_with_a_checksum(checkpoint):
    write_thresholds(checkpoint, THRESHOLDS)
    assert checksum.verify(checkpoint) and Checkpoint.read(checkpoint).thresholds == [0.3, 0.4]


def test_the_file_of_the_same_run_that_is_good_is_offered(contents, tmp_path):
    for name in ("best.ckpt", "last-1.ckpt", "last.ckpt"):
        checksum.write(tmp_path / name, lambda file: torch.save(contents, file))
    for name, other in (("last.ckpt", "last-1.ckpt"), ("best.ckpt", "last-1.ckpt"), ("last-1.ckpt", None)):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
        with pytest.raises(CheckpointError, match=f"{tmp_path / other} .* is good" if other else "give another file"):
            Checkpoint.read(tmp_path / name)


def test_every_damage_of_a_shared_model_is_found(contents, tmp_path):
    folder = tmp_path / "shared"
    weights = {key: value.clone() for key, value in contents["state_dict"].items()}
    model_folder.write(folder, {**contents["vitdet"], "thresholds": THRESHOLDS}, weights, version="1")
    for name in (model_folder.WEIGHTS, model_folder.CONFIG):
        missed, _ = undetected(
            folder / name, lambda: model_folder.read(folder), UserError, rounds(90, 500 if "json" in name else 120)
        )
        # without the line break at its end, the file says the same
        assert [one for one in missed if one != f"cut at {(folder / name).stat().st_size - 1}"] == []
    text = json.loads((folder / model_folder.CONFIG).read_text())
    text["vitdet"]["thresholds"]["values"][0] = 0.31
    (folder / model_folder.CONFIG).write_text(json.dumps(text))
    with pytest.raises(model_folder.SharedModelError, match="if you have changed it, remove config_sha256"):
        model_folder.read(folder)
    del text["config_sha256"]
    (folder / model_folder.CONFIG).write_text(json.dumps(text))
    assert model_folder.read(folder)[1]["thresholds"]["values"][0] == 0.31


def test_damages_of_fetched_files_are_found(tmp_path):
    tensors = {"blocks.0.norm1.weight": torch.randn(64, 32)}
    # a published model whose digest is not known: that of its first use counts
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    check_again(file, None)
    missed, _ = undetected(file, lambda: check_again(file, None), DownloadError, rounds(60, 500))
    assert not missed
    digest = "md5:" + hashlib.md5(file.read_bytes()).hexdigest()
    assert undetected(file, lambda: check_again(file, digest), DownloadError, 30)[0] == []
    # the cache of huggingface_hub
    blob = tmp_path / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
    blob.parent.mkdir()
    shutil.copy(file, blob)
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(blob)
    assert undetected(blob, lambda: read_weights(link), UserError, 30)[0] == []
    # that of torch.hub
    place = tmp_path / "hub" / "checkpoints" / "new.pth"
    place.parent.mkdir(parents=True)
    torch.save(tensors, place)
    place = place.rename(place.with_name(f"vit-{hashlib.sha256(place.read_bytes()).hexdigest()[:8]}.pth"))
    assert undetected(place, lambda: read_weights(place), UserError, 30)[0] == []


@pytest.mark.slow
def test_a_training_goes_on_from_the_save_before_a_damaged_one(tmp_path):
    config = tiny_config(tmp_path)
    folder = tmp_path / "runs" / "tiny" / "version_0"
    code, output = finish(start(["train", config], cwd=tmp_path), 120)
    assert code == 0, output
    assert [file.name for file in kept.earlier(folder)] == ["last-1.ckpt"]
    last = folder / "last.ckpt"
    changed = bytearray(last.read_bytes())
    changed[len(changed) // 2] ^= 4
    last.write_bytes(changed)
    more = ["--trainer.max_epochs", "3"]

    code, output = finish(start(["train", config, "--ckpt_path", last, *more], cwd=tmp_path), 120)
    assert code == 2 and "last.ckpt is damaged" in output and f"{folder / 'last-1.ckpt'} of the same run" in output
    code, output = finish(start(["train", config, "--ckpt_path", "last", *more], cwd=tmp_path), 120)
    assert code == 0, output
    assert "last.ckpt is damaged" in output and "last-1.ckpt, of an earlier save, is good and taken instead" in output
    assert torch.load(last, weights_only=True)["epoch"] == 2 and checksum.verify(last)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert any(event["kind"] == "damaged" and event["taken"] == "last-1.ckpt" for event in events)
