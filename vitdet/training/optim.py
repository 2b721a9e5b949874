"""Parameter groups: which weights share a learning rate and a weight decay."""

import lightning as L
from torch import nn

from vitdet.ranges import Rule, number, so_many


def parameter_groups(
    backbone: nn.Module,
    head: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    backbone_lr: float = 1.0,
    trunk_lr: float = 1.0,
    matrices: bool = False,
) -> list[dict]:
    """Optimiser groups: one per learning rate and weight decay.

    Norms, biases and whatever the backbone's `no_weight_decay()` names (position embeddings, prefix tokens) are not decayed. The backbone
    learns at `lr * backbone_lr`, its ViT, the last norm included, at `trunk_lr` of that, and each block below the last at `layer_decay` times the
    rate of the block above it, as in BEiT, Bao et al. 2021 (arXiv:2106.08254). Frozen parameters are left out. With `matrices`, the groups say which of them
    are matrices for Muon.
    """
    groups: dict[tuple, list[nn.Parameter]] = {}
    exempt, layers = set(backbone.no_weight_decay()), backbone.layer_ids()
    last = max(layers.values(), default=0)
    inner = inner_matrices(backbone, head) if matrices else set()
    for part, module in (("backbone", backbone), ("head", head)):
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            scale, decayed = 1.0, parameter.ndim > 1
            if part == "backbone":
                below = last - layers[name]
                in_trunk = below or name.startswith(
                    "trunk."
                )  # the trunk's last norm counts as a layer of the neck's depth
                scale = backbone_lr * layer_decay**below * (trunk_lr if in_trunk else 1.0)
                decayed = decayed and name not in exempt
            groups.setdefault((scale, decayed, id(parameter) in inner), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * scale, "weight_decay": weight_decay * decayed, "matrices": matrix}
        for (scale, decayed, matrix), parameters in groups.items()
    ]


def inner_matrices(backbone: nn.Module, head: nn.Module) -> set[int]:
    """Ids of the weights that Muon takes: of linear and convolutional layers, neither embeddings, nor the last layer to the classes, nor thin."""
    layers = [m for part in (backbone, head) for m in part.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    outputs = {head.num_classes, head.num_classes + 1}  # one more where "nothing" is a class
    return {id(m.weight) for m in layers if min(m.weight.flatten(1).shape) >= 16 and len(m.weight) not in outputs}


def is_scaled(trainer: L.Trainer) -> bool:
    """Whether gradients are multiplied for float16: they must be divided again before they are clipped, and a fused step does so only after."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


MULTIPLE: Rule = (
    number(0, without=[0])[0],
    "a multiple above 0; for a backbone that does not learn set model.backbone.freeze: all",
)
RANGES: dict[str, Rule] = {  # of the arguments of a `Task` that say how it learns
    "optimizer": (lambda v: v in ("muon", "adamw"), "muon or adamw"),
    "lr": (number(0, without=[0])[0], "a number above 0, for example 2e-4"),
    "backbone_lr": MULTIPLE,
    "trunk_lr": MULTIPLE,
    "layer_decay": number(0, 1, without=[0]),
    "weight_decay": number(0),
    "betas": so_many(2, number(0, 1, without=[1]), "two numbers from 0 to below 1, for example [0.9, 0.999]"),
}
