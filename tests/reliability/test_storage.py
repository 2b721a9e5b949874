"""Training and scoring on data in object storage: the same as from disk, bit for bit, whatever fails on the way.

The storage is a process of its own (`storage.py`). The long form also puts that in front of moto, where it is
installed, so that another hand's S3 is read, too.
"""

import csv
import pickle
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from chaos import finish, rounds, start, tiny_config
from storage import KINDS, Storage

from vitdet.annotations import CocoIndex
from vitdet.cli import main
from vitdet.data import CocoData, PanopticData, PanopticSplit, SemanticData, SemanticSplit, Split
from vitdet.data.names import missing, why
from vitdet.data.sampler import Draw
from vitdet.data.shapes import make_shapes
from vitdet.data.shapes_scene import STUFF, THINGS
from vitdet.errors import UserError
from vitdet.images import ImageError, load_image
from vitdet.remote import RefusedError, copies, place, tries

SECRET = "0123456789secret"
BUCKET = "birds"
# names with characters that mean something in an address
ODD = ["a b#1.jpg", "50%25.jpg", "ü?.jpg", "sub/c&d.jpg"]


@pytest.fixture(scope="module", params=["own", "moto"] if rounds(0, 1) and find_spec("moto") else ["own"])
def store(request, tmp_path_factory):
    """A storage with the built-in data in the bucket `birds`, and what the environment says of it."""
    folder = tmp_path_factory.mktemp("store")
    make_shapes(folder / BUCKET, train=12, val=5)
    for name in ODD:
        path = folder / BUCKET / "odd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / BUCKET / "val" / "000000.jpg", path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        behind = Moto(folder) if request.param == "moto" else None
        storage = Storage(folder if behind is None else behind.url)
        storage.folder = folder
        patch.setenv("AWS_ENDPOINT_URL", storage.url)
        # connections to another storage of an earlier test
        tries._PROCESSES.clear()
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield storage
        storage.close()
        if behind is not None:
            behind.process.kill()
            behind.process.wait()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Tests wait for a tenth of what runs wait for; processes that are forked have it from this one."""
    monkeypatch.setattr(tries, "PAUSE", tries.PAUSE / 10)


class Moto:
    """moto's server with all files of the folder."""

    def __init__(self, folder: Path) -> None:
        import boto3
        from botocore.config import Config

        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        lines = iter(self.process.stderr.readline, "")
        self.url = next(line.split("Running on ")[1].strip() for line in lines if "Running on " in line)
        options = {"endpoint_url": self.url, "config": Config(s3={"addressing_style": "path"})}
        client = boto3.client("s3", region_name="us-east-1", **options)
        client.create_bucket(Bucket=BUCKET)
        for path in (folder / BUCKET).rglob("*"):
            if path.is_file():
                key = path.relative_to(folder / BUCKET).as_posix()
                client.upload_file(str(path), BUCKET, key, ExtraArgs={"ACL": "public-read"})


def coco(at: str) -> dict:
    """The splits of the built-in data, with boxes, below a folder or an address."""
    return {
        name: {"images": f"{at}/{name}", "annotations": f"{at}/annotations/instances_{name}.json"}
        for name in ("train", "val")
    }


def modules(at: str, **options):
    """Data modules of all kinds below a folder or an address."""
    names = ("train", "val")
    options = {"size": 64, "batch_size": 4, **options}
    yield CocoData(**{name: Split(**files) for name, files in coco(at).items()}, **options)
    panoptic = {
        n: PanopticSplit(f"{at}/{n}", f"{at}/annotations/panoptic_{n}.json", f"{at}/panoptic_{n}") for n in names
    }
    yield PanopticData(**panoptic, **options)
    if not at.startswith("http"):
        pairs = {name: SemanticSplit(f"{at}/{name}", f"{at}/semantic_{name}") for name in names}
        yield SemanticData(**pairs, classes=[*THINGS, *STUFF], **options)


def samples(data) -> list:
    """All samples of a data module in order, of training and of validation, with masks."""
    data.masks = True
    found = []
    for loader in (data.train_dataloader(), data.evaluation("val")):
        source = loader.dataset
        found += [
            pair for i in range(0, len(source), 4) for pair in source.__getitems__([Draw(j) for j in _four(source, i)])
        ]
    return found


def _four(source, i: int) -> range:
    return range(i, min(i + 4, len(source)))


