"""The necks by the names that `Backbone` knows them by."""

from typing import Any

from torch import nn

from vitdet.backbone.csp import CSPNeck
from vitdet.backbone.hybrid import HybridNeck
from vitdet.backbone.neck import Projector, Pyramid
from vitdet.errors import UserError

NECKS = {"projector": Projector, "pyramid": Pyramid, "csp": CSPNeck, "hybrid": HybridNeck}
SEVERAL_TAPS = ("projector", "csp")  # the others read the last block only, if nothing else is said
ARGS = {"csp": {"norm"}, "hybrid": {"csp_channels", "ffn_dim", "num_heads"}}  # what only some of them take


def make_neck(name: str, *sizes: Any, args: dict[str, Any], **options: Any) -> nn.Module:
    """The neck of that name; `sizes` and `options` as all take them, `args` as only this one does.

    Raises:
        ValueError: an option does not fit.
    """
    known = ARGS.get(name, set())
    if unknown := set(args) - known:
        raise UserError(f"neck_args has {sorted(unknown)}; neck={name!r} takes {', '.join(sorted(known)) or 'none'}")
    return NECKS[name](*sizes, **options, **args)
