"""Rules for the arguments of constructors, and a decorator that checks arguments by such rules."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from vitdet.errors import UserError, check

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and what was wanted."""


def is_whole(value: Any, low: int = 1) -> bool:
    """Whether `value` is an integer of at least `low`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= low


def is_number(value: Any) -> bool:
    """Whether `value` is a number, and neither NaN nor infinite."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def whole(low: int) -> Rule:
    """The rule that allows integers of at least `low`."""
    return (lambda v: is_whole(v, low)), f"a whole number from {low}"


INTEGER: Rule = ((lambda v: isinstance(v, int) and not isinstance(v, bool)), "a whole number")


def number(low: float, high: float = math.inf, *, without: Sequence[float] = ()) -> Rule:
    """The rule that allows finite numbers from `low` to `high`, except the numbers in `without`."""
    to = "" if high == math.inf else f" to {high:g}"
    but = f", without {' and '.join(f'{end:g}' for end in without)}" if without else ""

    def ok(v: Any) -> bool:
        return is_number(v) and low <= v <= high and v not in without

    return ok, f"a number from {low:g}{to}{but}"


def listed(rule: Rule, *, least: int = 1) -> Rule:
    """The rule that allows lists of at least `least` items, each of which `rule` allows."""
    ok, wanted = rule
    some = "each " if least else "each, if any, "

    def all_ok(v: Any) -> bool:
        return isinstance(v, Sequence) and not isinstance(v, str) and len(v) >= least and all(map(ok, v))

    return all_ok, f"a list, {some}{wanted}"


def so_many(count: int, rule: Rule, wanted: str) -> Rule:
    """The rule that allows lists of exactly `count` items, each of which `rule` allows; `wanted` describes them."""
    return (lambda v: listed(rule)[0](v) and len(v) == count), wanted


def maker(wanted: str) -> Rule:
    """What makes a module: a class, a partial or a function; a module itself can be called, but not with sizes."""
    return (lambda v: callable(v) and not hasattr(type(v), "forward")), wanted


def either(*rules: Rule) -> Rule:
    """The rule that allows what any of the `rules` allows."""
    return (lambda v: any(ok(v) for ok, _ in rules)), ", or ".join(wanted for _, wanted in rules)


def ranged(rules: Mapping[str, Rule]) -> Callable[[Callable], Callable]:
    """A decorator for constructors and functions, which makes them refuse arguments that the rules do not allow.

    Arguments that are annotated as `bool`, `Literal` or a dataclass need no rule; `None` is allowed if the annotation
    allows it.

    Args:
        rules: the rules of arguments, by their names; names that the function does not have are ignored.

    Raises:
        UserError: in a call of the function: an argument is not allowed. The message has its name, its value and what
            was wanted.
    """

    def decorate(init: Callable) -> Callable:
        signature = inspect.signature(init)
        checks = {name: _rule(rules.get(name), p.annotation) for name, p in signature.parameters.items()}

        @functools.wraps(init)
        def checked(*args, **kwargs):
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if checks[name] is not None:
                    ok, wanted = checks[name]
                    check(name, value, ok(value), wanted)
            return init(*args, **kwargs)

        return checked

    return decorate


def _rule(rule: Rule | None, annotation: Any) -> Rule | None:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if rule is None:
        rules = [_rule_of(kind) for kind in kinds if kind is not type(None)]
        rule = either(*rules) if rules and None not in rules else None
    if rule is None or type(None) not in kinds:
        return rule
    ok, wanted = rule
    return (lambda v: v is None or ok(v)), f"{wanted}, or null"


def _rule_of(kind: Any) -> Rule | None:
    """The rule that follows from an annotation alone, or `None`."""
    if kind is bool:
        return (lambda v: isinstance(v, bool)), "true or false"
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return (lambda v: v in choices), " or ".join([", ".join(map(str, choices[:-1])), str(choices[-1])])
    if dataclasses.is_dataclass(kind):
        names = ", ".join(field.name for field in dataclasses.fields(kind))
        return (lambda v: isinstance(v, kind)), f"options out of {names}"
    return None


def check_divides(name: str, value: int, **parts: int) -> None:
    """Raises:
    UserError: the number of a part does not divide `value`; the message names the part.
    """
    for part, count in parts.items():
        if value % count:
            raise UserError(f"{name} is {value}; wanted a multiple of {count} ({part})")
