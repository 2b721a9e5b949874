"""What the key maps of several models do to tensors.  # c, C channels"""

from torch import Tensor


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
