"""The chosen thresholds are the best ones, found here by trying every score, and their lines say what was done."""

import io

import numpy as np
import pytest
from coco_oracle import make_case, predictions
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from vitdet.errors import UserError
from vitdet.metrics import CocoMetric, print_scores
from vitdet.metrics.compare import Difference, print_comparison
from vitdet.metrics.thresholds import FEW, Matches, best_point, check_rule, choose, print_thresholds


def worth(scores, right, objects, threshold):
    """Precision, recall and F1 of what scores at least the threshold."""
    kept = right[scores >= threshold]
    found = kept.sum()
    return found / max(len(kept), 1), found / objects, 2 * found / (len(kept) + objects)


def tried(scores, right, objects):
    return [(score, *worth(scores, right, objects, score)) for score in sorted(set(scores.tolist()))]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_rule_takes_the_best_of_all_thresholds(data):
    count = data.draw(st.integers(1, 30))
    scores = np.array(
        data.draw(st.lists(st.sampled_from([i / 12 for i in range(1, 13)]), min_size=count, max_size=count))
    )
    right = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    objects = int(right.sum()) + data.draw(st.integers(0, 5))
    wanted = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
    if not right.any():
        assert best_point(scores, right, max(objects, 1), "f1", 1.0) is None
        return
    every = tried(scores, right, objects)
    for rule in ("f1", "precision", "recall"):
        point = best_point(scores, right, objects, rule, wanted)
        got = worth(scores, right, objects, point.threshold)
        assert got == pytest.approx((point.precision, point.recall, point.f1))
        if rule == "f1":
            assert got[2] == pytest.approx(max(f1 for *_, f1 in every))
        if rule == "precision":
            good = [recall for _, precision, recall, _ in every if precision >= wanted]
            best = max(good) if good else max(r for _, p, r, _ in every if p == max(p for _, p, _, _ in every))
            assert got[1] == pytest.approx(best) and point.reached == bool(good)
        if rule == "recall":
            reach = [score for score, _, recall, _ in every if recall >= wanted]
            assert point.reached == bool(reach)
            assert (
                (scores >= point.threshold).sum() == (scores >= max(reach)).sum()
                if reach
                else got[1] == right.sum() / objects
            )


def matches(rng, per_class):
    """Detections of classes, of each `(right, wrong, missed)`; the right ones score higher."""
    rows = [
        (score, k, right)
        for k, (good, bad, _) in enumerate(per_class)
        for right, count, low in ((True, good, 0.4), (False, bad, 0.0))
        for score in low + 0.5 * rng.random(count)
    ]
    scores, labels, right = map(np.array, zip(*rows)) if rows else (np.zeros(0), np.zeros(0, int), np.zeros(0, bool))
    return Matches(scores, labels, right.astype(bool), np.array([good + missed for good, _, missed in per_class]))


def test_a_class_of_few_objects_has_the_threshold_of_all():
    found = matches(np.random.default_rng(0), [(40, 50, 5), (FEW - 1, 30, 0), (0, 20, 0), (0, 9, 30), (30, 2, 1)])
    chosen = choose(found)
    everything = best_point(found.scores, found.right, int(found.objects.sum()), "f1", 1.0).threshold
    assert chosen["own"] == [True, False, False, False, True] and chosen["all"] == everything
    assert [chosen["values"][k] for k in (1, 2, 3)] == [everything] * 3 and chosen["values"][0] != everything
    assert chosen["recall"][2] == -1 and chosen["objects"] == [45, FEW - 1, 0, 30, 31]
    text = io.StringIO()
    print_thresholds(chosen, list("abcde"), Console(file=text, width=200))
    said = " ".join(text.getvalue().split())
    assert "best F1 at IoU 0.5" in said and "3 of 5 classes have that of all classes" in said and "none" in said


def test_names_of_classes_are_printed_as_they_are(capsys):
    names = ["[/z]", ":dog:"]
    print_thresholds(choose(matches(np.random.default_rng(0), [(20, 5, 5), (20, 5, 5)])), names)
    print_scores({"AP": 0.5, **{f"AP/{name}": 0.5 for name in names}}, "[/x]")
    print_comparison([Difference(f"AP/{name}", 0.1, 0.2, 0.0, 0.1) for name in names], "[/a]", "[/b]", "[/x]")
    said = capsys.readouterr().out
    assert all(said.count(name) == 3 for name in names) and said.count("[/x]") == 2


def test_nothing_found_gives_nothing():
    assert choose(matches(np.random.default_rng(0), [(0, 30, 20), (0, 0, 0)])) is None
    assert choose(matches(np.random.default_rng(0), [(0, 0, 12)])) is None


def test_what_is_not_reached_is_said():
    found = matches(np.random.default_rng(0), [(20, 30, 40)])
    chosen = choose(found, "recall=0.9")
    assert chosen["missed"] == 2 and chosen["recall"] == [pytest.approx(1 / 3)]  # of the class, and of all
    text = io.StringIO()
    print_thresholds(chosen, ["a"], Console(file=text, width=300))
    assert "2 do not reach what was wanted" in text.getvalue()
    assert choose(found, "precision=0.5")["missed"] == 0


@pytest.mark.parametrize("rule", ["F1", "f1=2", "precision", "precision=1.5", "recall=-1", "recall=x", 0.5, "best"])
def test_other_rules_are_refused(rule):
    with pytest.raises(UserError, match="thresholds is .*; wanted f1, or precision=P"):
        check_rule(rule)


def test_right_and_wrong_are_those_of_ap50():
    """AP50 from the flags, by its definition, is AP50 of the metric; crowds and their matches count on no side."""
    rng, seen = np.random.default_rng(3), 0
    for _ in range(60):
        truth, detections = make_case(rng, crowded=True)
        metric = CocoMetric(truth)
        metric.update(predictions(truth, detections))
        scores = metric.compute()
        found = metric.matches
        aps = []
        for k, objects in enumerate(found.objects):
            if objects:
                mine = found.labels == k
                order = np.argsort(-found.scores[mine], kind="stable")
                true = np.cumsum(found.right[mine][order])
                precision = np.maximum.accumulate((true / (np.arange(len(true)) + 1))[::-1])[::-1]
                at = np.searchsorted(true / objects, np.linspace(0, 1, 101))
                aps.append(np.append(precision, 0)[np.minimum(at, len(precision))].mean())
        if aps and not tied(found):
            seen += 1
            assert np.mean(aps) == pytest.approx(scores["AP50"], abs=1e-9)
    assert seen > 5


def tied(found):
    """Whether a right and a wrong detection of a class have the same score: their order is then that of the images."""
    return any(
        set(found.scores[(found.labels == k) & found.right]) & set(found.scores[(found.labels == k) & ~found.right])
        for k in range(len(found.objects))
    )
