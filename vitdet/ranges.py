"""What the arguments of constructors may be: rules by name, and a decorator that holds a constructor to them."""

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
    """Whether it is a whole number from `low`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= low


def is_number(value: Any) -> bool:
    """Whether it is a number, and neither NaN nor infinite."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def whole(low: int) -> Rule:
    """A whole number from `low`."""
    return (lambda v: is_whole(v, low)), f"a whole number from {low}"


INTEGER: Rule = ((lambda v: isinstance(v, int) and not isinstance(v, bool)), "a whole number")


def number(low: float, high: float = math.inf, *, without: Sequence[float] = ()) -> Rule:
    """A finite number from `low` to `high`, but for the ends that are named in `without`."""
    to = "" if high == math.inf else f" to {high:g}"
    but = f", without {' and '.join(f'{end:g}' for end in without)}" if without else ""

    def ok(v: Any) -> bool:
        return is_number(v) and low <= v <= high and v not in without

    return ok, f"a number from {low:g}{to}{but}"


def listed(rule: Rule, *, least: int = 1) -> Rule:
    """A list of at least so many, each of which is right."""
    ok, wanted = rule
    some = "each " if least else "each, if any, "

    def all_ok(v: Any) -> bool:
        return isinstance(v, Sequence) and not isinstance(v, str) and len(v) >= least and all(map(ok, v))

    return all_ok, f"a list, {some}{wanted}"


def so_many(count: int, rule: Rule, wanted: str) -> Rule:
    """A list of just `count`, each of which is right; `wanted` says so."""
    return (lambda v: listed(rule)[0](v) and len(v) == count), wanted


def maker(wanted: str) -> Rule:
    """What makes a module: a class, a partial, a function. A module that is made already can be called, but not with sizes."""
    return (lambda v: callable(v) and not hasattr(type(v), "forward")), wanted


def either(*rules: Rule) -> Rule:
    """What one of the rules allows."""
    return (lambda v: any(ok(v) for ok, _ in rules)), ", or ".join(wanted for _, wanted in rules)


def ranged(rules: Mapping[str, Rule]) -> Callable[[Callable], Callable]:
    """A decorator of constructors and functions, which then refuse arguments that break the rules.

    Arguments that are annotated as `bool`, `Literal` or a dataclass need no rule; `None` is right where it is in the
    annotation.

    Raises:
        UserError: on the call: an argument is wrong; it is named, with its value and what was wanted.
    """

    def decorate(init: Callable) -> Callable:
        signature = inspect.signature(init)
        own = {name: _rule(rules.get(name), p.annotation) for name, p in signature.parameters.items()}

        @functools.wraps(init)
        def checked(*args, **kwargs):
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if own[name] is not None:
                    ok, wanted = own[name]
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
    """The rule that an annotation is by itself, if it is one."""
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
    UserError: a part, of which only its name and number matter, does not divide `value`.
    """
    for part, count in parts.items():
        if value % count:
            raise UserError(f"{name} is {value}; wanted a multiple of {count} ({part})")
