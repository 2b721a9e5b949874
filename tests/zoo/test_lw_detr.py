"""LW-DETR against transformers, with random weights."""

import re
from importlib.metadata import version

import pytest
import torch
from detr_oracle import (
    alone,
    distinct_images,
    distinct_picture,
    gradients_of,
    make_targets,
    ours,
    same_gradients,
    same_losses,
)
from safetensors.torch import save_file
from transformers import DeformableDetrImageProcessor, LwDetrConfig, LwDetrForObjectDetection
from transformers.models.lw_detr.modeling_lw_detr import LwDetrModel

import vitdet
from vitdet import zoo
from vitdet.backbone.keys import check_complete
from vitdet.data.label_sets.coco import IDS
from vitdet.zoo.lw_detr import SIZES

WIDTHS = {"tiny": 192, "small": 192, "medium": 384, "large": 384, "xlarge": 768}
ONE_LEVEL = {"projector_scale_factors": [1.0], "decoder_n_points": 2}
TWO_LEVELS = {
    "projector_scale_factors": [2.0, 0.5],
    "d_model": 384,
    "decoder_self_attention_heads": 12,
    "decoder_cross_attention_heads": 24,
    "decoder_n_points": 4,
}


# names in files that transformers wrote before they changed (its conversion_mapping.py)
BEFORE = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output"}


def build(size, **options):
    """The model of transformers, whose `out_indices` begin with the embeddings, so they are the blocks' numbers plus
    1."""
    small = size == "tiny"
    backbone = {
        "model_type": "lw_detr_vit",
        "hidden_size": WIDTHS[size],
        "num_hidden_layers": 6 if small else 10,
        "window_block_indices": [0, 2, 4] if small else [0, 1, 3, 6, 7, 9],
        "out_indices": [2, 4, 6] if small else [3, 5, 6, 10],
    }
    levels = TWO_LEVELS if size in ("large", "xlarge") else ONE_LEVEL
    config = {"num_labels": 91, "num_queries": 100 if small else 300, **levels, **options}
    return LwDetrForObjectDetection(LwDetrConfig(backbone_config=backbone, **config))


def reference(size, **options):
    """The same with random weights, which starts from far less regular ones than theirs."""
    return randomise(build(size, **options))


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    unused = [i for i in range(91) if i not in IDS]
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.dtype.is_floating_point:
                noise = torch.randn(value.shape, generator=generator)
                value.add_((0.02 if value.ndim > 1 else 0.1) * noise)
            if name.endswith("running_var"):
                value.abs_().add_(0.1)
        for layer in (model.class_embed, *model.model.enc_out_class_embed):
            layer.bias[unused] = -50.0  # numbers that are no class of COCO: trained to 0, and left out by us
    return model


@pytest.fixture
def border_counts(monkeypatch):
    """Lets tokens at the border become queries, as in the authors' code: transformers excludes them, which makes it
    another model if levels are fine."""
    own = LwDetrModel.gen_encoder_output_proposals

    def authors(*arguments):
        tokens, proposals, invalid = own(*arguments)
        return tokens, proposals, torch.zeros_like(invalid)

    monkeypatch.setattr(LwDetrModel, "gen_encoder_output_proposals", authors)


def authors_names(state):
    """By the names of the modules of github.com/Atten4Vis/LW-DETR, models/."""
    renames = [
        (r"^model\.backbone\.backbone\.embeddings\.position_embeddings", "backbone.0.encoder.pos_embed"),
        (r"^model\.backbone\.backbone\.embeddings\.projection", "backbone.0.encoder.patch_embed.proj"),
        (r"^model\.backbone\.backbone\.encoder\.layer", "backbone.0.encoder.blocks"),
        (r"attention\.o_proj", "attn.proj"),
        (r"attention\.([qv])_proj\.bias", r"attn.\1_bias"),
        (r"intermediate\.", "mlp."),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (
            r"^model\.backbone\.projector\.scale_layers\.(\d+)\.sampling_layers",
            r"backbone.0.projector.stages_sampling.\1",
        ),
        (r"(stages_sampling.*)\.layers\.", r"\1."),
        (r"^model\.backbone\.projector\.scale_layers\.(\d+)\.layer_norm", r"backbone.0.projector.stages.\1.1"),
        (r"^model\.backbone\.projector\.scale_layers\.(\d+)\.projector_layer", r"backbone.0.projector.stages.\1.0"),
        (r"bottlenecks", "m"),
        (r"(projector.*)conv([12])\.", r"\1cv\2."),
        (r"(projector.*)\.norm\.", r"\1.bn."),
        (r"^model\.decoder\.layernorm", "transformer.decoder.norm"),
        (r"^model\.(decoder|enc_out)", r"transformer.\1"),
        (r"self_attn_layer_norm", "norm1"),
        (r"cross_attn_layer_norm", "norm2"),
        (r"(layers\.\d+)\.layer_norm", r"\1.norm3"),
        (r"(transformer.*)mlp\.fc", r"\1linear"),
        (r"self_attn\.o_proj", "self_attn.out_proj"),
        (r"^model\.reference_point_embed", "refpoint_embed"),
        (r"^model\.", ""),
    ]
    theirs, parts = {}, {}
    for key, value in state.items():
        for pattern, name in renames:
            key = re.sub(pattern, name, key)
        if found := re.fullmatch(r"(.+)\.attention\.[qkv]_proj\.weight", key):
            parts.setdefault(f"{found[1]}.attn.qkv.weight", []).append(value)
        elif found := re.fullmatch(r"(.+\.self_attn)\.[qkv]_proj\.(weight|bias)", key):
            parts.setdefault(f"{found[1]}.in_proj_{found[2]}", []).append(value)
        else:
            theirs[key] = value
    return theirs | {key: torch.cat(values) for key, values in parts.items()}


