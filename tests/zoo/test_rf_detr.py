"""RF-DETR against its authors' own package, with random weights."""

import logging
from importlib.metadata import version

import pytest
import torch
from detr_oracle import (
    TERMS,
    alone,
    distinct_images,
    distinct_picture,
    gradients_of,
    make_targets,
    ours,
    same_gradients,
    same_losses,
)
from rfdetr import RFDETRNano, RFDETRSegNano, config
from rfdetr.models import criterion as their_criterion
from rfdetr.models.lwdetr import build_criterion_from_config, build_model_from_config
from rfdetr.utilities.tensors import nested_tensor_from_tensor_list

import vitdet
from vitdet import zoo
from vitdet.backbone.keys import check_complete
from vitdet.data.label_sets.coco import IDS
from vitdet.losses import points as our_masks
from vitdet.losses.detection import SetCriterion
from vitdet.zoo.rf_detr import SIZES

logging.getLogger("rfdetr").setLevel(logging.ERROR)
CONFIGS = {
    "nano": config.RFDETRNanoConfig,
    "small": config.RFDETRSmallConfig,
    "medium": config.RFDETRMediumConfig,
    "large": config.RFDETRLargeConfig,
    "base": config.RFDETRBaseConfig,
    "seg-nano": config.RFDETRSegNanoConfig,
    "seg-small": config.RFDETRSegSmallConfig,
    "seg-medium": config.RFDETRSegMediumConfig,
    "seg-large": config.RFDETRSegLargeConfig,
}


def reference(size, **options):
    """The authors' model with random weights, which starts from far less regular ones than theirs."""
    options = CONFIGS[size](num_classes=90, device="cpu", pretrain_weights="none", **options)
    return randomise(build_model_from_config(options)), options


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    unused = [i for i in range(91) if i not in IDS]
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "lambda" in name:
                p.copy_(1 + 0.1 * noise)
            else:
                p.add_((0.02 if p.ndim > 1 else 0.1) * noise)
        for layer in (model.class_embed, *model.transformer.enc_out_class_embed):
            layer.bias[unused] = -1e4  # numbers that are no class of COCO: trained to 0, and left out by us
    return model


@pytest.mark.parametrize("size", CONFIGS)
def test_every_full_size_model_maps_completely(size):
    with torch.device("meta"):
        model = build_model_from_config(CONFIGS[size](num_classes=90, device="cpu", pretrain_weights="none"))
        check_complete(zoo.find(f"rf-detr-{size}").convert(model.state_dict()), zoo.find(f"rf-detr-{size}").build())


NATIVE = [(name, (size.side, size.side)) for name, size in SIZES.items()]


@pytest.mark.parametrize(("size", "sides"), [*NATIVE, ("nano", (256, 384)), ("seg-nano", (192, 384))])
@torch.no_grad()
def test_outputs_are_those_of_the_authors_code(size, sides, parity):
    model, _ = reference(size)
    model.eval()
    own = ours(f"rf-detr-{size}", model.state_dict()).eval()
    images = distinct_images(own, *sides, count=1 if max(sides) > 400 else 2)
    wanted = model(nested_tensor_from_tensor_list([*images]))
    found = own["head"](own["backbone"](images))
    outputs = {"logits": (found.logits[-1, :, 0], wanted["pred_logits"][..., IDS])}
    outputs["boxes"] = (found.boxes_cxcywh[-1, :, 0], wanted["pred_boxes"])
    if found.masks is not None:
        pixels = torch.stack(found.masks.pixels[-1].maps())
        masks = torch.einsum("bqc,bchw->bqhw", found.masks.embeddings[-1, :, 0], pixels)
        outputs["masks"] = (masks, wanted["pred_masks"])
    oracle, where = f"rfdetr {version('rfdetr')}", f"{sides[1]}×{sides[0]}"
    parity(f"rf-detr-{size}", oracle, model.state_dict(), own.state_dict(), where, **outputs)


@pytest.mark.parametrize(("size", "cls"), [("nano", RFDETRNano), ("seg-nano", RFDETRSegNano)])
def test_predictions_are_those_of_the_authors_code(size, cls, tmp_path):
    """From the image file on, through a checkpoint as they write it."""
    theirs = cls(pretrain_weights=None, device="cpu", num_classes=90)
    randomise(theirs.model.model)
    torch.save({"model": theirs.model.model.state_dict()}, tmp_path / "weights.pth")
    detector = vitdet.load(f"rf-detr-{size}", checkpoint=tmp_path / "weights.pth", device="cpu")
    image = distinct_picture(detector)
    image.save(tmp_path / "image.png")
    found = detector.predict(tmp_path / "image.png", threshold=0)
    wanted = theirs.predict(image, threshold=0.0)
    assert len(found) == len(wanted) == detector.head.num_queries
    scores = torch.from_numpy(wanted.confidence)
    torch.testing.assert_close(found.scores, scores, atol=1e-6, rtol=1e-4)
    clear = alone(scores)
    assert [found.category_ids[i] for i in found.labels[clear]] == wanted.class_id[clear.numpy()].tolist()
    torch.testing.assert_close(found.boxes_xyxy[clear], torch.from_numpy(wanted.xyxy)[clear], atol=1e-2, rtol=1e-4)
    if found.masks is not None:
        differ = (found.masks[clear] != torch.from_numpy(wanted.mask)[clear]).float().mean()
        assert differ < 1e-5, f"{differ:.1e} of the pixels"


def same_points(monkeypatch, criterion, count):
    """Both models compute mask losses at `points`, and match by class and box alone, because their points are random,
    and drawn in another way than ours."""
    points = torch.rand(count, 2, generator=torch.Generator().manual_seed(4))
    name = "get_uncertain_point_coords_with_randomness"
    monkeypatch.setattr(their_criterion, name, lambda masks, *_: points.expand(len(masks), -1, -1))
    criterion.matcher.cost_mask_ce = criterion.matcher.cost_mask_dice = 0
    monkeypatch.setattr(our_masks, "mask_points", lambda *_: points)
    monkeypatch.setattr(our_masks, "important_points", lambda logits, _: torch.arange(count).expand(len(logits), -1))
    monkeypatch.setattr(SetCriterion, "_mask_costs", lambda *_: None)


@pytest.mark.parametrize(("size", "side"), [("nano", 384), ("seg-nano", 312)])
def test_training_gives_the_authors_losses_and_gradients(size, side, monkeypatch):
    model, options = reference(size, group_detr=2, num_queries=50)
    train = config.SegmentationTrainConfig if "seg" in size else config.TrainConfig
    criterion, _ = build_criterion_from_config(options, train(dataset_dir=".", output_dir="."))
    if "seg" in size:
        same_points(monkeypatch, criterion, 400)
    own = ours(f"rf-detr-{size}", model.state_dict(), groups=2, num_queries=50).train()
    images = distinct_images(own, side, side)
    targets, theirs = make_targets(side)
    if "seg" not in size:
        theirs = [{"boxes": one["boxes"], "labels": one["labels"]} for one in theirs]
    wanted = criterion(model.train()(nested_tensor_from_tensor_list([*images]), theirs), theirs)
    sum(wanted[name] * weight for name, weight in criterion.weight_dict.items() if name in wanted).backward()
    head = own["head"]
    found = head.loss(head(own["backbone"](images), targets), targets)
    head.total(found).backward()
    same_losses(found, wanted, TERMS if "seg" in size else ["class", "box", "giou"], len(head.decoder.layers))
    same_gradients(gradients_of(own), zoo.find(f"rf-detr-{size}").convert(gradients_of(model)))
