"""Every row of the table of commands: "to … say …"."""

import json
import shutil
import sys
from pathlib import Path

import pages
import pytest
import tiny
import torch
from commands import BEST, CONFIG

import vitdet
from vitdet.command import shipped

TABLE = [piece for piece in pages.of_kind("row") if piece.table == ("to", "say")]


def keys(site, says):
    out = site.say(says[0])
    for text in ("num_queries", "out_strides", "batch_size", "max_steps", "val_images"):  # of all its parts
        assert text in out


def bound(site, says):
    train(site, says[0])
    assert site.resolved()["trainer"]["max_time"] == says[0].split()[1]


def go_on(site, says):
    run = site.newest()
    step = torch.load(run / "last.ckpt", weights_only=True)["global_step"]
    train(site, says[0], "--trainer.max_steps", str(step + 1))
    assert site.newest() == run and torch.load(run / "last.ckpt", weights_only=True)["global_step"] == step + 1


def score_known(site, says):
    runs = sorted(Path("runs").rglob("version_*"))
    out = site.say(says[0])
    assert "all 2 images" in out and "predictions.json" in out and "dirpath" not in out
    assert sorted(Path("runs").rglob("version_*")) == runs


def score_other(site, says):
    assert "all 2 images" in site.say(says[0])


def find(site, says):
    site.say(says[0])
    names = {path.name for path in Path("predictions").rglob("*") if path.is_file()}
    assert {"photo.jpg", "000000.jpg", "000001.jpg", "predictions.json"} <= names


def find_and_score(site, says):
    shutil.rmtree("predictions", ignore_errors=True)
    assert AP(site.say(says[0] + " ") + site.say(says[1])) == AP(site.say(f"vitdet test {CONFIG} --ckpt_path {BEST}"))


def score_file(site, says):
    truth = json.loads(Path("annotations.json").read_text())
    rows = [
        {**{key: a[key] for key in ("image_id", "category_id", "bbox")}, "score": 1.0} for a in truth["annotations"]
    ]
    Path("predictions.json").write_text(json.dumps(rows))
    assert AP(site.say(says[0])) == "1.0000"


def thresholds(site, says):
    """The bound of a threshold of its own is lowered: the small model has seen two images."""
    shutil.copy(BEST, "kept.ckpt")
    out = site.say(says[0])
    assert f"saved in {BEST}" in out and "best F1 at IoU 0.5" in out
    assert torch.load(BEST, weights_only=True)["vitdet"]["thresholds"]["rule"] == "f1"
    shutil.move("kept.ckpt", BEST)


def wanted_precision(site, says):
    train(site, says[0])
    assert site.resolved()["trainer"]["thresholds"] == says[0].split()[1]


def better_model(site, says):
    out = site.say(says[0])
    assert "Both have the same AP in every draw" in out and "1000 draws of the images" in out


def better_file(site, says):
    score_file(site, ["vitdet evaluate predictions.json annotations.json"])
    shutil.copy("predictions.json", "other.json")
    assert "Both have the same AP in every draw" in site.say(says[0])


def measure(site, says):
    for say in says:
        out = site.say(say)
        assert "parameters" in out and "memory" in out


def max_tokens(site, says):
    train(site, says[0])
    data = site.resolved()["data"]["init_args"]
    assert data["max_tokens"] == int(says[0].split()[1]) and says[1].removeprefix("--data.") in data


def early(site, says):
    train(site, says[0])
    (stopping,) = site.resolved()["trainer"]["callbacks"]
    assert stopping["class_path"].endswith("EarlyStopping")
    assert (stopping["init_args"]["monitor"], stopping["init_args"]["mode"]) == ("val/AP", "max")


def other_score(site, says):
    assert "best val/AP50" in train(site, says[0])


def wandb(site, says):
    """Without the package and an account: Lightning's logger is requested, and the error names the package to
    install."""
    pytest.importorskip("lightning.pytorch.loggers")
    try:
        import wandb as _  # noqa: F401
    except ImportError:
        with pytest.raises(AssertionError, match="wandb"):
            train(site, says[0])
        site.say(says[1])
    else:
        train(site, says[0], "--trainer.logger.offline", "true")


def compiled(site, says):
    """Without a GPU it is refused, with the reason."""
    if torch.cuda.is_available():
        assert "best val/AP" in train(site, f"{says[0]} --trainer.accelerator gpu")
    else:
        with pytest.raises(AssertionError, match=r"vitdet: .*compile is true, but on a CPU"):
            train(site, says[0])


