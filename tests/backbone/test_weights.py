"""Loading weights: what fits is loaded and reported, what does not is an error that helps."""

import logging
import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models import save_for_hf

from vitdet.backbone import Backbone
from vitdet.backbone.weights import read_weights

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
TINY = "vit_tiny_patch16_224"


def weights(name: str = TINY, **options) -> dict[str, torch.Tensor]:
    model = timm.create_model(name, **(SMALL | {"num_classes": 5} | options))
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
    trunk = load(tmp_path / "weights.pth", original, name, model_args={"img_size": 70}).trunk.state_dict()
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


def test_a_conv_stem_says_that_it_is_untrained(tmp_path, caplog):
    load(tmp_path / "weights.pth", weights(), stem="conv", stem_width=8)
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


def test_pretrained_without_network_names_both_ways_out(tmp_path):
    code = f"from vitdet.backbone import Backbone; Backbone({TINY!r}, pretrained=True)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert "run once where there is a network" in last and "checkpoint: path" in last
