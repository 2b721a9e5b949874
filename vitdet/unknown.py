"""What a wrong config is told: one line, with the nearest key or class that exists."""

import difflib
import inspect
import re

import lightning

import vitdet


def explain(message: str, path: str) -> str:
    """jsonargparse's error in one line, with the nearest valid key or class."""
    if found := re.search(r"unrecognized arguments: --([\w.]+)", message):
        key = found[1].rpartition(".")[2]
        return f"{path}: there is no key {found[1]}{_near(key, _known_keys())}"
    if found := re.search(r"Option '([\w.]+)' is not accepted", message) or re.search(
        r"Key '([\w.]+)' is not expected", message
    ):
        return f"{path}: there is no key {found[1]}{_near(found[1].rpartition('.')[2], _known_keys())}"
    if found := re.search(r"Expected a dot import path string: (\S+)|[Uu]ndefined class.*?'(\S+)'", message):
        return f"{path}: there is no class {found[1] or found[2]}{_near(found[1] or found[2], _class_names())}"
    if found := re.search(r"argument (\S+) --> (\S+):", message):
        return f"{path}: {found[2]} comes from {found[1]} and can't be set"
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = [
        line
        for line in lines
        if line and not line.startswith(("Does not validate", "Subtypes", "Errors", "Given value", "Problem"))
    ]
    reasons = [line for line in reasons if "NoneType" not in line and "Parser key" not in line] or lines
    key = re.search(r'Parser key "([\w.]+)"', message)
    return f"{path}: {key[1] + ': ' if key else ''}{reasons[0]}"


def _near(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _class_names() -> list[str]:
    return [name for name in vitdet.__all__ if isinstance(getattr(vitdet, name), type)]


def _known_keys() -> list[str]:
    """Names of all arguments of all classes that a config can name."""
    classes = [getattr(vitdet, name) for name in _class_names()] + [lightning.Trainer]
    return sorted(
        {name for cls in classes for name in inspect.signature(cls).parameters} | {"ckpt_path", "seed_everything"}
    )
