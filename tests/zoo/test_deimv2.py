"""DEIMv2 against transformers, with random weights.

Its loss is given what the authors give theirs (`arranged`): the first guess has no edges, and the last layer has.
"""

import functools
from importlib.metadata import version

import numpy as np
import pytest
import torch
from deimv2_oracle import authors, randomise, reference
from detr_oracle import alone, distinct_images, distinct_picture, gradients_of, ours, same_gradients
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2
from transformers import Deimv2Config, RTDetrImageProcessor
from transformers.loss.loss_deimv2 import Deimv2Loss

import vitdet
from vitdet import zoo
from vitdet.backbone.keys import KeysError, check_complete
from vitdet.heads.deim.criterion import DEIMCriterion, DEIMOutputs
from vitdet.heads.deim.decoder import Decoded
from vitdet.heads.deim.edges import boxes_from_edges
from vitdet.losses.detection import Noised, Proposals
from vitdet.structures import Target
from vitdet.zoo.deimv2 import SIZES


@pytest.mark.parametrize("name", SIZES)
def test_every_full_size_model_maps_completely(name):
    with torch.device("meta"):
        model = reference(name)
        own = zoo.find(f"deimv2-{name}").build()
    check_complete(zoo.find(f"deimv2-{name}").convert(authors(model.state_dict(), name)), own)


@pytest.mark.parametrize(
    ("name", "sides"), [(name, (640, 640)) for name in SIZES] + [("s", (256, 384)), ("l", (160, 96))]
)
@torch.no_grad()
def test_outputs_are_those_of_transformers(name, sides, parity):
    model = randomise(reference(name)).eval()
    own = ours(f"deimv2-{name}", authors(model.state_dict(), name)).eval()
    images = distinct_images(own, *sides, count=1 if max(sides) > 400 else 2)
    wanted = model(images)
    features = own["backbone"](images)
    levels = [(torch.stack(level.maps()), map_) for level, map_ in zip(features, wanted.encoder_last_hidden_state)]
    outputs = {f"level {i}": pair for i, pair in enumerate(levels)}
    found = own["head"](features)
    outputs["logits"] = (found.logits[-1, :, 0], wanted.logits)
    outputs["boxes"] = (found.boxes_cxcywh[-1, :, 0], wanted.pred_boxes)
    oracle, where = f"transformers {version('transformers')}, put right", f"{sides[1]}×{sides[0]}"
    theirs = authors(model.state_dict(), name)
    parity(f"deimv2-{name}", oracle, theirs, own.state_dict(), where, **outputs)


