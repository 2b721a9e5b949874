"""Hides messages that Lightning prints in every run and that do not help the user, from Python and the command line."""

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
    # frozen blocks are in eval mode on purpose
    r".*module\(s\) in eval mode at the start of training",
    # vitdet prints another message for a run without validation
    ".*Total length of .* across ranks is zero",
    ".*but have no `val_dataloader`",
    # the batch sampler of vitdet leaves no image out
    ".*custom batch sampler .* for prediction",
    # `Task` prints a clearer message
    r".*Please add the following callbacks: \['EMA'\]",
)
INFOS = (
    "💡",
    "TPU available",
    "HPU available",
    "GPU available",
    "`weights_only` was not set",
    # the summary of the run shows this
    "`Trainer.fit` stopped",
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
    """Installs the filters; every `Trainer` calls this. Log messages of vitdet are shown as `logging` is configured."""
    # these warnings concern calls that Lightning makes
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for text in WARNINGS:
        warnings.filterwarnings("ignore", message=text)
    for name in LOGGERS:
        # a filter that is already there is not added again
        logging.getLogger(name).addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(INFOS)
