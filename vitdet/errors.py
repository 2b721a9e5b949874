"""What the user of vitdet can put right, told apart from what is vitdet's own fault."""

from typing import Any


class UserError(ValueError):
    """A wrong argument, key, file or combination; the message says what was got, what was wanted, and what to do.

    The command line prints the message alone and exits with status 2. Whatever else is raised is taken for a fault of vitdet's, and keeps its traceback.
    """


def check(name: str, value: Any, ok: bool, wanted: str) -> None:
    """Raises:
    UserError: not `ok`; it names the argument, its value, and what was `wanted`.
    """
    if not ok:
        raise UserError(f"{name} is {value!r}; wanted {wanted}")