@pytest.mark.parametrize("size", SIZES)
def test_every_full_size_model_maps_completely(size):
    with torch.device("meta"):
        card = zoo.find(f"lw-detr-{size}")
        check_complete(card.convert(build(size).state_dict()), card.build())


@pytest.mark.parametrize("size", ["tiny", "xlarge"])
def test_the_authors_names_say_the_same(size):
    state = build(size, group_detr=1).state_dict()
    by_authors = authors_names(state)
    assert "backbone.0.encoder.blocks.0.attn.q_bias" in by_authors and not any("model" in key for key in by_authors)
    for now, before in BEFORE.items():
        state = {key.replace(f"attention.{now}_proj.", f"attention.{before}."): value for key, value in state.items()}
    convert = zoo.find(f"lw-detr-{size}").convert
    found, wanted = convert(by_authors), convert(state)
    assert set(found) == set(wanted) and all(torch.equal(found[key], wanted[key]) for key in wanted)


def compare(parity, name, sides, model, own, images):
    wanted, found = model(images), own["head"](own["backbone"](images))
    outputs = {"logits": (found.logits[-1, :, 0], wanted.logits[..., IDS])}
    outputs["boxes"] = (found.boxes_cxcywh[-1, :, 0], wanted.pred_boxes)
    oracle, where = f"transformers {version('transformers')}", f"{sides[1]}×{sides[0]}"
    parity(name, oracle, model.state_dict(), own.state_dict(), where, **outputs)


NATIVE = [(size, (640, 640)) for size in SIZES]


@pytest.mark.parametrize(("size", "sides"), [*NATIVE, ("tiny", (384, 512)), ("large", (256, 448))])
@torch.no_grad()
def test_outputs_are_those_of_transformers(size, sides, border_counts, parity):
    model = reference(size, group_detr=1).eval()
    own = ours(f"lw-detr-{size}", model.state_dict(), groups=1).eval()
    images = distinct_images(own, *sides, count=1)
    compare(parity, f"lw-detr-{size}", sides, model, own, images)


@torch.no_grad()
def test_fine_levels_are_those_of_transformers_while_borders_score_low(parity):
    """Without `border_counts`: where no border token is among the best, as in a trained model, both choose the same."""
    model = reference("large", group_detr=1).eval()
    model.model.enc_output[0].bias.zero_()
    model.model.enc_output_norm[0].bias.zero_()
    own = ours("lw-detr-large", model.state_dict(), groups=1).eval()
    images = distinct_images(own, 320, 320, count=1)
    compare(parity, "lw-detr-large, borders left out", (320, 320), model, own, images)


def test_predictions_are_those_of_transformers(tmp_path):
    """From the image file on, through a file of weights as transformers writes it."""
    model = reference("tiny").eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    detector = vitdet.load("lw-detr-tiny", checkpoint=tmp_path / "model.safetensors", device="cpu")
    image = distinct_picture(detector)
    image.save(tmp_path / "image.png")
    found = detector.predict(tmp_path / "image.png", threshold=0)
    processor = DeformableDetrImageProcessor(size={"height": 640, "width": 640})
    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    (wanted,) = processor.post_process_object_detection(outputs, 0.0, torch.tensor([image.size[::-1]]))
    width, height = image.size
    limits = torch.tensor([width, height, width, height])
    scores, boxes = wanted["scores"], wanted["boxes"].clamp(min=0).minimum(limits)  # ours end where the image does
    assert len(found) == len(scores) == detector.head.num_queries
    torch.testing.assert_close(found.scores, scores, atol=1e-6, rtol=1e-4)
    clear = alone(scores)
    assert [found.category_ids[i] for i in found.labels[clear]] == wanted["labels"][clear].tolist()
    torch.testing.assert_close(found.boxes_xyxy[clear], boxes[clear], atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("size", ["tiny", "large"])
def test_training_gives_the_losses_and_gradients_of_transformers(size, border_counts):
    model = reference(size, group_detr=2, num_queries=50).train()
    for module in model.modules():  # batches' statistics are not used
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    own = ours(f"lw-detr-{size}", model.state_dict(), groups=2, num_queries=50).train()
    own["backbone"].eval()  # drop path
    images = distinct_images(own, 256, 256)
    targets, theirs = make_targets(256)
    labels = [{"boxes": one["boxes"], "class_labels": one["labels"]} for one in theirs]
    wanted = model(images, labels=labels).loss_dict
    weights = {"ce": 1, "bbox": 5, "giou": 2}
    sum(value * weights[name.split("_")[1]] for name, value in wanted.items() if name.startswith("loss")).backward()
    head = own["head"]
    found = head.loss(head(own["backbone"](images), targets), targets)
    head.total(found).backward()
    same_losses(found, wanted, ["class", "box", "giou"], 3)
    gradients = gradients_of(own)
    for name in [name for name in gradients if name.startswith("backbone.neck.resize") and name.endswith("proj.bias")]:
        gradients[name] = gradients[name].unflatten(0, (4, -1)).sum(0).repeat(4)  # theirs is one for four places
    same_gradients(gradients, zoo.find(f"lw-detr-{size}").convert(gradients_of(model)))
