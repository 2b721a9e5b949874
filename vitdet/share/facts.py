"""What is known of a trained model, for its model card: from its checkpoint and from the folder of its run.

Nothing is guessed. What is not known stays empty, and the card leaves it out.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vitdet.checkpoint import Checkpoint
from vitdet.zoo.cards import Card

BUILT_IN = "vitdet's built-in shapes"


@dataclass(frozen=True)
class Facts:
    """What a model card says.

    Attributes:
        predicts: what the head predicts, `boxes`, `masks`, `semantic` or `panoptic`.
        classes: class names, indexed by label.
        parameters: the number of parameters.
        thresholds: the lowest score of a detection that counts for each class; empty if none were chosen.
        rule: how they were chosen.
        size: the size of images at validation, as text.
        scores: the scores of the validation by name, without those of single classes.
        by_class: the scores of single classes, by name.
        protocol: how they were counted; empty if it was not recorded.
        steps: the number of optimisation steps; 0 if not known.
        data: the name of the data set; empty if not known.
        start: what training started from; empty if not known.
        averaged: whether the weights are an average over the training.
        licence: the licence; empty if not known.
        source: where a published model and its score come from.
    """

    predicts: str
    classes: list[str]
    parameters: int
    size: str
    thresholds: list[float] = field(default_factory=list)
    rule: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    steps: int = 0
    data: str = ""
    start: str = ""
    averaged: bool = False
    licence: str = ""
    source: str = ""


def of_checkpoint(saved: Checkpoint, *, predicts: str, parameters: int) -> Facts:
    """The facts of a checkpoint, and of the `config.yaml` of its run, if that lies beside it."""
    scores, protocol = _scores(saved)
    chosen = saved.saved.get("thresholds") or {}
    run = _run(Path(saved.name).with_name("config.yaml"))
    data = saved.data or run.get("data") or {}
    return Facts(
        predicts=predicts,
        classes=saved.classes,
        parameters=parameters,
        size=_size(saved.eval_transform.get("size")),
        thresholds=list(chosen.get("values", [])),
        rule=str(chosen.get("rule", "")),
        scores={name: value for name, value in scores.items() if "/" not in name},
        by_class={name: value for name, value in scores.items() if "/" in name},
        protocol=protocol,
        steps=int(saved.contents.get("global_step", 0)),
        data=BUILT_IN if "Shapes" in str(data.get("class_path")) else "",
        start=_start(run),
        averaged=bool(saved.average),
    )


def of_card(card: Card, *, predicts: str, parameters: int) -> Facts:
    """The facts of a published model."""
    return Facts(
        predicts=predicts,
        classes=card.classes,
        parameters=parameters,
        size=_size(card.eval_transform.get("size")),
        start=f"{card.name} by its authors, as it is",
        licence=card.licence,
        source=f"Its authors report {card.score} ({card.source}). The weights are those of {card.url}, "
        "with vitdet's names.",
    )


def _scores(saved: Checkpoint) -> tuple[dict[str, float], str]:
    """The scores of the validation after which the checkpoint was written, and how they were counted."""
    recorded = saved.callback("Summary") or {}
    if recorded.get("values"):
        scores = {name.removeprefix("val/"): float(value) for name, value in recorded["values"].items()}
        # -1 is COCO's word for a class without objects
        return {name: value for name, value in scores.items() if math.isfinite(value) and value >= 0}, str(
            recorded.get("protocol", "")
        )
    best = saved.callback("BestCheckpoint") or {}
    if best.get("monitor") and best.get("current_score") is not None:
        return {best["monitor"].removeprefix("val/"): float(best["current_score"])}, ""
    return {}, ""


def _size(size: Any) -> str:
    if size is None:
        return "their own size"
    if isinstance(size, dict):
        return ", ".join(f"{key.replace('_', ' ')} {value} pixels" for key, value in size.items() if value is not None)
    return f"a long side of {size} pixels"


def _run(config: Path) -> dict[str, Any]:
    """The config of the run; empty where there is none."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _start(run: dict[str, Any]) -> str:
    """What training started from, as the config of the run says; empty where there is none."""
    try:
        model = run["model"]
        backbone = model["backbone"]["init_args"]
        if model.get("checkpoint"):
            # of a file, the name alone: its folder is nobody's business
            return Path(model["checkpoint"]).name if Path(model["checkpoint"]).suffix else str(model["checkpoint"])
        if backbone.get("pretrained") or backbone.get("checkpoint"):
            return f"{backbone['name']} (the backbone alone)"
    except (KeyError, TypeError, AttributeError):
        return ""
    return "random weights"
