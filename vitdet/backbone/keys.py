"""Renames the tensors of other projects to vitdet's names."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vitdet.errors import UserError

Rule = tuple[str, str | None] | tuple[str, str | None, Callable[[Tensor], Tensor]]
"""A pattern that all of the name must match, what it becomes (None: not used), and what is done to the tensor.

A new name that ends in `#0`, `#1` … is a part: the parts are put one below the other.
"""


class KeysError(UserError):
    """Weights that do not fit the model; the message names some of them."""


def rename(state: dict[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The tensors of `state` with vitdet's names; for each name the first rule that matches is applied.

    Raises:
        KeysError: no rule matches a name.
    """
    compiled = [(re.compile(rule[0]), *rule[1:]) for rule in rules]
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    strangers = []
    for key, value in state.items():
        found = next(((match, rule) for rule in compiled if (match := rule[0].fullmatch(key))), None)
        if found is None:
            strangers.append(key)
            continue
        match, (_, name, *change) = found
        if name is None:
            continue
        name, _, part = match.expand(name).partition("#")
        value = change[0](value) if change else value
        if part:
            parts.setdefault(name, {})[int(part)] = value
        else:
            renamed[name] = value
    if strangers:
        raise KeysError(f"{len(strangers)} of {len(state)} tensors have unknown names: {', '.join(strangers[:4])} …")
    return renamed | {name: torch.cat([part[i] for i in sorted(part)]) for name, part in parts.items()}


def check_complete(state: dict[str, Tensor], model: torch.nn.Module) -> None:
    """Raises:
    KeysError: a tensor of the model is missing in `state` or has another shape there, or `state` has further tensors.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    faults = [f"{key} is missing" for key in wanted if key not in state]
    faults += [f"{key} is not the model's" for key in state if key not in wanted]
    faults += [
        f"{key} is {tuple(state[key].shape)}, wanted {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    if faults:
        raise KeysError(f"{len(faults)} tensors do not fit: {'; '.join(faults[:4])}{' …' if len(faults) > 4 else ''}")