def bf16(site, says):
    assert "best val/AP" in train(site, says[0])


def replay(site, says):
    """A learning rate of 1e30 leaves weights that are finite, and nothing else that is."""
    high = "--model.lr 1e30 --trainer.gradient_clip_val null --trainer.limit_val_batches 0 --trainer.max_steps 9"
    with pytest.raises(AssertionError, match=r"2 steps in a row were skipped.*`vitdet replay runs/high/vers"):
        train(site, high, "--trainer.skip_steps 2 --trainer.name high")
    said = site.say(says[0].replace("…", f"high/{site.newest('high').name}"))
    assert "first module whose output is not finite: " in said and "the step is not finite here, too" in said


def fsdp(site, says):
    """Two processes on the CPU, each with a part of the weights."""
    small = [*site.small(CONFIG, train=True), "--trainer.name", "fsdp", "--trainer.devices", "2"]
    out = site.process(sys.executable, "-m", "vitdet", "train", CONFIG, *says[0].split(), *small)
    assert "best val/AP" in out and site.resolved("fsdp")["trainer"]["strategy"] == "fsdp"


def version(site, says):
    assert vitdet.__version__ in site.say(says[0])


def debug(site, says):
    variable, *command = says[0].split()
    wrong = " ".join([*command, "--model.lrr", "1"])
    for told, text in ((False, wrong), (True, f"{variable} {wrong}")):
        with pytest.raises(BaseException) as error:
            site.say(text)
        traceback = "Traceback" in str(error.value) or not isinstance(error.value, AssertionError)
        assert traceback == told


def report(site, says):
    assert "report: page.html" in site.say(says[0])
    assert "Worst images" in (site.folder / "page.html").read_text(encoding="utf-8")


def looked(site, says):
    assert "page: looked/explain.html" in site.say(says[0])
    assert "What best.ckpt looked at in photo.jpg" in (site.folder / "looked" / "explain.html").read_text("utf-8")


def configs(site, says):
    lines = site.say(says[0]).splitlines()
    assert all(any(line.startswith(f"{name} ") and len(line.split()) > 4 for line in lines) for name in shipped.names())


def read_config(site, says):
    assert site.say(says[0]) == (shipped.folder() / "finetune.yaml").read_text(encoding="utf-8")


def new(site, says):
    """What it begins is a config that trains."""
    site.say(says[0])
    tiny.weights("vit_small_patch14_dinov2", Path())
    out = site.say("vitdet train my.yaml --data FOLDER --trainer.max_steps 1")
    assert "best val/AP" in out and site.resolved("my")["data"]["class_path"] == "vitdet.CocoData"


CHECKS = {
    "see which configs there are, and what each is for": configs,
    "read one": read_config,
    "begin a config of your own": new,
    "see every key that a config takes": keys,
    "bound the time, in days, hours, minutes and seconds": bound,
    "stop, and go on": go_on,
    "score a checkpoint on the data that it was trained with": score_known,
    "score it on other data": score_other,
    "find objects in images": find,
    "find and score them": find_and_score,
    "see where it fails, and why": report,
    "see what it looked at in an image": looked,
    "score anybody's results file": score_file,
    "choose the scores from which detections count, of a model that is trained": thresholds,
    "choose them by a wanted precision, in the training": wanted_precision,
    "see whether another model is better": better_model,
    "compare two results files": better_file,
    "see size, speed and memory": measure,
    "bound the memory of a batch": max_tokens,
    "stop early": early,
    "choose `best.ckpt` by another score": other_score,
    "log to W&B": wandb,
    "compile, on a GPU": compiled,
    "train in bf16": bf16,
    "see why the steps of a training were skipped, where their loss or gradients were not finite": replay,
    "train a model that does not fit a GPU": fsdp,
    "see which version this is": version,
    "see where an error comes from": debug,
}


def train(site, options, *more):
    """The README's first command with these options."""
    return site.say(" ".join(["vitdet", "train", CONFIG, options, *more]))


def AP(out):
    return next(line.split("│")[2].strip() for line in out.splitlines() if line.startswith("│ AP "))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.cells[0])
def test_what_it_says_does_it(row, site):
    task, say = row.cells
    assert task in CHECKS, f"{row}: say in CHECKS how {task!r} is run"
    CHECKS[task](site, pages.spans(say))


def test_every_check_is_of_a_row():
    assert {row.cells[0] for row in TABLE} == set(CHECKS)
