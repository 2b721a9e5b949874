"""The page of a run: written after a training and by `vitdet report`, whole by itself, and never in the way."""

import re
from html.parser import HTMLParser
from pathlib import Path

import lightning as L
import numpy as np
import pytest
from PIL import Image

from vitdet.cli import main
from vitdet.pages.charts import Line, chart, ticks
from vitdet.report.run import read_history
from vitdet.training.callbacks import page

CONFIG = """
model:
  backbone: {{name: vit_tiny_patch16_224, stem: {{class_path: ConvStem, init_args: {{width: 8}}}}, depth: 1,
    model_args: {{embed_dim: 32, num_heads: 2}}, out_channels: 32}}
  head: {head}
data: {{class_path: {data}, init_args: {{root: {root}, train_images: 14, val_images: 5, size: 64, batch_size: 4}}}}
trainer: {{max_steps: 2, root: {runs}, name: tiny, accelerator: cpu, progress: false, pictures: 1}}
"""
HEADS = {
    "ShapesData": "{class_path: DETRHead, init_args: {dim: 32, num_queries: 20, num_layers: 1, denoising: 4, "
    "decoder: {num_heads: 4, ffn_dim: 32}, masks: true}}",
    "ShapesSemanticData": "{class_path: SemanticHead, init_args: {dim: 32}}",
    "ShapesPanopticData": "{class_path: MaskDecoderHead, init_args: {dim: 32, num_queries: 9, num_layers: 1, "
    "num_heads: 2}}",
}
VOID = {"meta", "img", "line", "br", "input", "link"}


class Balanced(HTMLParser):
    """Checks that tags are closed in order, and collects what a reader without eyes gets."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.alts, self.headings, self.out = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.alts += [attrs.get("alt")] if tag == "img" else []
        self.headings += [tag] if re.fullmatch("h[1-6]", tag) else []
        self.out += [value for name, value in attrs.items() if name in ("src", "href") and value.startswith("http")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another"


def read(path):
    text = Path(path).read_text(encoding="utf-8")
    parsed = Balanced()
    parsed.feed(text)
    assert not parsed.open and not parsed.out, "the page needs the network, or is no whole page"
    assert {link.removeprefix("#") for link in parsed.links} <= set(parsed.ids)
    assert parsed.headings[0] == "h1" and parsed.headings.count("h1") == 1 and all(parsed.alts)
    return text, parsed


@pytest.mark.parametrize(
    ("data", "sections"),
    [
        (
            "ShapesData",
            ["training", "classes", "curves", "confusion", "errors", "calibration", "parts", "worst", "run"],
        ),
        ("ShapesSemanticData", ["training", "classes", "confusion", "worst", "run"]),
        ("ShapesPanopticData", ["training", "classes", "worst", "run"]),
    ],
)
def test_a_training_leaves_a_report_and_the_verb_makes_another(data, sections, tmp_path, capsys):
    config, head = tmp_path / "tiny.yaml", HEADS[data]
    config.write_text(CONFIG.format(head=head, data=data, root=tmp_path / "shapes", runs=tmp_path / "runs"))
    main(["train", str(config)])
    run = tmp_path / "runs" / "tiny" / "version_0"
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    text, parsed = read(run / "report.html")
    assert set(sections) <= set(parsed.ids) and "tiny/version_0" in text and "images/s" in text
    # labels and what was found, side by side
    pictures = [path for path in (run / "pictures").glob("*.jpg") if "step" in path.name]
    width, height = Image.open(pictures[0]).size
    assert width > 1.2 * height and width > 300
    main(["report", str(run / "best.ckpt"), "--output", str(tmp_path / "new" / "page.html")])
    again, parsed = read(tmp_path / "new" / "page.html")
    assert set(sections) <= set(parsed.ids) and "scored on the validation images" in again and "step" in again
    # the same validation, and so the same scores, and the speed of the training
    cards = re.compile(r"<div class=cards>.*?</div></div>")
    assert cards.search(again).group() == cards.search(text).group() and "14 images" not in again
    assert len(text) < 3e6


def test_a_report_that_fails_is_a_line(tiny, monkeypatch, capsys):
    task, data, trainer = tiny(pictures=1, max_steps=2)
    # a folder where the page should be
    (trainer.run_folder / "report.html").mkdir(parents=True)
    trainer.fit(task, data)
    assert trainer.global_step == 2 and "no report is written: IsADirectoryError" in capsys.readouterr().out


def test_no_report_without_pictures_validation_or_our_data(tiny):
    for options in ({"pictures": 0}, {"pictures": 1, "limit_val_batches": 0}):
        task, data, trainer = tiny(max_steps=1, **options)
        trainer.fit(task, data)
        assert not (trainer.run_folder / "report.html").exists()
    task, data, trainer = tiny(max_steps=1, pictures=1)
    trainer.fit(task, data.train_dataloader(), data.val_dataloader())
    assert not (trainer.run_folder / "report.html").exists()


def test_the_report_is_about_the_best_validation(tiny):
    task, data, trainer = tiny(max_epochs=3, pictures=1)

    class Scores(L.Callback):
        def __init__(self):
            self.seen = []

        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.seen.append((float(trainer.callback_metrics["val/AP"]), trainer.global_step))

    scores = Scores()
    trainer.callbacks.insert(0, scores)
    trainer.fit(task, data)
    best = max(scores.seen, key=lambda one: one[0])
    assert f"best validation: step {best[1]}," in (trainer.run_folder / "report.html").read_text()


def test_large_sets_are_capped_with_a_line(tiny, monkeypatch):
    monkeypatch.setattr(page, "MOST", 3)
    task, data, trainer = tiny(max_steps=1, pictures=1)
    trainer.fit(task, data)
    assert "about 3 of the 5 images" in (trainer.run_folder / "report.html").read_text()


def test_history_of_a_resumed_run_is_one(tmp_path):
    (tmp_path / "metrics_0.csv").write_text("step,lr,val/AP\n1,0.1,\n2,0.2,\n2,,0.5\n3,0.3,\n")
    (tmp_path / "metrics.csv").write_text("step,lr,val/AP\n3,0.4,\n4,,0.6\n")
    history = read_history(tmp_path)
    assert history["lr"][0].tolist() == [1, 2, 3] and history["lr"][1].tolist() == [0.1, 0.2, 0.4]
    assert history["val/AP"][1].tolist() == [0.5, 0.6] and read_history(tmp_path / "none") == {}


@pytest.mark.parametrize("values", [[], [1.0], [np.nan, 2.0], [3.0, 3.0], list(range(5000)), [1e-9, 1e9]])
def test_any_line_can_be_drawn(values):
    y = np.array(values, np.float64)
    drawn = chart("<title>", [Line("a & b", np.arange(len(y)), y)], x="x", y="y")
    assert "&lt;title&gt;" in drawn and "a &amp; b" in drawn and "nan" not in drawn and len(drawn) < 9000
    # a single value is a point
    assert drawn.count("<circle") == (len(y[np.isfinite(y)]) == 1)


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (0.3, 17), (-5, 5), (1e-5, 3e-5), (0, 12345)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 12 and all(low - 1e-9 <= value <= high + 1e-9 for value in found)
