"""What Lightning says in every run and nobody needs is left out, from Python as on the command line."""

import logging
import os
import warnings

WARNINGS = (
    ".*LightningCLI's args parameter",
    ".*LeafSpec",
    ".*Experiment logs directory",
    ".*Checkpoint directory",
    ".*is smaller than the logging interval",
    ".*does not have many workers",
    r".*module\(s\) in eval mode at the start of training",  # frozen blocks are meant to be
    ".*Total length of .* across ranks is zero",  # a run without validation says so itself
    ".*but have no `val_dataloader`",
    ".*custom batch sampler .* for prediction",  # ours leaves nothing out
    r".*Please add the following callbacks: \['EMA'\]",  # a task says it in words of its own
)
INFOS = (
    "💡",
    "TPU available",
    "HPU available",
    "GPU available",
    "`weights_only` was not set",
    "`Trainer.fit` stopped",  # the last lines of a run say it
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Loaded model weights from the checkpoint",
)
LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


def quiet() -> None:
    """Every `Trainer` calls it. vitdet's own log lines are not touched: they show as `logging` is configured."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # they are about Lightning's calls, not ours
    for text in WARNINGS:
        warnings.filterwarnings("ignore", message=text)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_worth_saying)  # the same function is added only once


def _worth_saying(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(INFOS)
