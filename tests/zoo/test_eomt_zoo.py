"""EoMT against transformers, with random weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from eomt_oracle import THINGS, compare_outputs, compare_training
from PIL import Image
from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor
from transformers.models.eomt import modeling_eomt

import vitdet
from vitdet import zoo
from vitdet.backbone.keys import check_complete
from vitdet.data.label_sets import LABEL_SETS
from vitdet.data.transforms import EvalTransform
from vitdet.zoo import CheckpointError
from vitdet.zoo.eomt import SIZES, convert

VITS = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "giant": (1536, 40, 24)}


def reference(vit, side, blocks, classes, **options):
    width, depth, heads = VITS[vit]
    options = {
        **{"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "image_size": side},
        **{"num_blocks": blocks, "num_labels": classes, "use_swiglu_ffn": vit == "giant"},
        **options,
    }
    return EomtForUniversalSegmentation(EomtConfig(**options)).eval()


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_((0.02 if p.ndim > 1 else 0.1) * torch.randn(p.shape, generator=generator))
        model.attn_mask_probs.zero_()  # as after training
        model.class_predictor.weight.mul_(6)  # some queries are sure of a class
        model.class_predictor.bias[-1] = -3
    return model


def authors_layout(state):
    """The same under the names that the authors' own code writes."""
    renamed = {}
    for key, value in state.items():
        if ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            value = torch.cat([state[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")])
        for old, new in (
            ("embeddings.register_tokens", "embeddings.reg_token"),
            ("embeddings.position_embeddings.weight", "embeddings.pos_embed"),
            ("embeddings.patch_embeddings.projection", "embeddings.patch_embed.proj"),
            ("embeddings.", "network.encoder.backbone."),
            ("layernorm.", "network.encoder.backbone.norm."),
            ("attention.q_proj", "attn.qkv"),
            ("attention.out_proj", "attn.proj"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            ("query.", "network.q."),
            ("class_predictor.", "network.class_head."),
            ("mask_head.fc1", "network.mask_head.0"),
            ("mask_head.fc2", "network.mask_head.2"),
            ("mask_head.fc3", "network.mask_head.4"),
            ("upscale_block.block.", "network.upscale."),
            ("layernorm2d", "norm"),
            ("attn_mask_probs", "network.attn_mask_probs"),
        ):
            key = key.replace(old, new) if not (old == "layernorm." and "layernorm2d" in key) else key
        renamed[
            "network.encoder.backbone." + key.replace("layers.", "blocks.") if key.startswith("layers.") else key
        ] = value
    return renamed | {"network.encoder.pixel_mean": torch.zeros(1, 3, 1, 1)}


@pytest.mark.parametrize("name", SIZES)
def test_every_full_size_model_maps_completely(name):
    size, card = SIZES[name], zoo.find(name)
    with torch.device("meta"):
        queries = card.head["num_queries"]
        state = reference(size.vit, size.side, size.blocks, len(card.classes), num_queries=queries).state_dict()
        check_complete(card.convert(state), card.build())
        if size.vit != "giant":
            check_complete(card.convert(authors_layout(state)), card.build())


def small(layout=lambda state: state, **options):
    """The smallest ViT on 160 pixels, theirs and ours."""
    model = randomise(reference("small", 160, 3, 133, num_queries=30, num_hidden_layers=5))
    card = zoo.find("eomt-small-coco-panoptic-640")
    backbone = card.backbone | {"model_args": {"img_size": 160, "patch_size": 16}, "depth": 5, "trunk": {"canvas": 160}}
    backbone = vitdet.Backbone(**backbone)
    head = vitdet.EoMTHead(backbone.out_channels, backbone.strides, 133, **{**card.head, "num_queries": 30, **options})
    state = convert(layout(model.state_dict()), things=THINGS, blocks=3)
    own = torch.nn.ModuleDict({"backbone": backbone, "head": head})
    check_complete(state, own)
    own.load_state_dict(state)
    return model, own.eval()


@pytest.mark.parametrize(("layout", "name"), [(lambda state: state, "transformers'"), (authors_layout, "authors'")])
@torch.no_grad()
def test_outputs_are_those_of_transformers(layout, name, parity):
    model, own = small(layout)
    compare_outputs(parity, f"EoMT, 5 blocks, {name} names", layout(model.state_dict()), model, own, 160)
    assert own["head"].things.tolist() == [True] * 80 + [False] * 53


@torch.no_grad()
def test_outputs_are_those_of_transformers_at_the_published_size(parity):
    name = "eomt-small-coco-panoptic-640"
    model, card = randomise(reference("small", 640, 3, 133)), zoo.find(name)
    own = card.build().eval()
    own.load_state_dict(card.convert(model.state_dict()))
    compare_outputs(parity, name, model.state_dict(), model, own, 640)


def detector(own, size):
    mean, std = own["backbone"].mean, own["backbone"].std
    transform = EvalTransform(size=size, mean=mean, std=std, resample="antialias")
    names = {"classes": list(range(133)), "category_ids": list(range(133))}
    return vitdet.Detector(own["backbone"], own["head"], **names, transform=transform, device="cpu")


def photo(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@torch.no_grad()
def test_panoptic_segments_are_those_of_transformers():
    model, own = small()
    image = photo(320, 240)
    processor = EomtImageProcessor(size={"shortest_edge": 160, "longest_edge": 160}, do_pad=True)
    inputs = processor(image, return_tensors="pt")
    rules = {"threshold": 0.2, "overlap_mask_area_threshold": 0.3, "stuff_classes": list(range(80, 133))}
    wanted = processor.post_process_panoptic_segmentation(model(inputs["pixel_values"]), [(240, 320)], **rules)[0]
    own["head"].rules = replace(own["head"].rules, threshold=0.2, overlap=0.3)
    found = detector(own, {"long_side": 160}).predict(image, threshold=0)
    assert len(found) == len(wanted["segments_info"]) > 1
    assert found.labels.tolist() == [segment["label_id"] for segment in wanted["segments_info"]]
    scores = torch.tensor([segment["score"] for segment in wanted["segments_info"]])
    torch.testing.assert_close(found.scores, scores, atol=1e-4, rtol=1e-4)
    assert (found.panoptic == wanted["segmentation"] + 1).float().mean() > 0.999


@pytest.mark.parametrize(("width", "height", "tiles"), [(360, 240, 2), (200, 360, 2), (320, 320, 1), (640, 160, 4)])
@torch.no_grad()
def test_semantic_maps_are_put_together_from_tiles_as_in_transformers(width, height, tiles):
    model, own = small(task="semantic", tile=160)
    model.class_predictor.bias[:-1] -= 2 * torch.arange(133) % 7  # not always the same class
    own["head"].classify.load_state_dict(model.class_predictor.state_dict())
    image, size = photo(width, height), {"shortest_edge": 160, "longest_edge": None}
    processor = EomtImageProcessor(size=size, do_split_image=True)
    inputs = processor(image, return_tensors="pt")
    outputs = model(**inputs)
    outputs.patch_offsets = inputs["patch_offsets"]
    wanted = processor.post_process_semantic_segmentation(outputs, [(height, width)])[0]
    assert len(inputs["pixel_values"]) == tiles
    found = detector(own, {"short_side": 160}).predict(image, threshold=0)
    assert len(wanted.unique()) > 3
    assert (found.semantic == wanted).float().mean() > 0.999


def test_labels_are_those_of_the_data_sets():
    names, values, _ = LABEL_SETS["ade20k", "semantic"]
    panoptic = LABEL_SETS["ade20k", "panoptic"]
    card = zoo.find("eomt-large-ade20k-semantic-512")
    assert (card.classes, card.category_ids) == (names, values) and len(set(names)) == 150
    assert len(set(panoptic.classes)) == 150 and sum(panoptic.things) == 100
    # the two lists name the same classes in the same order, mostly by the same first word
    same = sum(a.split(",")[0] == b for a, b in zip(panoptic.classes, names))
    assert same > 130 and panoptic.classes[149] == names[149] == "flag"
    assert zoo.find("eomt-large-cityscapes-semantic-1024").category_ids[-1] == 33


def test_training_gives_the_losses_and_gradients_of_transformers(monkeypatch):
    compare_training(monkeypatch, modeling_eomt, *small(), convert)


@torch.no_grad()
def test_instances_are_found_as_the_authors_say():
    """The authors' rule, written out: the 100 best pairs of query and class, whose scores are the class score times the
    mean probability inside the mask."""
    model, own = small(task="instances")
    image = photo(320, 240)
    processor = EomtImageProcessor(size={"shortest_edge": 160, "longest_edge": 160}, do_pad=True)
    outputs = model(**processor(image, return_tensors="pt"))
    logits = F.interpolate(outputs.masks_queries_logits, (160, 160), mode="bilinear")[..., :120, :]
    logits = F.interpolate(logits, (240, 320), mode="bilinear")[0]
    scores = outputs.class_queries_logits[0].softmax(-1)[:, :-1].flatten()
    best = scores.argsort(descending=True)[:100]
    masks = logits[best // 133] > 0
    sure = (logits[best // 133].sigmoid() * masks).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6)
    order = (scores[best] * sure).argsort(descending=True)
    found = detector(own, {"long_side": 160}).predict(image, threshold=0)
    torch.testing.assert_close(found.scores, (scores[best] * sure)[order], atol=1e-5, rtol=1e-4)
    assert (found.labels == best[order] % 133).float().mean() > 0.97  # of equal scores, which comes first is a toss-up
    assert (found.masks == masks[order]).float().mean() > 0.999


def test_other_blocks_are_refused(tmp_path):
    state = reference("small", 64, 4, 133, num_hidden_layers=5).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(
        CheckpointError, match=r"eomt-small-coco-panoptic-640: its queries join the last 4 blocks, wanted 3"
    ):
        vitdet.load("eomt-small-coco-panoptic-640", checkpoint=tmp_path / "weights.pth")
    assert zoo.find("eomt-large-coco-instance-640").classes == LABEL_SETS["coco", "instances"].classes
