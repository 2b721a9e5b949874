"""Runs over a folder by real processes: killed at any point and gone on with, and shared by several."""

import json
import multiprocessing
import os
import signal
import socket
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.deploy import load, predict_files
from vitdet.deploy.journal import Journal
from vitdet.deploy.ranks import Ranks
from vitdet.errors import UserError

FORMATS = ["coco", "yolo", "labelme", "labelstudio", "csv", "crops"]
# what a process does to files, as Python tells its audit hooks
EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate", "shutil.rmtree"}
fork = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path):
    """Images of two sizes in two folders, of which one is cut off and two have the same name."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(["a.png", "b.jpg", "c.png", "deep/a.png", "deep/ein Bär.png", "z.jpg", "z.png"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 48 if i % 2 else 40, 3), dtype=np.uint8)).save(path)
    cut = tmp_path / "images" / "b.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    return tmp_path / "images"


def tree(output):
    """All files below a folder with their bytes, but for where LabelMe's lead back to the images."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()
    }


def _run(folder, output, environment, stop, model, options):
    """In a process of its own, which kills itself when it is about to touch a file below `output` for the n-th time."""
    torch.set_num_threads(1)
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    left = stop

    def hook(event, args):
        nonlocal left
        names = [str(arg) for arg in args if isinstance(arg, (str, os.PathLike))] if event in EVENTS else []
        if any(name.startswith(str(output)) for name in names):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if stop:
        sys.addaudithook(hook)
    done = predict_files(model, [folder], output=output, batch_size=2, threshold=0.0, formats=FORMATS, **options)
    # what was read, if this process put the results together
    os._exit(10 + done.read)


def start(folder, output, model, *, stop=0, environment=(), **options):
    process = fork.Process(target=_run, args=(folder, output, dict(environment), stop, model, options))
    process.start()
    return process


def end(process):
    process.join(180)
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture
def model(checkpoint):
    return load(checkpoint, device="cpu")


@pytest.fixture
def whole(folder, model, tmp_path):
    """The files of a run that nothing stopped."""
    assert predict_files(model, [folder], output=tmp_path / "whole", batch_size=2, threshold=0.0, formats=FORMATS) == (
        6,
        1,
    )
    return tree(tmp_path / "whole")


def test_what_is_written(whole):
    names = set(whole)
    assert {"a.png", "deep/a.png", "deep/ein Bär.png", "yolo/labels/z.txt", "yolo/labels/z.png.txt"} <= names
    assert {"predictions.json", "predictions.csv", "labelstudio/tasks.json", "labelme/deep/a.json"} <= names
    assert not [name for name in names if name.startswith(".") or name.endswith("b.txt")]
    rows = json.loads(whole["predictions.json"])
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
    assert {row["image_id"] for row in rows} == {1, 3, 4, 5, 6, 7}


@pytest.mark.parametrize("stop", [1, 2, 4, 9, 23, 41, 64, 90, "last"])
def test_a_run_that_is_killed_goes_on_and_ends_the_same(folder, model, whole, tmp_path, stop):
    output = tmp_path / "out"
    if stop == "last":
        # when all batches are done, and results are put in place
        counted = tmp_path / "counted"
        stop = next(n for n in range(130, 0, -4) if _killed(end(start(folder, counted / str(n), model, stop=n)))) - 3
    for _ in range(4):
        # each time a little further, as far as there are batches to be done
        if not _killed(end(start(folder, output, model, stop=stop))):
            break
    else:
        assert end(start(folder, output, model)) == 10 + 6
    assert tree(output) == whole


def _killed(code):
    assert code in (-signal.SIGKILL, 10 + 6)
    return code < 0


def ranks(rank, world, **more):
    return {"RANK": str(rank), "WORLD_SIZE": str(world), **more}


def slurm(rank, world, **more):
    return {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(world), "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", **more}


@pytest.mark.parametrize("kind", ["torchrun", "SLURM", "by hand"])
def test_several_processes_share_a_folder(folder, model, whole, tmp_path, kind):
    make = slurm if kind == "SLURM" else ranks
    more = {}
    if kind == "torchrun":
        with socket.create_server(("127.0.0.1", 0)) as server:
            more = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    output, world = tmp_path / "out", 3
    codes = [
        end(one) for one in [start(folder, output, model, environment=make(i, world, **more)) for i in range(world)]
    ]
    assert sorted(codes) == [10, 10, 10 + 6]
    assert tree(output) == whole


def test_each_process_reads_its_own_images_only(folder, model, tmp_path):
    """By hand and one after the other: the second finds what the first left, and puts all together."""
    output = tmp_path / "out"
    assert end(start(folder, output, model, environment=ranks(0, 2))) == 10
    lines = (output / ".unfinished" / "0-of-2.lines").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "2"] and not (output / "predictions.json").exists()
    assert end(start(folder, output, model, environment=ranks(1, 2))) == 10 + 6


def test_a_killed_process_among_several_and_other_numbers_of_them(folder, model, whole, tmp_path):
    output = tmp_path / "out"
    first = [start(folder, output, model, stop=i * 30, environment=slurm(i, 2)) for i in range(2)]
    assert sorted(map(end, first)) == [-signal.SIGKILL, 10]
    again = [start(folder, output, model, environment=slurm(i, 3, SLURM_JOB_ID="8")) for i in range(3)]
    assert sorted(map(end, again)) == [10, 10, 10 + 6]
    assert tree(output) == whole


