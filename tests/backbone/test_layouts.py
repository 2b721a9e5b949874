"""Files of the transformers library, and what comes out of them, against the library itself."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from vitdet.backbone import Backbone

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DINOV3 = {**SMALL, "intermediate_size": 128, "num_register_tokens": 4}
CASES = {
    "dinov2": (Dinov2Model, Dinov2Config(**SMALL, image_size=56, patch_size=14), "vit_small_patch14_dinov2"),
    "registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**SMALL, image_size=56, patch_size=14),
        "vit_small_patch14_reg4_dinov2",
    ),
    "swiglu": (
        Dinov2Model,
        Dinov2Config(**SMALL, image_size=56, patch_size=14, use_swiglu_ffn=True, mlp_ratio=4),
        "vit_giant_patch14_dinov2",
    ),
    "dinov3": (DINOv3ViTModel, DINOv3ViTConfig(**DINOV3), "vit_small_patch16_dinov3_qkvb"),
    "dinov3 gated": (
        DINOv3ViTModel,
        DINOv3ViTConfig(**DINOV3, use_gated_mlp=True, hidden_act="silu"),
        "vit_small_plus_patch16_dinov3_qkvb",
    ),
}
SIZES = {"embed_dim": 32, "num_heads": 2}
ARGS = {"model_args": SIZES, "depth": 2, "neck": None}


def make(case, tmp_path):
    """The model with random weights, and its file as the hub has it."""
    cls, config, name = CASES[case]
    model = cls(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(tmp_path)
    return model, name, tmp_path / "model.safetensors"


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_its_tokens_are_those_of_transformers(case, tmp_path):
    model, name, file = make(case, tmp_path)
    args = {"img_size": 56} if "dinov2" in name else {}
    args |= {"mlp_ratio": 88 / 32 * 2} if case == "swiglu" else {}  # of gate and value together
    backbone = Backbone(name, **{**ARGS, "model_args": SIZES | args}, checkpoint=str(file)).eval()
    patch = backbone.patch_size
    images = torch.randn(2, 3, 56, 56) if "dinov2" in name else torch.randn(2, 3, 3 * patch, 5 * patch)
    tokens = model(images).last_hidden_state[:, 1 + getattr(model.config, "num_register_tokens", 0) :]
    found = backbone(images)[0].x.view_as(tokens)
    assert (found - tokens).abs().max() / tokens.abs().max() < 1e-5


def test_biases_are_left_out_only_if_they_are_zero(tmp_path):
    model, _, file = make("dinov3", tmp_path)
    with pytest.raises(RuntimeError, match="does not fit vit_small_patch16_dinov3"):
        Backbone("vit_small_patch16_dinov3", **ARGS, checkpoint=str(file))
    state = {
        key: torch.zeros_like(v) if "q_proj.bias" in key or "v_proj.bias" in key else v
        for key, v in load_file(file).items()
    }
    save_file(state, file)
    Backbone("vit_small_patch16_dinov3", **ARGS, checkpoint=str(file))


def test_another_model_is_refused(tmp_path):
    _, _, file = make("dinov2", tmp_path)
    save_file(load_file(file) | {"encoder.layer.0.strange": torch.ones(1)}, file)
    with pytest.raises(RuntimeError, match=r"1 of \d+ tensors have unknown names: encoder.layer.0.strange"):
        Backbone("vit_small_patch14_dinov2", **ARGS, checkpoint=str(file))
