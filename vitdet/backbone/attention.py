"""Attention over packed sequences: the only place that knows which tokens may see each other.

N tokens of all sequences, S sequences, L tokens of one of them, heads, d channels of a head
q, k, v  (N, heads, d)   sequence after sequence; sum(lengths) == N
"""

from collections.abc import Sequence
from functools import lru_cache, wraps
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.errors import UserError

try:  # a prototype of torch: where it is missing, the grouped path does the same
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None


def remembered(function):
    """Like `lru_cache`, but stands aside while torch traces a graph, whose tensors must not outlive it; and what was first asked for in inference mode
    can be trained with later."""
    cache = lru_cache(maxsize=1024)(function)

    @wraps(function)
    def call(*args):
        if torch.compiler.is_compiling():
            return function(*args)
        with torch.inference_mode(False):
            return cache(*args)

    return call


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    *,
    dropout: float = 0.0,
    allowed: Sequence[Tensor] | None = None,
) -> Tensor:
    """Softmax attention `(N, heads, d)` inside each sequence; `allowed`, bool `(L, L)` for each, says which of its tokens may look at which.

    Sequences of equal length go through one batched `scaled_dot_product_attention`; where all are equal that is a view. Half precision on
    CUDA with unequal lengths takes torch's variable-length kernel.

    Raises:
        ValueError: the lengths do not add up to N.
    """
    lengths = tuple(lengths)
    if sum(lengths) != len(q):
        raise UserError(
            f"lengths add up to {sum(lengths)}, but there are {len(q)} tokens; pass one length per sequence"
        )
    if allowed is None and dropout == 0.0 and len(set(lengths)) > 1 and _varlen_fits(q, v):
        offsets, longest = _offsets(lengths, q.device)
        return varlen_attn(q, k, v, offsets, offsets, longest, longest)
    return attend_grouped(q, k, v, lengths, dropout=dropout, allowed=allowed)


def attend_grouped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    *,
    dropout: float = 0.0,
    allowed: Sequence[Tensor] | None = None,
) -> Tensor:
    """`attend` by one batched call for each distinct length."""
    groups, order, inverse = _groups(lengths, q.device)
    if order is not None:
        q, k, v = q[order], k[order], v[order]
    rows = [count * length for count, length in groups]
    masks = [None] * len(groups)
    if allowed is not None:
        masks = [torch.stack([m for m in allowed if len(m) == length]).unsqueeze(1) for _, length in groups]
    outputs = []
    # one group needs no split, whose backward would copy
    split = [(q,), (k,), (v,)] if len(groups) == 1 else [part.split(rows) for part in (q, k, v)]
    for (count, length), mask, *parts in zip(groups, masks, *split):
        parts = [
            part.unflatten(0, (count, length)).transpose(1, 2) for part in parts
        ]  # (S*L, heads, d) -> (S, heads, L, d)
        output = F.scaled_dot_product_attention(*parts, attn_mask=mask, dropout_p=dropout)
        outputs.append(output.transpose(1, 2).flatten(0, 1))  # (S, heads, L, d) -> (S*L, heads, d)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output if inverse is None else output[inverse]


def attend_dense(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """`attend` by a block-diagonal mask over all N × N pairs: the reference of the tests."""
    sequence = torch.arange(len(lengths), device=q.device).repeat_interleave(torch.tensor(lengths, device=q.device))
    mask = sequence[:, None] == sequence[None, :]
    q, k, v = (part.transpose(0, 1) for part in (q, k, v))  # (N, heads, d) -> (heads, N, d)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


@remembered
def _groups(lengths: tuple[int, ...], device: torch.device):
    """`[(count, length)]` of the distinct lengths, and the token order that brings equal lengths together, with its inverse.

    The order is `None` where equal lengths are neighbours already, as the trunk arranges for whole images.
    """
    starts = list(accumulate(lengths, initial=0))
    members: dict[int, list[int]] = {}
    for sequence, length in enumerate(lengths):
        members.setdefault(length, []).append(sequence)
    groups = [(len(sequences), length) for length, sequences in members.items()]
    arranged = [sequence for sequences in members.values() for sequence in sequences]
    if arranged == sorted(arranged):
        return groups, None, None
    order = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in arranged])
    return groups, order.to(device), order.argsort().to(device)


@remembered
def _offsets(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, int]:
    """Where each sequence starts `(S + 1,)` int32, and the longest length."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device), max(lengths)


def _varlen_fits(q: Tensor, v: Tensor) -> bool:
    """Whether the flash kernel behind `varlen_attn` takes these tensors: half precision, head size a multiple of 8 up to 256, Ampere or later."""
    return (
        varlen_attn is not None
        and q.is_cuda
        and q.dtype == v.dtype
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 256
        and _is_ampere(q.device)
    )


@lru_cache
def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)
