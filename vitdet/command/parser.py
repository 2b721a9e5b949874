"""The parser of the arguments of a verb, with errors of a single line."""

import argparse

from vitdet.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are `UserError`s of a single line.

    Args:
        verb: the words after `vitdet`, such as `predict` or `data get`.
        text: what the verb does.
    """

    def __init__(self, verb: str, text: str) -> None:
        super().__init__(f"vitdet {verb}", description=text, allow_abbrev=False)

    def error(self, message: str) -> None:
        raise UserError(f"{message}; `{self.prog} --help` says what there is")
