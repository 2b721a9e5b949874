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
    """Sorts the trained parameters into optimiser groups by learning rate and weight decay.

    There is no weight decay for norms, for biases, and for the parameters that the backbone's `no_weight_decay()` names
    (position embeddings and prefix tokens). Frozen parameters are left out.

    Args:
        backbone: Module with `layer_ids()`, the layer number of each parameter, and `no_weight_decay()`.
        head: Module with `num_classes`.
        lr: Learning rate of the head.
        weight_decay: Weight decay of the parameters that have any.
        layer_decay: Each block of the ViT has the learning rate of the block above it times this factor, as in BEiT
            (Bao et al. 2021, arXiv:2106.08254).
        backbone_lr: Learning rate of the backbone, as a multiple of `lr`.
        trunk_lr: Learning rate of the ViT including its last norm, as a multiple of the backbone's.
        matrices: Whether weight matrices get separate groups with `matrices=True`, for `Muon`.

    Returns:
        Parameter groups, as `torch.optim` expects them, with an additional key `matrices`.
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
                # the last norm of the ViT has the layer number of the neck
                in_trunk = below or name.startswith("trunk.")
                scale = backbone_lr * layer_decay**below * (trunk_lr if in_trunk else 1.0)
                decayed = decayed and name not in exempt
            groups.setdefault((scale, decayed, id(parameter) in inner), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * scale, "weight_decay": weight_decay * decayed, "matrices": matrix}
        for (scale, decayed, matrix), parameters in groups.items()
    ]


def inner_matrices(backbone: nn.Module, head: nn.Module) -> set[int]:
    """Returns the `id` of each weight that Muon updates.

    These are weights of linear and convolutional layers, except classification layers and matrices with fewer than 16
    rows or columns. Embeddings are not among them.
    """
    layers = [m for part in (backbone, head) for m in part.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    # some heads have an additional class for "no object"
    outputs = {head.num_classes, head.num_classes + 1}
    return {id(m.weight) for m in layers if min(m.weight.flatten(1).shape) >= 16 and len(m.weight) not in outputs}


def is_scaled(trainer: L.Trainer) -> bool:
    """Whether a gradient scaler is in use, for float16.

    Scaled gradients must be unscaled before they are clipped, but a fused optimiser unscales them in its step, after
    that.
    """
    return getattr(trainer.precision_plugin, "scaler", None) is not None


MULTIPLE: Rule = (
    number(0, without=[0])[0],
    "a multiple above 0; for a backbone that does not learn set model.backbone.freeze: all",
)
# the ranges of the training arguments of `Task`
RANGES: dict[str, Rule] = {
    "optimizer": (lambda v: v in ("muon", "adamw"), "muon or adamw"),
    "lr": (number(0, without=[0])[0], "a number above 0, for example 2e-4"),
    "backbone_lr": MULTIPLE,
    "trunk_lr": MULTIPLE,
    "layer_decay": number(0, 1, without=[0]),
    "weight_decay": number(0),
    "betas": so_many(2, number(0, 1, without=[1]), "two numbers from 0 to below 1, for example [0.9, 0.999]"),
}
