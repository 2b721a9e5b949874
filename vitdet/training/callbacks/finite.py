"""Values that are not finite: what is checked before weights are saved, and the error that ends a diverged training."""

import lightning as L
import torch

from vitdet.errors import UserError


class DivergedError(UserError, FloatingPointError):
    """The loss or the weights are not finite; the message names the step and the last good checkpoint."""


def finite(module: torch.nn.Module) -> bool:
    """Whether all weights are finite.

    The sum of a tensor is not finite if an element is not, so a single transfer of all sums from the device is enough.
    This takes a few hundredths of the time of a save.
    """
    sums = [weight.detach().sum(dtype=torch.float32) for weight in module.parameters()]
    return not sums or bool(torch.stack(sums).isfinite().all())


def check_finite(trainer: L.Trainer, kept: str) -> None:
    """Checks the weights on all ranks, which must call this together.

    Args:
        kept: what good weights are left, for the message.

    Raises:
        DivergedError: the weights are not finite on a rank.
    """
    good = finite(trainer.lightning_module)
    if trainer.world_size > 1:
        good = trainer.strategy.reduce_boolean_decision(good)
    if not good:
        advice = "try a lower learning rate (model.lr), or clip gradients (trainer.gradient_clip_val)"
        raise DivergedError(f"the weights are not finite at step {trainer.global_step}; {advice}; {kept}")