def test_a_process_that_comes_late_does_nothing_again(folder, model, whole, tmp_path):
    """All that is left belongs to process 0, which must not finish before process 1 has seen what is done."""
    output = tmp_path / "out"
    assert end(start(folder, output, model, environment=ranks(1, 2))) == 10
    late = [start(folder, output, model, environment=slurm(0, 2, SLURM_JOB_ID="9"))]
    late[0].join(0.5)
    assert late[0].exitcode is None
    late.append(start(folder, output, model, environment=slurm(1, 2, SLURM_JOB_ID="9")))
    assert sorted(map(end, late)) == [10, 10 + 6]
    assert tree(output) == whole


def test_an_unfinished_run_of_something_else_is_kept(folder, model, tmp_path, capsys):
    output = tmp_path / "out"
    assert end(start(folder, output, model, environment=ranks(0, 2))) == 10
    options = {"output": output, "batch_size": 2, "formats": FORMATS, "threshold": 0.0}
    for other, said in (
        ({"threshold": 0.5}, r"threshold 0\.0, and this one has 0\.5: repeat that run to go on with it"),
        ({"formats": ["csv"]}, "formats "),
        ({"drawings": False}, "drawings True, and this one has False"),
    ):
        with pytest.raises(UserError, match=f"holds an unfinished run with {said}"):
            predict_files(model, [folder], **{**options, **other})
    Image.new("RGB", (8, 8)).save(folder / "new.png")
    with pytest.raises(UserError, match="holds an unfinished run with images '7, .* and this one has '8, "):
        predict_files(model, [folder], **options)
    (folder / "new.png").unlink()
    capsys.readouterr()
    assert predict_files(model, [folder], **options) == (6, 1)
    assert "2 of 4 batches were predicted before" in capsys.readouterr().out


def test_a_disk_that_is_full_at_the_end(folder, model, whole, tmp_path, capsys):
    output = tmp_path / "out"
    options = {"output": output, "batch_size": 2, "formats": FORMATS, "threshold": 0.0}
    (output / ".unfinished").mkdir(parents=True)
    (output / ".unfinished" / "predictions.csv").symlink_to("/dev/full")  # no space left on that device
    with pytest.raises(UserError, match="No space left on device.*the same command goes on with it"):
        predict_files(model, [folder], **options)
    assert not (output / "predictions.json").exists()
    (output / ".unfinished" / "predictions.csv").unlink()
    capsys.readouterr()
    assert predict_files(model, [folder], **options) == (6, 1)
    assert "4 of 4 batches were predicted before" in capsys.readouterr().out
    assert tree(output) == whole


def test_two_runs_into_a_folder_at_the_same_time(folder, model, tmp_path):
    about = {"a": 1}
    journal = Journal(tmp_path, about, Ranks())
    with pytest.raises(UserError, match="another process is predicting into"):
        Journal(tmp_path, about, Ranks())
    journal.add(0, {"counts": {}, "texts": {}})
    journal.close()
    again = Journal(tmp_path, about, Ranks())
    assert list(again.done) == [0]
    again.close()


@pytest.mark.parametrize("torn", [0, 1, 5, 11])
def test_a_line_that_was_cut_off_is_done_again(tmp_path, torn):
    journal = Journal(tmp_path, {}, Ranks())
    for batch in range(2):
        journal.add(batch, {"counts": {"read": batch}, "texts": {"s": ["é\n"]}})
    journal.close()
    path = tmp_path / ".unfinished" / "0-of-1.lines"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - torn])
    journal = Journal(tmp_path, {}, Ranks())
    assert list(journal.done) == ([0] if torn else [0, 1])
    if torn:
        journal.add(1, {"counts": {"read": 1}, "texts": {"s": ["é\n"]}})
    assert [record["counts"]["read"] for record in journal.records(2)] == [0, 1]
    journal.close()
    assert path.read_bytes() == whole


def test_who_this_process_is(monkeypatch, tmp_path):
    def found(**environment):
        with pytest.MonkeyPatch.context() as patch:
            for name in (
                "RANK",
                "WORLD_SIZE",
                "LOCAL_RANK",
                "SLURM_PROCID",
                "SLURM_NTASKS",
                "SLURM_JOB_ID",
                "SLURM_STEP_ID",
            ):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            return Ranks.find()

    assert found() == Ranks(0, 1, 0, None)
    assert found(RANK="2", WORLD_SIZE="4", LOCAL_RANK="1") == Ranks(2, 4, 1, None)
    assert found(SLURM_PROCID="1", SLURM_NTASKS="2") == Ranks(1, 2, 0, None)
    # the script of a batch job, which srun did not start
    assert found(SLURM_PROCID="0", SLURM_NTASKS="4", SLURM_JOB_ID="7") == Ranks()
    for wrong in (
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "x", "WORLD_SIZE": "4"},
        {"RANK": "-1", "WORLD_SIZE": "4"},
    ):
        with pytest.raises(UserError, match="wanted the number of a process"):
            found(**wrong)
    with pytest.raises(UserError, match="only 1 of 2 processes came"):
        Ranks(0, 2, 0, "run").wait(tmp_path, patience=0.1)


def test_a_batch_that_was_predicted_before_is_not_predicted_again(folder, model, whole, tmp_path):
    """Image files that are done may even be gone, as long as the list of their names is the same."""
    output = tmp_path / "out"
    assert end(start(folder, output, model, environment=ranks(0, 2))) == 10
    (folder / "a.png").write_bytes(b"changed")
    assert predict_files(model, [folder], output=output, batch_size=2, threshold=0.0, formats=FORMATS) == (6, 1)
    assert tree(output) == whole
