"""The thresholds of detections that are chosen by each validation, and saved with the model."""

from typing import Any

import lightning as L

from vitdet.metrics.thresholds import by_label, check_rule, choose


class Thresholds(L.Callback):
    """Chooses, after each validation, the score from which a detection of each class counts.

    They are chosen from the predictions that AP is computed of, are equal on all ranks, and go into the checkpoints,
    where `vitdet predict`, exports and servers find them. Semantic and panoptic models have none.

    Args:
        rule: `f1` for the best F1 score, `precision=P` or `recall=R` for what finds most with at least this precision,
            or is wrong least with at least this recall; or `None`, which chooses none.

    Raises:
        UserError: there is no such rule.
    """

    def __init__(self, rule: str | None = "f1") -> None:
        check_rule(rule)
        self.rule = rule

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task: Any = pl_module
        metric: Any = getattr(task, "metric", lambda _: None)("val")
        matches = getattr(metric, "matches", None)
        if trainer.sanity_checking or self.rule is None or matches is None:
            return
        chosen = choose(matches, self.rule)
        task.thresholds = chosen and by_label(chosen, metric.truth.category_ids, task.category_ids)