def equal(a, b) -> bool:
    """Whether two values are of equal bits, tensors in dataclasses and lists included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return equal(vars(a), vars(b)) if hasattr(a, "__dict__") else a == b


def train(folder: Path, at: str, *words: str, workers: int = 2, **reading) -> tuple[dict, list]:
    """The last checkpoint of a training, and what `metrics.csv` has of it, times aside."""
    data = {"class_path": "CocoData", **coco(at), "size": 64, "batch_size": 4, "num_workers": workers}
    config = tiny_config(folder, data={**data, "reading": reading}, trainer={"max_epochs": 2})
    main(["train", str(config), *words])
    run = max((folder / "runs" / "tiny").iterdir())
    with open(run / "metrics.csv", newline="") as file:
        rows = [{key: value for key, value in row.items() if not _is_time(key)} for row in csv.DictReader(file)]
    return torch.load(run / "last.ckpt", weights_only=True), rows


def _is_time(key: str) -> bool:
    return any(word in key for word in ("time", "wait", "per_s", "images/s", "memory", "seconds"))


@pytest.mark.parametrize("seed", range(rounds(1, 10)))
def test_a_training_from_a_failing_storage_is_one_from_disk(store, tmp_path, seed):
    """Weights, optimiser, average, scores: each file fails up to twice, in five ways, with two workers or none."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir(), here.mkdir()
    workers = 2 if seed % 2 == 0 else 0
    expected, rows = train(here, str(store.folder / BUCKET), workers=workers)
    with store.failing(KINDS, times=2, seed=seed, seconds=1, commands=["GET", "HEAD"]):
        found, others = train(there, f"s3://{BUCKET}", workers=workers, timeout=0.5)
        counts = store.counts("failed")
    assert sum(counts.values()) > 5
    for key in ("state_dict", "ema_state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "epoch"):
        assert equal(expected[key], found[key]), key
    assert rows == others and rows


@pytest.mark.parametrize("address", ["s3://birds", "http://HOST/birds"])
def test_samples_and_indices_are_those_from_disk(store, address):
    """Boxes, panoptic and semantic; a web server can't list its files, so that only names in a JSON are read there."""
    at = address.replace("http://HOST", store.url)
    for on_disk, remote in zip(modules(str(store.folder / BUCKET)), modules(at)):
        for split in ("train", "val"):
            one, other = on_disk.index(split), remote.index(split)
            assert list(one.file_names) == list(other.file_names) and list(one.names) == list(other.names)
            for name in ("image_ids", "heights", "widths", "boxes_xywh", "categories", "first", "area"):
                assert equal(getattr(one, name, None), getattr(other, name, None)), name
        assert equal(samples(on_disk), samples(remote)), type(remote).__name__
        assert on_disk.describe().replace(str(store.folder / BUCKET), at) == remote.describe()


@pytest.mark.parametrize("kind", KINDS)
def test_each_failure_is_tried_again(store, kind):
    content = (store.folder / BUCKET / "val" / "000000.jpg").read_bytes()
    folder = place(f"s3://{BUCKET}/val", timeout=0.5)
    assert folder.is_dir()
    with store.failing([kind], times=2, always=True, seconds=1):
        assert (folder / "000000.jpg").read() == content
        assert store.counts("failed") == {f"/{BUCKET}/val/000000.jpg": 2}
    # lists, of which a page may fail
    with store.failing([kind], times=2, always=True, listing=True, seconds=1):
        assert len(place(f"s3://{BUCKET}/val", timeout=0.5).names()) == 5


def test_a_lasting_failure_stops_the_run_in_one_sentence(store, tmp_path, caplog, capsys):
    """Also where images that can't be used are skipped: the image is not to blame."""
    with store.failing(["busy"], times=99, always=True, path="/train/"), pytest.raises(SystemExit) as end:
        train(tmp_path, f"s3://{BUCKET}", tries=2, on_bad_image="skip")
    said = capsys.readouterr()
    assert end.value.code == 2
    last = said.err.strip().splitlines()[-1]
    assert "could not be read after 2 tries: " in last and "reduce your request rate" in last, said.err[-2000:]
    assert f"s3://{BUCKET}/train/" in last and "--ckpt_path last" in last
    assert "Traceback" not in said.err and SECRET not in said.err + said.out + caplog.text


def test_who_may_not_read_is_told_at_once(store):
    file = place(f"s3://{BUCKET}/val/000000.jpg")
    with store.failing(["denied"], times=99, always=True), pytest.raises(RefusedError, match="credentials"):
        file.read()
    assert store.counts()[f"/{BUCKET}/val/000000.jpg"] <= 2
    # who may read, but not list, is told that missing files are seen late
    with store.failing(["denied"], times=99, always=True, listing=True):
        folder = place(f"s3://{BUCKET}/val")
        assert folder.is_dir() and folder.listing is None
        assert load_image(folder / "000000.jpg").ndim == 3


def test_missing_files_are_found_before_the_first_step(store):
    """As from disk, with the name that was probably meant."""
    index = CocoIndex.open(f"s3://{BUCKET}/annotations/instances_val.json")
    data = CocoData(val=Split(f"s3://{BUCKET}/train", index.path.url), size=64)
    data.files.check("validate")
    there = store.folder / BUCKET / "val" / "000001.jpg"
    folder = place(f"s3://{BUCKET}/val")
    with pytest.raises(ImageError, match="000099.jpg can't be read as an image: it does not exist"):
        load_image(folder / "000099.jpg")
    assert missing(folder, [(0, "000000.jpg"), (1, "000001.JPG"), (2, "../x.jpg")]) == [1, 2]
    assert "did you mean '000001.jpg'" in why(folder, "000001.JPG") and there.exists()
    with pytest.raises(FileNotFoundError, match="is no folder"):
        CocoData(val=Split(f"s3://{BUCKET}/nothing", index.path.url))
    with pytest.raises(FileNotFoundError, match=f"s3://{BUCKET}/annotations/nothing.json does not exist"):
        CocoIndex.open(f"s3://{BUCKET}/annotations/nothing.json")


def test_annotations_are_fetched_once_by_several_processes(store, tmp_path):
    """And again when they have changed; a process that is killed in between leaves no half of a copy."""
    code = f"from vitdet.annotations import CocoIndex; print(len(CocoIndex.open('s3://{BUCKET}/annotations/instances_train.json')))"
    path = f"/{BUCKET}/annotations/instances_train.json"
    with store.failing(latency=0.3):
        processes = [start(["-c", code], program=(), XDG_CACHE_HOME=str(tmp_path)) for _ in range(rounds(2, 8))]
        assert {finish(process, 60)[1].strip().splitlines()[-1] for process in processes} == {"12"}
        # each asks for the version; one fetches the file, and asks again whether it has changed
        assert store.counts()[path] == len(processes) + 2
    files = sorted(file.name for file in (tmp_path / "vitdet" / "remote").rglob("*") if file.is_file())
    assert files == [".lock", "instances_train.json", "instances_train.json.vitdet-cache"]


def test_a_large_file_is_fetched_in_parts(store, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "BLOCK", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = "annotations/instances_val.json"
    content = (store.folder / BUCKET / name).read_bytes()
    for at in (f"s3://{BUCKET}", f"{store.url}/{BUCKET}"):
        with store.failing(("cut", "busy", "short"), times=3, always=True):
            copied = place(f"{at}/{name}").local()
            assert copied.read_bytes() == content and copied.name == "instances_val.json"
            assert store.counts()[f"/{BUCKET}/{name}"] >= len(content) // 1000 + 3
        assert CocoIndex.open(f"{at}/{name}").path.url == f"{at}/{name}"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://me:hunter2@example.org/a", "user, a password or a query"),
        ("https://example.org/a.json?signature=hunter2", "user, a password or a query"),
        ("nothing://a/b", "of a kind that can't be read"),
        ("gs://a/b", "pip install gcsfs"),
    ],
)
def test_addresses_that_can_not_be_read_are_errors(address, message):
    with pytest.raises(UserError, match=message) as caught:
        place(address).read()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [["train", "configs/custom.yaml", "--data", "s3://birds/all"], ["data", "check", "s3://birds/all"]],
)
def test_commands_that_need_files_on_disk_say_so(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and "s3://birds/all is an address" in capsys.readouterr().err


def test_names_are_those_of_the_storage(store):
    source = (store.folder / BUCKET / "val" / "000000.jpg").read_bytes()
    web, folder = place(f"{store.url}/{BUCKET}/odd"), place(f"s3://{BUCKET}/odd")
    for name in ODD:
        assert (web / name).read() == (folder / name).read() == source
        assert (web / name).name == (folder / name).name == Path(name).name
    assert folder.names() == sorted(ODD)
    assert folder.below("s3://birds/odd/a.jpg") == "a.jpg" and folder.below("/a.jpg") is None
    assert folder.below("../a.jpg") is None and folder.below("s3://other/a.jpg") is None


def test_workers_that_are_spawned_read_the_same(store):
    """They get the data set as bytes, with the list of files, and not what the process reads with."""
    data = CocoData(train=Split(**coco(f"s3://{BUCKET}")["train"]), size=64)
    dataset = data.train_dataloader().dataset
    again = pickle.loads(pickle.dumps(dataset))
    draws = [Draw(i) for i in range(len(dataset))]
    assert equal(dataset.__getitems__(draws), again.__getitems__(draws))
    assert again.source.path(0).size == (store.folder / BUCKET / "train" / again.source.path(0).name).stat().st_size
