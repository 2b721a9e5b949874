"""Reading files of published weights, and conversions of tensors that several models share."""

from pathlib import Path

from torch import Tensor

from vitdet.backbone.weights import read_weights
from vitdet.checkpoint import CheckpointError


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a `.safetensors` or torch file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, or holds objects other than tensors and plain values.
    """
    try:
        return read_weights(path)
    except RuntimeError as error:
        raise CheckpointError(str(error)) from error


def flat(weight: Tensor) -> Tensor:
    """Converts a 1×1 convolution from c to C channels to a linear layer: `(C, c, 1, 1)` to `(C, c)`."""
    return weight.flatten(1)


def expand(weight: Tensor) -> Tensor:
    """Converts a transposed 2×2 convolution of stride 2 to a linear layer: `(c, C, 2, 2)` to `(2*2*C, c)`."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2)


def expand_bias(bias: Tensor) -> Tensor:
    """Repeats the bias of such a convolution for each of its four positions: `(C,)` to `(4*C,)`."""
    return bias.repeat(4)


def split_values(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Splits the self-attention of the decoder, `….self_attention.qkv.…`, into `qk` and `v`.

    These are separate layers, since their inputs differ: `qk` also sees the positions of the queries.
    """
    split = {key: value for key, value in state.items() if ".self_attention.qkv." not in key}
    for key in state.keys() - split.keys():
        length = len(state[key]) // 3
        split[key.replace(".qkv.", ".qk.")], split[key.replace(".qkv.", ".v.")] = state[key].split([2 * length, length])
    return split
