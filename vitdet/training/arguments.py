"""Checks the arguments of `Trainer` and works out which callbacks and loggers follow from them.

Arguments of Lightning's that mean the same as an argument of vitdet's are translated here.
"""

import contextlib
import re
import traceback
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from vitdet.errors import UserError, check
from vitdet.ranges import is_number, is_whole
from vitdet.training.callbacks.ema import EMA, is_average
from vitdet.training.sharded import FSDP

LIGHTNING = str(Path(L.__file__).parent)


class Given(NamedTuple):
    """The arguments that decide what vitdet adds to Lightning's trainer.

    Attributes:
        progress: Lightning's `enable_progress_bar`; `None` where the user did not set it.
        model_summary: Lightning's `enable_model_summary`.
        share_out: Lightning's `use_distributed_sampler`; `None` where the user did not set it.
        checkpoints: whether checkpoints are written.
        bare: Lightning's `barebones`: vitdet adds nothing.
        dry: Lightning's `fast_dev_run`: nothing is written to disk.
        logs: whether vitdet's loggers (TensorBoard and CSV) are added.
        loggers: the loggers that the user gave.
    """

    progress: bool | None
    model_summary: bool
    share_out: bool | None
    checkpoints: bool
    bare: bool
    dry: bool
    logs: bool
    loggers: list[Logger]

    def shows(self, progress: bool) -> bool:
        """Whether progress is shown: either `progress` or `enable_progress_bar` can switch it off."""
        return progress and self.progress is not False


def take(kwargs: dict[str, Any], logger: Logger | Iterable[Logger] | bool | None) -> Given:
    """Reads `Given` from the keyword arguments, and removes those that `Trainer` passes to Lightning itself.

    The strategy `fsdp` becomes vitdet's.

    `Trainer` does not declare these arguments, so they do not become keys of a config file, which has `progress`.

    Raises:
        UserError: `logger` holds something that is not a logger.
    """
    _use_fsdp(kwargs)
    bare, dry = bool(kwargs.get("barebones")), bool(kwargs.get("fast_dev_run"))
    none = logger is False or bare
    theirs = [] if none or logger in (True, None) else [logger] if isinstance(logger, (Logger, str)) else list(logger)
    for item in theirs:
        check("logger", item, isinstance(item, Logger), "loggers such as CSVLogger(folder), or true or false")
    return Given(
        kwargs.pop("enable_progress_bar", None),
        bool(kwargs.pop("enable_model_summary", False)),
        kwargs.pop("use_distributed_sampler", None),
        kwargs.get("enable_checkpointing") is not False and not bare and not dry,
        bare,
        dry,
        not none and not dry,
        theirs,
    )


def place(name: str, root: str | Path, version: int | None, kwargs: dict[str, Any]) -> tuple[Path, str, int | None]:
    """Returns the root folder, name and version number of the run; `default_root_dir` means the same as `root`.

    Raises:
        UserError: an argument is out of its range, or `root` and `default_root_dir` contradict each other.
    """
    other = kwargs.get("default_root_dir")
    both = other is not None and str(root) not in ("runs", str(other))
    check("default_root_dir", other, not both, f"the same as root, which is {str(root)!r}: give one of them")
    root = other or root
    check("root", str(root), "://" not in str(root), "a local folder; copy the runs elsewhere afterwards")
    check("name", name, isinstance(name, str) and bool(name.strip()), "the name of the run, a folder under root")
    check(
        "version",
        version,
        version is None or is_whole(version, 0),
        "a whole number from 0, or none for the next free one",
    )
    return Path(root), name, version


def check_own(*, ema: float, mode: str, pictures: int, log_every_n_steps: int, gradient_clip_val: Any) -> None:
    """Checks the arguments that vitdet's trainer adds, or for which it has another default than Lightning's.

    Raises:
        UserError: an argument is out of its range.
    """
    check("ema", ema, is_number(ema) and 0 <= ema < 1, "0 <= ema < 1, for example 0.999, or 0 to train without")
    check("mode", mode, mode in ("max", "min"), "max (more is better) or min")
    check("pictures", pictures, is_whole(pictures, 0), "a whole number from 0")
    check(
        "log_every_n_steps",
        log_every_n_steps,
        is_whole(log_every_n_steps, 0),
        "a whole number from 0, which logs nothing",
    )
    # Lightning refuses values of other types
    if isinstance(gradient_clip_val, (int, float)):
        check(
            "gradient_clip_val",
            gradient_clip_val,
            gradient_clip_val >= 0,
            "a number above 0, or 0 or none, which clips nothing",
        )


