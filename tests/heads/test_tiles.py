"""Large images in tiles."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import vitdet
from vitdet.handshake import Labels
from vitdet.heads.masks.tiles import best_class, cut, put_together
from vitdet.progress import Progress

SIDES = st.integers(1, 90)


@settings(deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3), st.integers(6, 40))
def test_tiles_cover_the_images_and_give_them_back(sizes, side):
    images = [torch.rand(3, *size) for size in sizes]
    tiles, places = cut(images, side)
    for i, (height, width) in enumerate(sizes):
        own = [tile for tile, place in zip(tiles, places) if place.image == i]
        assert len(own) == -(-height // side) * -(-width // side)
        assert all(tile.shape[1:] == (min(side, height), min(side, width)) for tile in own)
    back = list(put_together(tiles, places, sizes))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(back, images, strict=True))


def test_tiles_overlap_by_hand():
    _, places = cut([torch.zeros(3, 10, 25)], 10)
    assert [place.left for place in places] == [0, 7, 15]  # 5 pixels too many, on two overlaps of 2.5
    scores = [torch.full((1, 10, 10), float(i)) for i in range(3)]
    row = next(put_together(scores, places, [(10, 25)]))[0, 0]
    assert row.tolist() == [0] * 7 + [0.5] * 3 + [1] * 5 + [1.5] * 2 + [2] * 8


def test_the_best_class_is_that_of_the_enlarged_scores():
    scores = torch.randn(40, 5, 7)
    wanted = F.interpolate(scores[None], (31, 23), mode="bilinear")[0].argmax(0)
    assert (best_class(scores, (31, 23)) == wanted).all()


HEADS = {
    "linear": lambda b, **o: vitdet.SemanticHead(b.out_channels, b.strides, 4, **o),
    "decoder": lambda b, **o: vitdet.MaskDecoderHead(
        b.out_channels, b.strides, 4, dim=32, num_queries=5, num_layers=2, task="semantic", **o
    ),
}


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
@torch.no_grad()
def test_a_tile_is_seen_alone(make):
    backbone = vitdet.Backbone(
        "vit_tiny_patch16_224", model_args={"embed_dim": 48, "num_heads": 2}, depth=2, out_channels=32
    ).eval()
    torch.manual_seed(0)
    plain = make(backbone).eval()
    tiled = make(backbone, tile=64).eval()
    tiled.load_state_dict(plain.state_dict())
    small, large = torch.randn(3, 64, 48), torch.randn(3, 64, 112)
    sizes = [(64, 48), (64, 112)]
    found = tiled.infer(backbone, [small, large], sizes)
    assert (found[0].semantic == plain.infer(backbone, [small], sizes[:1])[0].semantic).all()
    left, right = plain.infer(backbone, [large[..., :64], large[..., 48:]], [(64, 64)] * 2)
    assert (found[1].semantic[:, :48] == left.semantic[:, :48]).all()  # the tiles overlap in columns 48 to 63
    assert (found[1].semantic[:, 64:] == right.semantic[:, 16:]).all()
    assert (found[1].semantic != plain.infer(backbone, [large], sizes[1:])[0].semantic).any()


def test_only_semantic_maps_are_put_together():
    with pytest.raises(ValueError, match=r"head.tile is 64, but the task is panoptic: .* set it to null"):
        vitdet.MaskDecoderHead([32], [16], 4, task="panoptic", tile=64)
    head = vitdet.MaskDecoderHead([32], [16], 4, tile=64)
    head.prepare(Progress(), Labels("semantic", tuple("abcd"), (False,) * 4))
    head = vitdet.MaskDecoderHead([32], [16], 4, tile=64)
    with pytest.raises(ValueError, match="the task is instances"):
        head.prepare(Progress(), Labels("instances", tuple("abcd"), (True,) * 4))
