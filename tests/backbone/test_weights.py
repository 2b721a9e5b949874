"""Loading weights: what fits is loaded and reported, what does not is an error that helps."""

import logging
import os
import socket
import subprocess
import sys
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models import save_for_hf

from vitdet.backbone import Backbone, ConvStem
from vitdet.backbone.weights import WeightsError, read_weights

SIZES = {"embed_dim": 32, "num_heads": 2}
SMALL = {"model_args": SIZES, "depth": 2}
TINY = "vit_tiny_patch16_224"


def weights(name: str = TINY, **options) -> dict[str, torch.Tensor]:
    model = timm.create_model(name, **(SIZES | {"depth": 2, "num_classes": 5} | options))
    return {key: torch.randn_like(value) for key, value in model.state_dict().items()}


def load(path, state, name: str = TINY, **options) -> Backbone:
    if str(path).endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    return Backbone(name, **(SMALL | options), checkpoint=str(path))


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_timm_file(tmp_path, caplog, file):
    caplog.set_level(logging.INFO, "vitdet")
    state = weights()
    trunk = load(tmp_path / file, state).trunk.state_dict()
    for key in trunk:
        assert torch.equal(trunk[key], state[key]), key
    assert "weights unexpected, not used: head.bias, head.weight" in caplog.text
    assert "missing" not in caplog.text and "resampled" not in caplog.text


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"teacher": {f"backbone.{key}": value for key, value in state.items()}},
    ],
)
def test_wrappers_of_training_scripts(tmp_path, wrap):
    state = weights()
    torch.save(wrap(state), tmp_path / "weights.pth")
    found = read_weights(str(tmp_path / "weights.pth"))
    assert set(found) == set(state)


def test_positions_of_another_grid_are_resampled_and_reported(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vitdet")
    state = weights(img_size=96)
    trunk = load(tmp_path / "weights.pth", state).trunk
    expected = resample_abs_pos_embed(state["pos_embed"], [14, 14])
    torch.testing.assert_close(trunk.pos_embed, expected)
    assert "weights resampled: pos_embed (1, 37, 32) -> (1, 197, 32)" in caplog.text


def test_original_dinov2_layout(tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    state = weights(name, img_size=70)
    original = {key: value for key, value in state.items() if not key.startswith("head")}
    original["register_tokens"] = original.pop("reg_token")
    original["mask_token"] = torch.zeros(1, 32)
    cls_position = torch.randn(1, 1, 32)
    original["pos_embed"] = torch.cat([cls_position, state["pos_embed"]], dim=1)
    original["cls_token"] = state["cls_token"] - cls_position
    trunk = load(tmp_path / "weights.pth", original, name, model_args={**SIZES, "img_size": 70}).trunk.state_dict()
    for key in trunk:
        torch.testing.assert_close(trunk[key], state[key])


def test_dinov3_layout_of_the_authors(tmp_path):
    name = "vit_small_patch16_dinov3"
    state = weights(name)
    renamed = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    original = {}
    for key, value in state.items():
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        original[key] = value
    trunk = load(tmp_path / "weights.pth", original, name).trunk.state_dict()
    for key in trunk:
        assert torch.equal(trunk[key], original[key.replace("reg_token", "storage_tokens")]), key


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
@pytest.mark.parametrize("part", ["none", "query", "key", "masked key", "value"])
def test_dinov3_biases_are_never_dropped(tmp_path, name, part):
    """timm's own conversion drops biases that its model does not have, and those of keys."""
    state = weights(name)
    original = {key: value for key, value in state.items() if not key.endswith("_bias")}
    original["storage_tokens"] = original.pop("reg_token")
    for i in range(2):
        bias = torch.zeros(3, 32)
        bias[{"query": 0, "key": 1, "masked key": 1, "value": 2}.get(part, 0)] = 0.0 if part == "none" else 0.5
        original[f"blocks.{i}.attn.qkv.bias"] = bias.flatten()
        if part == "masked key":  # as the authors' code leaves them
            original[f"blocks.{i}.attn.qkv.bias_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(32)
        for ours, theirs in (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma")):
            original[f"blocks.{i}.{theirs}"] = original.pop(f"blocks.{i}.{ours}")
    if part == "key" or (part in ("query", "value") and "qkvb" not in name):
        with pytest.raises(WeightsError, match=r"does not fit .*: \d biases of queries, keys or values are not zero"):
            load(tmp_path / "weights.pth", original, name)
        return
    trunk = load(tmp_path / "weights.pth", original, name).trunk
    if "qkvb" in name:
        assert trunk.blocks[1].attn.q_bias.unique().tolist() == [0.5 if part == "query" else 0.0]
        assert trunk.blocks[1].attn.v_bias.unique().tolist() == [0.5 if part == "value" else 0.0]


def test_a_conv_stem_says_that_it_is_untrained(tmp_path, caplog):
    load(tmp_path / "weights.pth", weights(), stem=partial(ConvStem, width=8))
    assert "weights not used: patch_embed" in caplog.text


def test_missing_tokens_are_reported(tmp_path, caplog):
    state = weights()
    del state["cls_token"]
    load(tmp_path / "weights.pth", state)
    assert "weights missing, left at random: cls_token" in caplog.text


def test_the_first_blocks_of_a_deeper_file(tmp_path):
    state = weights(depth=4)
    trunk = load(tmp_path / "weights.pth", state).trunk
    assert torch.equal(trunk.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            weights(embed_dim=64),
            r"got \(1, 1, 64\), wanted \(1, 1, 32\); the file is 64 wide with 2 blocks and patch 16",
        ),
        (weights(depth=1), "the file has no blocks.1.norm1.weight; the file is 32 wide with 1 blocks"),
        (weights(init_values=1e-5), "the file has blocks.0.ls1.gamma; the file is 32 wide"),
        ({"layer1.0.conv1.weight": torch.zeros(2)}, "none of its 1 tensors is one of the model's.*plain ViT"),
    ],
)
def test_a_file_of_another_model(tmp_path, state, message):
    with pytest.raises(RuntimeError, match=message):
        load(tmp_path / "weights.pth", state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_embed": torch.ones(197, 32)}, "timm can't convert its tensors"),
        ({"pos_embed": torch.ones(1, 190, 32)}, "timm can't convert its tensors"),
        ({"patch_embed.proj.weight": torch.ones(3)}, "timm can't convert its tensors"),
        ({"norm.weight": torch.full((32,), torch.nan)}, "values that are not finite, in norm.weight"),
        ({"backbone.trunk.pos_embed": torch.ones(3)}, "is a checkpoint of vitdet's; give it as model.checkpoint"),
    ],
)
def test_tensors_that_are_broken_or_anothers(tmp_path, changes, message):
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / "weights.pth", weights() | changes)