def check_theirs(kwargs: dict[str, Any]) -> None:
    """Checks arguments of Lightning's that it would refuse late, or without naming the argument.

    Raises:
        UserError: an argument is out of its range.
    """
    accelerator = str(kwargs.get("accelerator", "auto")).lower()
    there = torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())
    check("accelerator", accelerator, accelerator not in ("gpu", "cuda") or there, "cpu or auto: torch finds no GPU")
    devices = kwargs.get("devices", "auto")
    wanted = "a whole number from 1, a list of device numbers, -1 (all) or auto"
    check("devices", devices, str(devices).strip() not in ("0", "[]", ""), wanted)
    if accelerator == "cpu":
        processes = str(devices).strip()
        check(
            "devices",
            devices,
            processes == "auto" or processes.isdecimal(),
            "a whole number from 1, of processes on the CPU, or auto",
        )
    for key in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value = kwargs.get(key)
        check(key, value, value is None or is_whole(value), "a whole number from 1")
    interval, sanity = kwargs.get("val_check_interval"), kwargs.get("num_sanity_val_steps")
    check(
        "val_check_interval", interval, interval != 0, "batches from 1, a fraction of an epoch above 0, or a duration"
    )
    check(
        "num_sanity_val_steps",
        sanity,
        sanity is None or sanity >= -1,
        "a whole number from 0, or -1, which is all batches",
    )
    strategy = kwargs.get("strategy")
    spawns = isinstance(strategy, str) and strategy.endswith("spawn")
    check("strategy", strategy, not spawns, "ddp, which starts its processes by the command itself, or ddp_notebook")


def _use_fsdp(kwargs: dict[str, Any]) -> None:
    """Replaces the strategy `fsdp`, which for Lightning means the first FSDP, by vitdet's."""
    if kwargs.get("strategy") == "fsdp":
        # weights that are gathered first in inference mode could not be trained
        kwargs |= {"strategy": FSDP(), "inference_mode": False}


def check_bounds(kwargs: dict[str, Any], *, max_epochs: int | None, max_steps: int) -> None:
    """Checks the bounds of the training.

    Raises:
        UserError: a bound is out of its range, or a minimum is above its maximum.
    """
    for unit, most in (("epochs", max_epochs), ("steps", max_steps)):
        check(f"max_{unit}", most, most is None or is_whole(most, -1), "a whole number from 0, or -1 for no bound")
        least = kwargs.get(f"min_{unit}")
        bounded = least is not None and most is not None and most >= 0
        check(f"min_{unit}", least, not bounded or least <= most, f"at most max_{unit}, which is {most}")


def duration(max_time: Any) -> timedelta | None:
    """Converts `max_time` to a `timedelta`.

    Raises:
        UserError: it is not a positive duration.
    """
    wanted = "days:hours:minutes:seconds, such as 00:00:12:00 for twelve minutes"
    if isinstance(max_time, str):
        parts = max_time.strip().split(":")
        near = f"00:{max_time.strip()}" if re.fullmatch(r"\d+:\d\d:\d\d", max_time.strip()) else ""
        right = re.fullmatch(r"\d+:\d\d:\d\d:\d\d", max_time.strip())
        check("max_time", max_time, bool(right), wanted + (f"; did you mean {near}?" if near else ""))
        max_time = dict(zip(("days", "hours", "minutes", "seconds"), map(int, parts)))
    if isinstance(max_time, dict):
        try:
            max_time = timedelta(**max_time)
        except TypeError as error:
            raise UserError(f"max_time is {max_time!r}; wanted {wanted}, or keys such as hours and minutes") from error
    right = max_time is None or (isinstance(max_time, timedelta) and max_time > timedelta())
    check("max_time", str(max_time), right, f"more than nothing: {wanted}")
    return max_time


def listed(callbacks: Any) -> list[L.Callback]:
    """Returns the user's callbacks as a list.

    Raises:
        UserError: an element is not a callback.
    """
    some = [] if callbacks is None else [callbacks] if isinstance(callbacks, L.Callback) else list(callbacks)
    for callback in some:
        check(
            "callbacks",
            callback,
            isinstance(callback, L.Callback),
            "instances of lightning.Callback, such as LearningRateMonitor()",
        )
    return some


def with_theirs(ours: list[L.Callback], theirs: list[L.Callback]) -> list[L.Callback]:
    """Joins the callbacks; a callback of the user's replaces vitdet's callback of that class.

    Raises:
        UserError: the training would be ended by two timers, `max_time` and a `Timer` of the user's.
    """
    if any(isinstance(callback, Timer) for callback in ours) and any(
        isinstance(callback, Timer) for callback in theirs
    ):
        raise UserError("max_time and a Timer among the callbacks both end the training; give one of them")
    kinds = {type(callback) for callback in theirs}
    averaged = any(map(is_average, theirs))
    kept = [
        callback for callback in ours if type(callback) not in kinds and not (averaged and isinstance(callback, EMA))
    ]
    return [*kept, *theirs]


def has_bar(callbacks: list[L.Callback]) -> bool:
    """Whether the user brings a progress bar."""
    return any(isinstance(callback, ProgressBar) for callback in callbacks)


@contextlib.contextmanager
def refusals(*more: type[Exception]) -> Iterator[None]:
    """Turns errors that Lightning raises on purpose into a `UserError`, which is shown without a traceback.

    These are a `MisconfigurationException`, a `ValueError`, the types in `more`, and any `RuntimeError` or
    `ImportError` that a `raise` statement in Lightning's code throws. All other errors pass through unchanged.

    Raises:
        UserError: Lightning's message on a single line.
    """
    try:
        yield
    except (MisconfigurationException, ValueError, RuntimeError, ImportError, *more) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        on_purpose = isinstance(error, (MisconfigurationException, ValueError, *more)) or (last.line or "").startswith(
            "raise "
        )
        if isinstance(error, UserError) or not last.filename.startswith(LIGHTNING) or not on_purpose:
            raise
        raise UserError(" ".join(str(error).replace("`", "").split())) from error
