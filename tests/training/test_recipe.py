"""The line beside the scores names the data by their content, and the recipe by its options, wherever the data lie."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch

from vitdet.annotations import CocoIndex
from vitdet.annotations.derived import Joined
from vitdet.metrics import SemanticMetric
from vitdet.structures import Prediction
from vitdet.training.recipe import protocol, recipe

CONTENT = {"images": [{"id": 5}], "categories": [{"id": 3, "name": "cat"}], "annotations": []}


def test_the_line_of_a_run_names_evaluator_data_and_recipe(tiny, tmp_path):
    lines = []
    for place, lr in (("a", 1e-3), ("b", 1e-3), ("c", 2e-3)):
        task, data, trainer = tiny(data={"root": str(tmp_path / place)}, task={"lr": lr}, max_epochs=1)
        trainer.validate(task, data, verbose=False)
        lines.append(protocol(task, "val"))
    annotations = Path(data.index("val").path).read_bytes()
    assert f"data {hashlib.sha256(annotations).hexdigest()[:12]}, vitdet 0.1.0, recipe " in lines[0]
    assert re.search(r"hotcoco 1\.\d", lines[0]) and lines[0] == lines[1] != lines[2]
    assert recipe(task) == lines[2][-len(recipe(task)) :]


def test_the_hash_is_that_of_the_file(tmp_path):
    text = json.dumps(CONTENT)
    (tmp_path / "a.json").write_text(text)
    index = CocoIndex.open(tmp_path / "a.json")
    assert index.digest == hashlib.sha256(text.encode()).hexdigest()[:12] == CocoIndex.of(CONTENT).digest
    (tmp_path / "b.json").write_text(text + " ")
    other = CocoIndex.open(tmp_path / "b.json")
    assert len({index.digest, other.digest, Joined([index, other]).digest, Joined([other, index]).digest}) == 4


def test_the_hash_of_maps_is_that_of_their_pixels_in_any_order():
    def line(maps, order):
        metric = SemanticMetric(lambda i: maps[i], ["a", "b"], total=len(maps))
        found = torch.zeros(4, 4, dtype=torch.uint8)
        for i in order:
            nothing = torch.zeros(0)
            metric.update([Prediction(nothing.view(0, 4), nothing, nothing.long(), (4, 4), image_id=i, semantic=found)])
        metric.compute()
        return re.search(r"data ([0-9a-f]{12})$", metric.protocol())[1]

    maps = [np.full((4, 4), k, np.uint8) for k in (0, 1, 255)]
    assert line(maps, (0, 1, 2)) == line(maps, (2, 0, 1)) != line([maps[1], maps[0], maps[2]], (0, 1, 2))
