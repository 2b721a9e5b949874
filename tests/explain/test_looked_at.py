"""What a model looked at: the weights are those of its attention, and nothing of the model is changed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitdet.backbone import Backbone
from vitdet.backbone.windows import Windows
from vitdet.data.transforms import EvalTransform
from vitdet.deploy import Detector
from vitdet.errors import UserError
from vitdet.explain import explain, write_page
from vitdet.explain.watch import watching
from vitdet.heads import DEIMHead, DETRHead, EoMTHead, MaskDecoderHead, PlainDETRHead, SemanticHead

SIZES = [(48, 80), (64, 64), (37, 70)]
TINY = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 4, "out_channels": 32}
BACKBONES = {
    "plain": ("vit_tiny_patch16_224", TINY),
    "windows": ("vit_tiny_patch16_224", {**TINY, "trunk": {"windows": 2}}),
    "windows with a prefix each": (
        "vit_tiny_patch16_224",
        {**TINY, "trunk": {"windows": "2x2", "window_prefix": "window"}},
    ),
    "relative positions": ("vit_tiny_patch16_224", {**TINY, "trunk": {"windows": 3, "relative_position": 8}}),
    "canvas": ("vit_tiny_patch16_224", {**TINY, "trunk": {"canvas": 96}}),
    "rope": ("vit_small_patch16_dinov3", {**TINY, "model_args": {"embed_dim": 32, "num_heads": 2, "depth": 4}}),
    "rope and windows": (
        "eva02_tiny_patch14_224",
        {"model_args": {"embed_dim": 48, "num_heads": 3}, "depth": 4, "out_channels": 32, "trunk": {"windows": 2}},
    ),
}
SMALL = {"dim": 32, "num_queries": 10, "num_layers": 2}
HEADS = {
    "DETRHead": lambda *to: DETRHead(*to, 3, **SMALL, decoder={"num_heads": 4, "ffn_dim": 32, "num_points": 3}),
    "DETRHead with masks": lambda *to: DETRHead(
        *to, 3, **SMALL, masks=True, decoder={"refine": "fixed", "ffn_dim": 32, "num_points": [2, 4, 1]}
    ),
    "DEIMHead": lambda *to: DEIMHead(*to, 3, **SMALL, num_heads=4, ffn_dim=32),
    "PlainDETRHead": lambda *to: PlainDETRHead(*to, 3, **SMALL, num_heads=4, ffn_dim=32),
    "MaskDecoderHead": lambda *to: MaskDecoderHead(
        *to, 3, **{**SMALL, "num_layers": 3}, num_heads=4, ffn_dim=32, task="instances"
    ),
    "EoMTHead": lambda *to: EoMTHead(*to, 3, num_queries=10, task="instances"),
    "SemanticHead": lambda *to: SemanticHead(*to, 3),
}


def make_detector(head="DETRHead", backbone="plain", **options):
    name, of_backbone = BACKBONES[backbone]
    of_backbone = {**of_backbone, **({"tail": 2, "neck": None} if head == "EoMTHead" else {}), **options}
    body = Backbone(name, **of_backbone)
    top = HEADS[head](body.out_channels, body.strides)
    with torch.no_grad():
        # so that not all weights are equal, as they are at first
        for parameter in (*body.parameters(), *top.parameters()):
            parameter += 0.05 * torch.randn_like(parameter)
    transform = EvalTransform(size={"long_side": 96}, mean=body.mean, std=body.std)
    classes = {"classes": ["cat", "dog", "bird"], "category_ids": [1, 2, 3]}
    return Detector(body, top, **classes, transform=transform, device="cpu", thresholds=[0.0] * 3)


def picture(size=(48, 80)):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


class Inputs:
    """Keeps the inputs of a module's last call."""

    def __init__(self, module):
        self.handle = module.register_forward_pre_hook(lambda _, inputs: setattr(self, "inputs", inputs))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def run(detector, image):
    """What is watched while the model sees an image, and its outputs."""
    x = detector.transform(image)
    with torch.inference_mode(), watching(detector.backbone, detector.head, [0, 1, 2, 3]) as seen:
        return seen, detector.head(detector.backbone([x]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_are_those_of_the_blocks(backbone, size):
    """They sum to 1, and their product with the values is what the attention returned."""
    detector = make_detector(backbone=backbone)
    blocks = detector.backbone.trunk.blocks
    outputs = [Inputs(block.attn.norm) for block in blocks]
    seen, _ = run(detector, picture(size))
    for i, block in enumerate(blocks):
        attention, (found,) = seen.blocks[i], outputs[i].inputs
        for row in range(0, len(found), 5):
            weights = attention.weights(row)
            assert torch.allclose(weights.sum(-1), torch.ones(block.attn.heads), atol=1e-5)
            wanted = torch.einsum("hm,mhd->hd", weights, attention.v)[:, : block.attn.head_dim].flatten()
            assert torch.allclose(found[row], wanted, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backbone", [name for name in BACKBONES if "windows" in name])
def test_a_patch_attends_to_its_window(backbone, size):
    detector = make_detector(backbone=backbone)
    trunk, (height, width) = detector.backbone.trunk, size
    found = explain(detector, picture(size), points=[(width - 1, 0), (2, height - 2)], blocks="all")
    grid = found.subjects[0].blocks[0].weights.shape[1:]
    rows, columns = Windows.sides(trunk.windows, grid)
    for i in range(4):
        right, left = (subject.blocks[i] for subject in found.subjects)
        inside = np.ones((2, *grid), bool)
        if i not in trunk.global_blocks:
            inside[0] = np.outer(np.arange(grid[0]) < rows[0], np.arange(grid[1]) >= grid[1] - columns[-1])
            inside[1] = np.outer(np.arange(grid[0]) >= grid[0] - rows[-1], np.arange(grid[1]) < columns[0])
        assert ("windows" in right.name) == (i not in trunk.global_blocks)
        for one, where in zip((right, left), inside):
            assert ((one.weights > 0) == where).all()
            assert np.allclose(one.weights.sum((1, 2)) + one.rest, 1, atol=1e-5)


def test_a_patch_attends_as_in_timm():
    """The weights of the first block at their places, computed from the pixels of each patch in turn."""
    detector, image = make_detector(), picture((48, 80))
    trunk, attn = detector.backbone.trunk, detector.backbone.trunk.blocks[0].attn
    found = explain(detector, image, points=[(70, 20)], blocks=[0]).subjects[0].blocks[0]
    x = detector.transform(image)
    kernel, bias = trunk.patch_embed.proj.weight, trunk.patch_embed.proj.bias
    h, w = x.shape[1] // 16 + (x.shape[1] % 16 > 0), x.shape[2] // 16
    x = F.pad(x, (0, 0, 0, h * 16 - x.shape[1]))
    tokens = torch.stack(
        [(kernel * x[:, i * 16 : i * 16 + 16, j * 16 : j * 16 + 16]).sum((1, 2, 3)) for i in range(h) for j in range(w)]
    )
    tokens = torch.cat([trunk.cls_token[0], tokens + bias]) + trunk._position_table((h, w))[0]
    q, k, _ = attn.qkv(trunk.blocks[0].norm1(tokens)).view(-1, 3, 2, 16).unbind(1)
    # x 70 of 80 is 84 of 96 and in patch 5; y 20 of 48 is 24 and in patch 1
    weights = (torch.einsum("hd,lhd->hl", q[1 + 1 * w + 5], k) / 4).softmax(-1)
    assert found.weights.shape == (2, h, w)
    assert np.allclose(found.weights, weights[:, 1:].unflatten(1, (h, w)).detach(), atol=1e-5)
    assert np.allclose(found.rest, weights[:, 0].detach(), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head", ["DETRHead", "DETRHead with masks", "DEIMHead"])
@torch.inference_mode()
def test_sampling_points(head, size):
    """They lie where the layer's offsets put them, and what is sampled there is the layer's output."""
    detector, image = make_detector(head), picture(size)
    part = detector.head.decoder.layers[-1].cross_attention
    with Inputs(part) as call, Inputs(part.proj) as output:
        found = explain(detector, image, objects=[0, 4])
    x, boxes, _, memory = call.inputs
    heads, seen = part.num_heads, detector.transform(image).shape
    # from pixels of the original to those that the model sees; heights and widths are rounded
    step = torch.tensor([seen[2] / size[1], seen[1] / size[0]])
    values = part.value(memory.x).unflatten(1, (heads, -1))
    for subject in found.subjects:
        points, (cx, cy, w, h) = subject.points, boxes[subject.query].tolist()
        offsets, weights = part.offsets(x)[subject.query].tolist(), part.weights(x)[subject.query].view(heads, -1)
        assert np.allclose(points.weights, weights.softmax(-1).detach(), atol=1e-6)
        total, n = torch.zeros(heads, values.shape[-1]), 0
        for a in range(heads):
            for s, level in enumerate(points.levels.tolist()):
                wanted = [
                    (centre + offset * 0.5 / part.points[level] * side) * length
                    for centre, offset, side, length in zip((cx, cy), offsets[n : n + 2], (w, h), size[::-1])
                ]
                assert np.allclose(points.xy[a, s], wanted, atol=1e-3)
                n += 2
                rows, columns = memory.grids[0, level].tolist()
                first = int(memory.starts[0, level])
                level_map = values[first : first + rows * columns, a].T.unflatten(1, (rows, columns))
                # grid_sample takes -1 to 1 for the whole map
                place = torch.from_numpy(points.xy[a, s]) * step / points.strides[level]
                place = place / torch.tensor([columns, rows])
                sampled = F.grid_sample(level_map[None], (2 * place - 1).view(1, 1, 1, 2), align_corners=False)
                total[a] += float(points.weights[a, s]) * sampled.flatten()
        assert torch.allclose(output.inputs[0][subject.query], total.flatten(), atol=1e-4)
        x1, y1, x2, y2 = points.reference_xyxy.tolist()
        assert np.allclose([x1 + x2, y2 - y1], [2 * cx * size[1], h * size[0]], atol=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_queries_of_plain_detr(size):
    """PyTorch's own weights, which it returns where it is asked for them."""
    detector = make_detector("PlainDETRHead")
    part = detector.head.layers[-1].cross_attention
    with Inputs(part) as call:
        found = explain(detector, picture(size), objects=[0, 3])
    with torch.no_grad():
        _, weights = part(*call.inputs, need_weights=True, average_attn_weights=False)
    for subject in found.subjects:
        (one,) = subject.query_maps
        assert np.allclose(one.weights.reshape(4, -1), weights[0, :, subject.query], atol=1e-6)
        assert np.allclose(one.rest, 0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_queries_of_a_mask_decoder(size):
    detector = make_detector("MaskDecoderHead")
    # the layers look at the coarsest level first
    outputs = [Inputs(layer.proj) for layer in detector.head.layers]
    seen, _ = run(detector, picture(size))
    assert [(grid, stride) for _, grid, stride in seen.levels] == list(zip(seen.grids[::-1], (32, 16, 8)))
    for (attention, _, _), output in zip(seen.levels, outputs):
        for query in range(10):
            weights = attention.weights(query)
            assert torch.allclose(weights.sum(-1), torch.ones(4), atol=1e-5)
            wanted = torch.einsum("hm,mhd->hd", weights, attention.v).flatten()
            assert torch.allclose(output.inputs[0][0, query], wanted, atol=1e-5)


def test_queries_inside_the_vit():
    """Queries of EoMT stand in front of the tokens; patches after them have the same place as in other blocks."""
    detector = make_detector("EoMTHead")
    norms = [Inputs(block.attn.norm) for block in detector.backbone.trunk.blocks]
    found = explain(detector, picture(), objects=[0], points=[(40, 20)], blocks="all")
    seen, _ = run(detector, picture())
    query, prefix = found.subjects[0].query, detector.backbone.trunk.num_prefix
    assert [one.name for one in found.subjects[0].query_maps] == ["block 2", "block 3"]
    for i, one in zip((2, 3), found.subjects[0].query_maps):
        weights = seen.blocks[i].weights(query)
        assert np.allclose(one.weights.reshape(2, -1), weights[:, 10 + prefix :], atol=1e-6)
        wanted = torch.einsum("hm,mhd->hd", weights, seen.blocks[i].v).flatten()
        assert torch.allclose(norms[i].inputs[0][query], wanted, atol=1e-5)
    grid = found.subjects[0].query_maps[0].weights.shape[1:]
    # x 40 of 80 and y 20 of 48 are in the middle of six columns and four rows
    row = 10 + prefix + 1 * grid[1] + 3
    assert np.allclose(
        found.subjects[1].blocks[3].weights.reshape(2, -1), seen.blocks[3].weights(row)[:, 10 + prefix :]
    )


@pytest.mark.parametrize("head", ["MaskDecoderHead", "EoMTHead"])
def test_the_surest_query_at_a_point(head):
    detector, image, (x, y) = make_detector(head), picture(), (61, 30)
    _, outputs = run(detector, image)
    ((scores, masks),) = detector.head._found(outputs, [image.shape[:2]])
    wanted = scores.amax(1) * masks(torch.arange(10))[:, y, x].sigmoid()
    found = explain(detector, image, points=[(x + 0.5, y + 0.5)])
    assert found.subjects[0].query == int(wanted.argmax()) and found.subjects[0].query_maps


@pytest.mark.parametrize("head", HEADS)
def test_the_prediction_is_the_same_and_nothing_stays_in_the_model(head, tmp_path):
    detector, image = make_detector(head), picture()
    before = detector.predict(image)
    found = explain(detector, image)
    after = detector.predict(image)
    for one in (found.prediction, after):
        assert torch.equal(one.boxes_xyxy, before.boxes_xyxy) and torch.equal(one.scores, before.scores)
        assert one.describe() == before.describe()
    with pytest.raises(RuntimeError), watching(detector.backbone, detector.head, [0]):
        raise RuntimeError
    modules = (*detector.backbone.modules(), *detector.head.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in modules)
    files = write_page(found, tmp_path)
    assert len(files) > len(found.subjects) * 5 and all(file.is_file() for file in files)


@pytest.mark.parametrize("head", ["DETRHead with masks", "MaskDecoderHead", "EoMTHead"])
def test_the_query_is_that_of_the_object(head):
    """Its own mask and score are those of the object."""
    detector, image = make_detector(head), picture()
    _, outputs = run(detector, image)
    prediction = detector.predict(image)
    for one, query in zip(prediction, prediction.queries.tolist()):
        if head.startswith("DETR"):
            assert abs(outputs.logits[-1, 0, 0, query, one.label].sigmoid().item() - one.score) < 1e-6
            continue
        ((scores, masks),) = detector.head._found(outputs, [image.shape[:2]])
        logits = masks(torch.tensor([query]))[0]
        sure = logits.sigmoid()[logits > 0].sum() / max(int((logits > 0).sum()), 1)
        assert torch.equal(logits > 0, one.mask) and abs(float(scores[query, one.label] * sure) - one.score) < 1e-5


def test_what_was_learned_is_looked_at():
    """A model that has learned an image looks at each object for it: more than by chance."""
    image = np.full((64, 96, 3), 90, np.uint8)
    boxes = [(8, 8, 32, 32), (56, 24, 88, 56)]
    for (x1, y1, x2, y2), colour in zip(boxes, ((230, 40, 40), (40, 230, 40))):
        image[y1:y2, x1:x2] = colour
    detector = make_detector("MaskDecoderHead")
    from vitdet.structures import Target

    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    xyxy = torch.tensor(boxes) / torch.tensor([96, 64, 96, 64])
    cxcywh = torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)
    target = Target(cxcywh, torch.tensor([0, 1]), (64, 96), (64, 96), masks=masks)
    x, model = detector.transform(image), torch.nn.ModuleList([detector.backbone, detector.head]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(100):
        losses = detector.head.loss(detector.head(detector.backbone([x]), [target]), [target])
        optimizer.zero_grad()
        detector.head.total(losses).backward()
        optimizer.step()
    model.eval()
    found = explain(detector, image, objects=[0, 1])
    assert {found.prediction[i].label for i in (0, 1)} == {0, 1}
    for subject in found.subjects:
        x1, y1, x2, y2 = boxes[found.prediction[subject.number].label]
        for one in subject.query_maps:
            heat = F.interpolate(torch.from_numpy(one.weights.mean(0))[None, None], (64, 96), mode="nearest")[0, 0]
            share = float(heat[y1:y2, x1:x2].sum() / heat.sum())
            assert share > 3 * (x2 - x1) * (y2 - y1) / (64 * 96)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"objects": [99]}, "there is no object 99: .* of at least the threshold were found, 0 to"),
        ({"objects": [0], "threshold": 1.0}, "there is no object 0: 0 .* a lower threshold finds more"),
        ({"objects": [-1]}, "there is no object -1"),
        ({"points": [(80, 3)]}, "the point 80,3 is not in the image, which is 80×48 pixels"),
        ({"points": [(float("nan"), 3)]}, "the point nan,3 is not in the image"),
        ({"blocks": [4]}, "there is no block 4: the ViT has 0 to 3, and -1 is the last"),
        ({"threshold": 2}, "threshold"),
    ],
)
def test_what_does_not_exist(options, text):
    with pytest.raises(UserError, match=text):
        explain(make_detector(), picture(), **options)


def test_what_has_no_inside():
    with pytest.raises(UserError, match="give the checkpoint of the model"):
        explain(object(), picture())


def test_semantic_maps(tmp_path):
    found = explain(make_detector("SemanticHead"), picture())
    assert all(subject.title.startswith("class ") and subject.query is None for subject in found.subjects)
    with pytest.raises(UserError, match="has no objects; name places in it"):
        explain(make_detector("SemanticHead"), picture(), objects=[0])


def test_nothing_found(tmp_path):
    found = explain(make_detector(), picture(), threshold=1.0)
    page = write_page(found, tmp_path / "page.html")[0].read_text(encoding="utf-8")
    assert not found.subjects and "a lower threshold finds more" in page


def test_a_single_head(tmp_path):
    found = explain(make_detector(), picture(), objects=[0])
    assert "head 1" in write_page(found, tmp_path / "page.html", head=1)[0].read_text(encoding="utf-8")
    with pytest.raises(UserError, match="there is no head 2 of all the attention that is shown: it has 0 to 1"):
        write_page(found, tmp_path / "page.html", head=2)
