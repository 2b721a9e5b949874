"""The model card, `README.md`, in the form that the Hugging Face hub reads: metadata, and plain sentences."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from vitdet.share.facts import BUILT_IN, Facts

# what a card calls the model until it is pushed under a name
PLACEHOLDER = "hf://USER/NAME"
TASKS = {
    "boxes": ("object-detection", "finds objects, each with a box"),
    "masks": ("image-segmentation", "finds objects, each with a box and a mask"),
    "semantic": ("image-segmentation", "gives every pixel a class"),
    "panoptic": ("image-segmentation", "divides an image into objects and regions, each with a class"),
}
# the scores of the metadata, by the names that vitdet gives them; the first of them is the main one
METRICS = {"AP": "map", "AP50": "map_50", "AP75": "map_75", "mIoU": "mean_iou", "PQ": "panoptic_quality"}


def metadata(facts: Facts, *, title: str, licence: str | None, datasets: Sequence[str]) -> dict[str, Any]:
    """The YAML at the head of the card. Keys whose values are not known are left out."""
    task, _ = TASKS[facts.predicts]
    tags = ["vitdet", "vision-transformer", "pytorch"]
    known: dict[str, Any] = {"library_name": "vitdet", "pipeline_tag": task, "tags": tags, **_licence(licence)}
    if datasets:
        known["datasets"] = list(datasets)
    metrics = [
        {"type": METRICS[name], "name": name, "value": round(value, 4)}
        for name, value in facts.scores.items()
        if name in METRICS
    ]
    name = datasets[0] if datasets else facts.data
    # the hub takes no scores without the data set that they were counted on
    if metrics and name:
        known["metrics"] = [metric["type"] for metric in metrics]
        dataset = {"type": name if datasets else "vitdet-shapes", "name": name, "split": "validation"}
        result = {"task": {"type": task}, "dataset": dataset, "metrics": metrics}
        known["model-index"] = [{"name": title, "results": [result]}]
    return known


def _licence(licence: str | None) -> dict[str, str]:
    """The key of the licence: its identifier, or `other` with its name."""
    if not licence:
        return {}
    identifier = licence.strip().lower()
    if all(c.isalnum() or c in ".-" for c in identifier):
        return {"license": identifier}
    return {"license": "other", "license_name": licence.strip()}


def text(facts: Facts, *, title: str, licence: str | None, datasets: Sequence[str], picture: str | None) -> str:
    """The whole card."""
    head = yaml.safe_dump(
        metadata(facts, title=title, licence=licence, datasets=datasets), sort_keys=False, allow_unicode=True
    )
    parts = [
        f"# {_cell(title)}",
        _what(facts),
        *([f"![Predictions of the model on images of its validation data]({picture})"] if picture else []),
        "\n".join(_use()),
        "\n".join(_scores(facts)),
        *filter(None, ["\n".join(_thresholds(facts))]),
        "\n".join(_training(facts, licence, datasets)),
        _limits(facts),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _what(facts: Facts) -> str:
    _, does = TASKS[facts.predicts]
    shown = ", ".join(map(_cell, facts.classes[:20]))
    shown += f" and {len(facts.classes) - 20} more" if len(facts.classes) > 20 else ""
    return (
        f"This model {does}, of {len(facts.classes)} class{'es' if len(facts.classes) != 1 else ''}: {shown}.\n"
        f"It has {facts.parameters / 1e6:.2f} million parameters, and sees images at {facts.size}."
    )


def _use() -> Iterator[str]:
    yield "## How to use it\n"
    yield "    pip install vitdet\n"
    yield "```python\nimport vitdet\n"
    yield f'detector = vitdet.load("{PLACEHOLDER}")  # or the folder of these files'
    yield 'prediction = detector.predict("photo.jpg")'
    yield 'prediction.save("found.jpg")\n```\n'
    yield f"On the command line: `vitdet predict {PLACEHOLDER} photo.jpg`. To train it further on a folder of labelled"
    yield "images, `vitdet train my.yaml` with this file:\n"
    yield "```yaml"
    yield f"model: {{checkpoint: {PLACEHOLDER}, lr: 1e-4}}"
    yield "data: FOLDER"
    yield "trainer: {max_epochs: 20}\n```"


def _scores(facts: Facts) -> Iterator[str]:
    yield "## Scores\n"
    if facts.source:
        yield facts.source
    elif not facts.scores:
        yield "No score was recorded with these weights."
    else:
        yield "| score | on the validation data |\n|---|---|"
        yield from (f"| {name} | {value:.4f} |" for name, value in facts.scores.items())
        if facts.by_class:
            yield "\n| class | score |\n|---|---|"
            yield from (f"| {_cell(name.partition('/')[2])} | {value:.4f} |" for name, value in facts.by_class.items())
        yield f"\nHow they were counted: {facts.protocol or 'not recorded'}."


def _thresholds(facts: Facts) -> Iterator[str]:
    if facts.thresholds:
        yield "## Thresholds\n"
        yield f"`predict` returns what scores at least this, chosen on the validation data (rule: {facts.rule}).\n"
        yield "| class | score |\n|---|---|"
        yield from (f"| {_cell(name)} | {value:.3f} |" for name, value in zip(facts.classes, facts.thresholds))


def _training(facts: Facts, licence: str | None, datasets: Sequence[str]) -> Iterator[str]:
    yield "## Training\n"
    yield f"- Data: {', '.join(datasets) or facts.data or 'not stated'}."
    yield f"- Started from: {facts.start or 'not recorded'}."
    if facts.steps:
        averaged = " The weights are an average over the training." if facts.averaged else ""
        yield f"- Steps: {facts.steps:,}.{averaged}"
    yield f"- Licence: {licence or 'not stated; ask whoever shares it before you use it'}."


def _limits(facts: Facts) -> str:
    lines = [
        "## Intended use and limits\n",
        "It is meant for images like those that it was trained on, and for the classes above: it knows no others.",
        "It overlooks objects, and reports some that are not there; the scores say how often.",
        "They hold for the validation data: other cameras, places, light and groups of people were not tested.",
        "Score it on images of your own before you rely on it, and leave decisions that can harm somebody to people.",
    ]
    if facts.data == BUILT_IN:
        lines.append("The built-in shapes are drawn, not photographed: the model is a demonstration.")
    return "\n".join(lines)


def _cell(name: str) -> str:
    """A name of a class as text of a card: what Markdown and HTML read as marks is shown as it is, in one line.

    Example:
        >>> _cell("a|b <i>")
        'a\\\\|b &lt;i>'
    """
    line = " ".join(name.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", line)
