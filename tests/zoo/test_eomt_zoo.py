"""EoMT against transformers, with random weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor
from transformers.models.eomt import modeling_eomt

import vitdet
from vitdet import zoo
from vitdet.backbone.keys import check_complete
from vitdet.heads.mask import criterion as our_masks
from vitdet.heads.mask.criterion import MaskOutputs
from vitdet.structures import Target
from vitdet.zoo import CheckpointError, coco
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


@pytest.mark.parametrize("name", [name for name in SIZES if "giant-coco-panoptic-1280" not in name])
def test_every_full_size_model_maps_completely(name):
    size, card = SIZES[name], zoo.find(name)
    with torch.device("meta"):
        state = reference(size.vit, size.side, size.blocks, len(card.classes)).state_dict()
        check_complete(card.convert(state), card.build())
        if size.vit != "giant":
            check_complete(card.convert(authors_layout(state)), card.build())


def small(layout=lambda state: state, task="panoptic"):
    """The smallest ViT on 160 pixels, theirs and ours."""
    model = randomise(reference("small", 160, 3, 133, num_queries=30, num_hidden_layers=5))
    card = zoo.find("eomt-small-coco-panoptic-640")
    backbone = card.backbone | {"model_args": {"img_size": 160, "patch_size": 16}, "depth": 5, "canvas": 160}
    backbone = vitdet.Backbone(**backbone)
    head = vitdet.EoMTHead(
        backbone.out_channels, backbone.strides, 133, **{**card.head, "num_queries": 30, "task": task}
    )
    state = convert(layout(model.state_dict()), things=80, blocks=3)
    own = torch.nn.ModuleDict({"backbone": backbone, "head": head})
    check_complete(state, own)
    own.load_state_dict(state)
    return model, own.eval()


@pytest.mark.parametrize("layout", [lambda state: state, authors_layout])
@torch.no_grad()
def test_outputs_are_those_of_transformers(layout):
    model, own = small(layout)
    images = torch.randn(2, 3, 160, 160)
    wanted = model(images)
    found: MaskOutputs = own["head"](own["backbone"](images))
    masks = torch.einsum("bqc,bchw->bqhw", found.embeddings[-1], torch.stack(found.pixels[-1].maps()))
    for ours, theirs in ((found.logits[-1], wanted.class_queries_logits), (masks, wanted.masks_queries_logits)):
        assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4
    assert own["head"].things.tolist() == [True] * 80 + [False] * 53


@torch.no_grad()
def test_panoptic_segments_are_those_of_transformers():
    model, own = small()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)
    processor = EomtImageProcessor(size={"shortest_edge": 160, "longest_edge": 160}, do_pad=True)
    inputs = processor(image, return_tensors="pt")
    rules = {"threshold": 0.2, "overlap_mask_area_threshold": 0.3, "stuff_classes": list(range(80, 133))}
    wanted = processor.post_process_panoptic_segmentation(model(inputs["pixel_values"]), [(240, 320)], **rules)[0]
    head = own["head"]
    head.threshold, head.overlap = 0.2, 0.3
    transform = vitdet.deploy.predict.EvalTransform(
        size={"long_side": 160}, mean=own["backbone"].mean, std=own["backbone"].std, resample="antialias"
    )
    detector = vitdet.Detector(
        own["backbone"],
        head,
        classes=list(range(133)),
        category_ids=list(range(133)),
        transform=transform,
        device="cpu",
    )
    found = detector.predict(image)
    assert len(found) == len(wanted["segments_info"]) > 1
    assert found.labels.tolist() == [segment["label_id"] for segment in wanted["segments_info"]]
    scores = torch.tensor([segment["score"] for segment in wanted["segments_info"]])
    torch.testing.assert_close(found.scores, scores, atol=1e-4, rtol=1e-4)
    assert (found.panoptic == wanted["segmentation"] + 1).float().mean() > 0.999


class SamePoints:
    """The torch that transformers' loss sees: its random points are always the same."""

    def __init__(self, points):
        self.points = points

    def __getattr__(self, name):
        return getattr(torch, name)

    def rand(self, count, *shape, **_):
        return self.points.expand(count, -1, -1)


def test_training_gives_the_losses_and_gradients_of_transformers(monkeypatch):
    """In the first step, with attention held back by masks, before every block."""
    count = 500
    # They sample true masks bilinearly, we take the nearest pixel: in its centre both are the same. And half a cell from the border their masks fade to 0.
    cells = torch.randint(2, 158, (count, 2), generator=torch.Generator().manual_seed(1))
    points = (cells + 0.5) / 160
    monkeypatch.setattr(modeling_eomt, "torch", SamePoints(points))
    loss_class = modeling_eomt.EomtLoss
    monkeypatch.setattr(
        loss_class, "sample_points_using_uncertainty", lambda self, logits, *_: points.expand(len(logits), -1, -1)
    )
    monkeypatch.setattr(our_masks, "mask_points", lambda *_: points)
    monkeypatch.setattr(our_masks, "important_points", lambda logits, _: torch.arange(count).expand(len(logits), -1))
    model, own = small()
    model.attn_mask_probs.fill_(1)
    images = torch.randn(2, 3, 160, 160)
    targets = []
    for labels in ([3, 90], [0]):
        masks = torch.zeros(len(labels), 160, 160, dtype=torch.bool)
        for i in range(len(labels)):
            masks[i, 20 + 60 * i : 70 + 60 * i, 30:110] = True
        boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5]] * len(labels))
        targets.append(Target(boxes, torch.tensor(labels), (160, 160), (160, 160), masks=masks))
    own.train(), model.train()
    wanted = model(
        images, mask_labels=[t.masks.float() for t in targets], class_labels=[t.labels for t in targets]
    ).loss
    wanted.backward()
    head = own["head"]
    total = head.total(head.loss(head(own["backbone"](images), targets), targets))
    total.backward()
    torch.testing.assert_close(total, wanted, rtol=1e-4, atol=1e-4)
    grads = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}
    expected = convert(grads, things=80, blocks=3)
    largest = max(grad.norm() for grad in expected.values() if grad.is_floating_point())
    for name, p in own.named_parameters():
        grad, theirs = p.grad, expected[name]
        if name.endswith("expand.proj.bias"):  # ours holds it four times
            grad, theirs = grad.view(4, -1).sum(0), theirs.view(4, -1)[0]
        error = (grad - theirs).norm()
        assert error < 1e-3 * theirs.norm() + 1e-6 * largest, (name, error)


def test_other_blocks_are_refused(tmp_path):
    state = reference("small", 64, 4, 133, num_hidden_layers=5).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(
        CheckpointError, match=r"eomt-small-coco-panoptic-640: its queries join the last 4 blocks, wanted 3"
    ):
        vitdet.load("eomt-small-coco-panoptic-640", checkpoint=tmp_path / "weights.pth")
    assert zoo.find("eomt-large-coco-instance-640").classes == coco.CLASSES