def test_tensors_without_a_name_are_none(tmp_path):
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load(tmp_path / "weights.pth", {1: torch.ones(3)})


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        Backbone(TINY, **SMALL, checkpoint=str(tmp_path / "none.pth"))
    with pytest.raises(RuntimeError, match="holds no tensors"):
        load(tmp_path / "a.pth", {"epoch": 3})
    with pytest.raises(RuntimeError, match="can't be read as weights"):
        load(tmp_path / "b.pth", {"code": subprocess.Popen})  # unpickling it would run code
    (tmp_path / "c.safetensors").write_bytes(b"<html>")
    with pytest.raises(RuntimeError, match="can't be read as weights"):
        Backbone(TINY, **SMALL, checkpoint=str(tmp_path / "c.safetensors"))


def test_pretrained_and_checkpoint_exclude_each_other():
    with pytest.raises(ValueError, match="give one of them"):
        Backbone(TINY, pretrained=True, checkpoint="weights.pth")


def test_pretrained_is_timms_own_loading(tmp_path):
    model = timm.create_model(TINY, img_size=32)
    save_for_hf(model, tmp_path)
    backbone = Backbone(f"local-dir:{tmp_path}", pretrained=True, model_args={"img_size": 32})
    assert torch.equal(backbone.trunk.blocks[3].mlp.fc1.weight, model.blocks[3].mlp.fc1.weight)
    assert backbone.init_args["pretrained"] is False  # to build it again needs no download


CODE = """
import socket, sys, time
from vitdet.backbone import Backbone
from vitdet.backbone.weights import WeightsError
for network in ("refused", "silent"):
    server = socket.create_server(("127.0.0.1", int(sys.argv[1]))) if network == "silent" else None
    for name in ("vit_tiny_patch16_224", "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"):
        start = time.monotonic()
        try:
            Backbone(name, pretrained=True)
        except WeightsError as error:
            print(f"{time.monotonic() - start:.1f}|{error}")
"""
WAYS_OUT = (
    "run once where there is a network and copy its Hugging Face cache",
    "set model.backbone.pretrained: false and model.backbone.checkpoint: FILE",
)


@pytest.mark.slow
def test_pretrained_without_network_names_both_ways_out_at_once(tmp_path):
    """A port that refuses, and one that takes the call and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_ETAG_TIMEOUT": "1"}
    command = [sys.executable, "-c", CODE, port]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.strip().splitlines()
    assert len(lines) == 4 and "thrown while requesting" not in run.stderr
    for line in lines:
        seconds, message = line.split("|")
        assert float(seconds) < 3 and all(way in message for way in WAYS_OUT)


def test_pretrained_offline():
    with pytest.raises(WeightsError) as caught:
        Backbone("hf-hub:nobody/has-this")  # conftest sets HF_HUB_OFFLINE
    assert all(way in str(caught.value) for way in WAYS_OUT)
