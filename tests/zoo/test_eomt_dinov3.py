"""EoMT with DINOv3 against transformers, with random weights: whole, and as differences from a DINOv3."""

import pytest
import torch
from eomt_oracle import THINGS, compare_outputs, compare_training
from safetensors.torch import save_file
from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation
from transformers.models.eomt_dinov3 import modeling_eomt_dinov3

import vitdet
from vitdet import zoo
from vitdet.backbone.keys import check_complete
from vitdet.zoo import CheckpointError
from vitdet.zoo.eomt_dinov3 import SIZES, convert

VITS = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


def reference(vit, side, blocks, classes, **options):
    width, depth, heads = VITS[vit]
    options = {
        **{"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "image_size": side},
        **{"intermediate_size": 4 * width, "num_blocks": blocks, "num_labels": classes},
        **{"layer_norm_eps": 1e-5},  # DINOv3's own, and what its conversion takes over; the class would start from 1e-6
        **options,
    }
    return EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**options)).eval()


def as_differences(state):
    """The authors' file, and the DINOv3 that it is to be added to, as transformers has that."""
    generator = torch.Generator().manual_seed(2)
    difference, base = (
        {"network.encoder.pixel_mean": torch.zeros(1, 3, 1, 1)},
        {"embeddings.mask_token": torch.zeros(1, 1, 1)},
    )
    for key, value in state.items():
        if key.startswith(("embeddings.", "layers.", "layernorm.")):
            name = key.replace("layers.", "layer.").replace("layernorm.", "norm.")
            base[name] = torch.rand(value.shape, generator=generator)
            name = name.replace("embeddings.", "patch_embed.", 1).replace("layer.", "blocks.", 1)
            difference[f"network.encoder.backbone.{name}"] = (
                value - base[name.replace("patch_embed.", "embeddings.", 1).replace("blocks.", "layer.", 1)]
            )
            continue
        for old, new in (
            ("query.", "q."),
            ("class_predictor.", "class_head."),
            ("mask_head.fc1", "mask_head.0"),
            ("mask_head.fc2", "mask_head.2"),
            ("mask_head.fc3", "mask_head.4"),
            ("upscale_block.block.", "upscale."),
            ("layernorm2d", "norm"),
        ):
            key = key.replace(old, new)
        difference[key if key.startswith("criterion") else f"network.{key}"] = value
    return difference, base


@pytest.mark.parametrize("name", SIZES)
def test_every_full_size_model_maps_completely(name):
    size, card = SIZES[name], zoo.find(name)
    own = card.build() if size.vit == "small" else None
    with torch.device("meta"):
        queries = card.head["num_queries"]
        state = reference(size.vit, size.side, size.blocks, len(card.classes), num_queries=queries).state_dict()
        own = own or card.build()
    check_complete(card.convert({key: value.to("meta") for key, value in state.items()}), own)


def small():
    """The smallest ViT on 160 pixels, theirs and ours, the latter without weights yet."""
    still = {f"pos_embed_{change}": None for change in ("shift", "jitter", "rescale")}  # positions, in training
    model = reference("small", 160, 3, 133, num_queries=30, num_hidden_layers=5, **still)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_((0.02 if p.ndim > 1 else 0.1) * torch.randn(p.shape, generator=generator))
        model.attn_mask_probs.zero_()
    card = zoo.find("eomt-dinov3-small-coco-panoptic-640")
    backbone = vitdet.Backbone(**{**card.backbone, "depth": 5, "trunk": {"canvas": 160}})
    head = vitdet.EoMTHead(backbone.out_channels, backbone.strides, 133, **{**card.head, "num_queries": 30})
    return model, torch.nn.ModuleDict({"backbone": backbone, "head": head}).eval()


@torch.no_grad()
def test_outputs_are_those_of_transformers(parity):
    model, own = small()
    state = model.state_dict()
    difference, base = as_differences(state)
    for name, theirs, more in (("whole", state, ()), ("differences", difference, (base,))):
        converted = convert(theirs, *more, things=THINGS, blocks=3)
        check_complete(converted, own)
        own.load_state_dict(converted)
        compare_outputs(parity, f"EoMT with DINOv3, 5 blocks, {name}", theirs, model, own, 160)


def test_training_gives_the_losses_and_gradients_of_transformers(monkeypatch):
    model, own = small()
    own.load_state_dict(convert(model.state_dict(), things=THINGS, blocks=3))
    compare_training(monkeypatch, modeling_eomt_dinov3, model, own, convert)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("VITDET_HOME", str(tmp_path / "cache"))
    name = "eomt-dinov3-small-coco-panoptic-640"
    wanted = r"ask for access there, and put its model.safetensors at .*dinov3-vits16-pretrain-lvd1689m.safetensors"
    with pytest.raises(CheckpointError, match=f"can't be put together: .*{wanted}"):
        vitdet.load(name)
    difference, base = as_differences(reference("small", 640, 3, 133).state_dict())
    torch.save(difference, tmp_path / "difference.bin")
    with pytest.raises(CheckpointError, match=f"holds differences from DINOv3's weights.*{wanted}"):
        vitdet.load(name, checkpoint=tmp_path / "difference.bin")
    (tmp_path / "cache").mkdir()
    save_file(base, tmp_path / "cache" / "dinov3-vits16-pretrain-lvd1689m.safetensors")
    assert len(vitdet.load(name, checkpoint=tmp_path / "difference.bin").classes) == 133
