"""Files of published weights, and what the key maps of several models do to their tensors.  # c, C channels"""

from pathlib import Path

from torch import Tensor

from vitdet.backbone.weights import read_weights
from vitdet.checkpoint import CheckpointError


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of any `.safetensors` or torch file, by name.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is cut off, or holds something else than tensors and plain values.
    """
    try:
        return read_weights(path)
    except RuntimeError as error:
        raise CheckpointError(str(error)) from error


def flat(weight: Tensor) -> Tensor:
    """A 1×1 convolution as a linear layer: `(C, c, 1, 1)` to `(C, c)`."""
    return weight.flatten(1)


def expand(weight: Tensor) -> Tensor:
    """A 2×2 transposed convolution of stride 2 as a linear layer: `(c, C, 2, 2)` to `(2*2*C, c)`."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2)


def expand_bias(bias: Tensor) -> Tensor:
    """That convolution's bias, once for each of its four places."""
    return bias.repeat(4)


def split_values(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the decoder's attention, `….self_attention.qkv.…`, as `qk` and `v`, which see different things."""
    split = {key: value for key, value in state.items() if ".self_attention.qkv." not in key}
    for key in state.keys() - split.keys():
        length = len(state[key]) // 3
        split[key.replace(".qkv.", ".qk.")], split[key.replace(".qkv.", ".v.")] = state[key].split([2 * length, length])
    return split