def test_predictions_are_those_of_transformers(tmp_path):
    """From the image file on, through a file as the authors write it."""
    model = randomise(reference("s")).eval()
    save_file(
        {key: value.contiguous() for key, value in authors(model.state_dict(), "s").items()}, tmp_path / "s.safetensors"
    )
    detector = vitdet.load("deimv2-s", checkpoint=tmp_path / "s.safetensors", device="cpu")
    picture = distinct_picture(detector)
    picture.save(tmp_path / "image.png")
    found = detector.predict(tmp_path / "image.png", threshold=0)
    pixels = detector.transform(np.asarray(picture))[None]
    steps = [v2.Resize([640, 640]), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    theirs = v2.Compose([*steps, v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])(picture)
    assert (pixels[0] - theirs).abs().max() < 1.1 / 255 / 0.224  # theirs are rounded to whole numbers in between
    with torch.no_grad():
        outputs = model(pixels)
    outputs.logits, outputs.pred_boxes = outputs.logits[:, :300], outputs.pred_boxes[:, :300]
    sizes = torch.tensor([picture.size[::-1]])
    (wanted,) = RTDetrImageProcessor().post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    assert len(found) == len(wanted["scores"]) == 300
    torch.testing.assert_close(found.scores, wanted["scores"], atol=1e-6, rtol=1e-4)
    clear = alone(wanted["scores"])
    assert torch.equal(found.labels[clear], wanted["labels"][clear])
    inside = wanted["boxes"].clamp(min=0).minimum(sizes.flip(1).repeat(1, 2))
    torch.testing.assert_close(found.boxes_xyxy[clear], inside[clear], atol=1e-2, rtol=1e-4)


def make_targets(counts):
    """Ours and theirs."""
    generator = torch.Generator().manual_seed(3)
    targets, theirs = [], []
    for count in counts:
        boxes = torch.rand(count, 4, generator=generator) * 0.3 + 0.2
        labels = torch.randint(80, (count,), generator=generator)
        targets.append(Target(boxes, labels, (96, 96), (96, 96)))
        theirs.append({"boxes": boxes, "class_labels": labels})
    return targets, theirs


def layered(logits, boxes, corners, references):
    """A first guess and L layers `(B, 1 + L, …)`, with edges and references of the layers, as a list of dicts, of which
    the last is the first guess."""
    teacher = {"teacher_corners": corners[:, -1], "teacher_logits": logits[:, -1]}
    sets = [
        {"logits": logits[:, i + 1], "pred_boxes": boxes[:, i + 1], "pred_corners": corners[:, i], **teacher}
        | {"ref_points": references[:, i]}
        for i in range(corners.shape[1])
    ]
    return [*sets, {"logits": logits[:, 0], "pred_boxes": boxes[:, 0]}]


def arranged(found):
    """What transformers' model found, as the authors' loss takes it."""
    *layers, last, guess = layered(
        found.intermediate_logits,
        found.intermediate_reference_points,
        found.intermediate_predicted_corners,
        found.initial_reference_points,
    )
    proposals = {"logits": found.enc_topk_logits, "pred_boxes": found.enc_topk_bboxes}
    return {**last, "auxiliary_outputs": [*layers, guess, proposals]}


TERMS = {"class": "mal", "box": "bbox", "giou": "giou", "fgl": "fgl", "ddf": "ddf"}


def same_terms(found, wanted, weights, prefix, suffixes):
    for name, theirs in TERMS.items():
        keys = [f"loss_{theirs}{suffix}" for suffix in suffixes if f"loss_{theirs}{suffix}" in wanted]
        if prefix + name in found:
            term = sum(wanted[key] for key in keys)
            torch.testing.assert_close(weights[prefix + name] * found[prefix + name], term, rtol=1e-3, atol=1e-6)
        else:
            assert not any(wanted[key] for key in keys)


def test_training_gives_the_authors_losses_and_gradients(monkeypatch):
    stable = functools.partial(torch.argsort, stable=True)  # of two objects that a query has equally often, the first
    monkeypatch.setattr(torch, "argsort", stable)
    model = randomise(reference("l", num_queries=60, num_denoising=0)).train()
    model.model.enc_score_head.weight.data.mul_(
        0.02
    )  # they match by p + 1e-8, which is another thing where p is 0 or 1
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    own = ours("deimv2-l", authors(model.state_dict(), "l"), num_queries=60, denoising=0).train()
    images = distinct_images(own, 96, 128)
    targets, labels = make_targets((5, 3))
    wanted = Deimv2Loss(model.config)(arranged(model.model(images)), labels)
    sum(wanted.values()).backward()
    head = own["head"]
    found = head.loss(head(own["backbone"](images), targets), targets)
    head.total(found).backward()
    same_terms(found, wanted, head.loss_weights, "", [""])
    same_terms(found, wanted, head.loss_weights, "aux_", [f"_aux_{i}" for i in range(4)])
    same_terms(found, wanted, head.loss_weights, "enc_", ["_aux_4"])
    gradients = {name: p.grad for name, p in own.named_parameters()}
    same_gradients(gradients, zoo.find("deimv2-l").convert(authors(gradients_of(model), "l")))


def random_decoded(queries, *, layers=3, classes=80):
    edges, references = torch.randn(layers, queries, 4, 33), torch.rand(queries, 4) * 0.3 + 0.3
    boxes = torch.stack([references, *(boxes_from_edges(edge, references) for edge in edges)])
    return Decoded(torch.randn(1 + layers, queries, classes), boxes, edges, references)


def test_denoising_gives_the_authors_losses():
    torch.manual_seed(0)
    targets, labels = make_targets((4,))
    queries, noised = random_decoded(20), random_decoded(3 * 8)  # three groups of positives and negatives
    matched = torch.cat([torch.arange(4) + 8 * group for group in range(3)])
    given = Noised(
        torch.zeros(24, 8), noised.references_cxcywh, torch.zeros(24), [8] * 3, matched, torch.arange(4).repeat(3)
    )
    logits, boxes = queries.logits.view(4, 1, 1, 20, 80), queries.boxes_cxcywh.view(4, 1, 1, 20, 4)
    outputs = DEIMOutputs(logits, boxes, proposals=Proposals(None, logits[0], boxes[0]), noised=given)
    outputs.decoded, outputs.noised_decoded = queries, noised
    criterion = DEIMCriterion("mal", None)
    found = criterion(outputs, targets)
    theirs = [
        layered(d.logits[None], d.boxes_cxcywh[None], d.edges.flatten(2)[None], d.references_cxcywh.expand(1, 3, -1, 4))
        for d in (queries, noised)
    ]
    theirs = {**theirs[0][2], "auxiliary_outputs": theirs[0][:2], "dn_auxiliary_outputs": theirs[1]}
    theirs["denoising_meta_values"] = {"dn_positive_idx": [matched], "dn_num_group": 3}
    config = Deimv2Config(num_labels=80, focal_loss_gamma=1.5)
    same_terms(found, Deimv2Loss(config)(theirs, labels), criterion.weights, "dn_", [f"_dn_{i}" for i in range(4)])


def test_other_distances_of_the_edges_are_refused():
    state = {"decoder.decoder.up": torch.tensor([0.5]), "decoder.decoder.reg_scale": torch.tensor([8.0])}
    with pytest.raises(KeysError, match="reg_scale is 8, wanted 4"):
        zoo.find("deimv2-s").convert(state)
