"""Relative positions inside packed attention, and ViTDet's weights, against transformers."""

import logging
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import VitDetConfig, VitDetModel

from vitdet import Backbone
from vitdet.backbone.layouts import to_timm
from vitdet.backbone.relative import find_places, resample_table

PLAIN = {
    "embed_dim": 32,
    "num_heads": 2,
    "class_token": False,
    "global_pool": "",
    "final_norm": False,
    "img_size": 32,
    "patch_size": 8,
}
VITDET = {
    **{"model_args": PLAIN, "depth": 3, "neck": None, "out_blocks": [2]},
    "trunk": {"windows": 4, "global_blocks": [2], "relative_position": 8, "pos_antialias": False},
}


def reference():
    options = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
    windows = {"window_size": 4, "window_block_indices": [0, 1], "use_relative_position_embeddings": True}
    model = VitDetModel(VitDetConfig(**options, **windows, pretrain_image_size=32))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_((0.5 if "rel_pos" in name else 0.1) * torch.randn(p.shape, generator=generator))
    return model.eval()


def as_transformers(state):
    return {f"vitdet.{key}": value for key, value in state.items()}


def as_detectron2(state):
    """A whole detector, as Detectron2 names it."""
    renamed = {"proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    for key, value in state.items():
        for old, new in (
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.projection", "patch_embed.proj"),
            ("encoder.layer", "blocks"),
            ("attention", "attn"),
        ):
            key = key.replace(old, new)
        renamed[f"backbone.net.{key}"] = value
    return renamed


def ours(tmp_path, state, **options):
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "vitdet.safetensors")
    name = "vit_tiny_patch16_224"
    return Backbone(name, **{**VITDET, **options}, checkpoint=str(tmp_path / "vitdet.safetensors")).eval()


@pytest.mark.parametrize("layout", [as_transformers, as_detectron2])
def test_outputs_and_gradients_are_those_of_transformers(layout, tmp_path, caplog):
    """At grids that the windows divide, where transformers pads nothing: 8×8, the size of the tables, and other sizes,
    for which the tables are resampled."""
    model = reference()
    with caplog.at_level(logging.WARNING):
        backbone = ours(tmp_path, layout(model.state_dict()))
    assert not caplog.records  # nothing is missing
    for size in ((64, 64), (32, 96), (96, 64)):
        images = torch.randn(2, 3, *size)
        wanted, found = model(images).last_hidden_state, backbone(images)[0].dense()[0]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        weight = torch.randn_like(wanted)
        (wanted * weight).sum().backward()
        (found * weight).sum().backward()
    for i, layer in enumerate(model.encoder.layer):
        for name in ("rel_pos_h", "rel_pos_w"):
            theirs, own = getattr(layer.attention, name).grad, getattr(backbone.trunk.blocks[i].attn, name).grad
            assert (own - theirs).norm() < 1e-4 * theirs.norm()


def test_a_full_size_vitdet_maps_completely():
    page = (Path(__file__).parents[2] / "docs" / "own_parts.md").read_text()
    call = re.search(r"`Backbone\((.*?), checkpoint=…\)`", page, re.DOTALL)[1]
    with torch.device("meta"):
        blocks = [i for i in range(12) if i not in (2, 5, 8, 11)]
        options = {"window_size": 14, "window_block_indices": blocks, "use_relative_position_embeddings": True}
        state = to_timm(VitDetModel(VitDetConfig(image_size=1024, **options)).state_dict(), set())
        trunk = eval(f"Backbone({call}, neck=None)", {"Backbone": Backbone}).trunk
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in trunk.state_dict().items()
    }


def test_images_of_any_sizes_together_are_as_alone(tmp_path):
    backbone = ours(tmp_path, as_transformers(reference().state_dict()))
    images = [torch.randn(3, *size) for size in ((64, 64), (40, 72), (8, 104), (64, 64))]
    together = backbone(images)[0].maps()
    for image, found in zip(images, together):
        torch.testing.assert_close(found, backbone([image])[0].maps()[0], rtol=1e-5, atol=1e-5)


def test_tables_are_resampled_to_other_windows_and_it_is_said(tmp_path, caplog):
    state = as_transformers(reference().state_dict())
    with caplog.at_level(logging.INFO):
        backbone = ours(tmp_path, state, trunk={**VITDET["trunk"], "windows": 2, "relative_position": 16})
    assert "blocks.0.attn.rel_pos_h (7, 16) -> (3, 16)" in caplog.text
    table = state["vitdet.encoder.layer.2.attention.rel_pos_h"]
    wanted = F.interpolate(table.T[None], 31, mode="linear")[0].T
    torch.testing.assert_close(backbone.trunk.blocks[2].attn.rel_pos_h, wanted)
    assert resample_table(table, 8) is table


def test_products_by_hand():
    """Two tokens side by side: the query's product with the row of the distance is added to a logit, and nothing is
    added for a prefix token."""
    places = find_places([1], [(1, 2)], None, 1, torch.device("cpu"), inside=False)
    q = torch.tensor([[[1.0]], [[2.0]], [[3.0]]])  # a prefix token, left, right
    down, across = torch.tensor([[10.0]]), torch.tensor([[1.0], [2.0], [4.0]])  # distances 0; -1, 0, 1
    (H, W), products = places.runs[0].sides, places.products(q, (down, across))
    found = (products[:, 0] @ places.keys[:, 0].T.float())[:, :]
    assert (H, W) == (1, 2)
    assert found.tolist() == [[0, 0, 0], [0, 20 + 4, 20 + 2], [0, 30 + 12, 30 + 6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": {"relative_position": 0}}, "relative_position is 0; wanted a whole number from 1"),
        (
            {"trunk": {"relative_position": 8}, "out_blocks": None, "tail": 1},
            "neither windows nor relative_position",
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Backbone("vit_tiny_patch16_224", **{**VITDET, **options})
