"""`vitdet data get` from a server on this machine that has small files of the layout of the published ones."""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import vitdet.data
from vitdet.cli import main
from vitdet.data.shapes import make_shapes
from vitdet.download import catalogue, get
from vitdet.download.archives import unpack
from vitdet.download.catalogue import SETS
from vitdet.download.files import DownloadError

ROOT = Path(__file__).parents[2]
NAMES = {"train": 6, "val": 4}


def packed(files, kind="zip"):
    """An archive of files, whose names and contents are given."""
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def tree(folder, prefix=""):
    return {f"{prefix}{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """The built-in images in files like those of COCO."""
    shapes = make_shapes(tmp_path_factory.mktemp("coco") / "shapes", **NAMES)
    text = {path.stem: path.read_bytes() for path in (shapes / "annotations").glob("*.json")}
    jsons = {
        kind: {f"annotations/{kind}_{split}2017.json": text[f"{kind}_{split}"] for split in NAMES}
        for kind in ("instances", "panoptic")
    }
    masks = {
        f"annotations/panoptic_{split}2017.zip": packed(tree(shapes / f"panoptic_{split}", f"panoptic_{split}2017/"))
        for split in NAMES
    }
    images = {f"{split}2017.zip": packed(tree(shapes / split, f"{split}2017/")) for split in NAMES}
    return {
        **images,
        "annotations_trainval2017.zip": packed({**jsons["instances"], "annotations/captions_val2017.json": b"{}"}),
        "panoptic_annotations_trainval2017.zip": packed({**jsons["panoptic"], **masks}),
    }


def small(published, files, url, counts):
    """A published data set whose files are those of the server."""
    archives = []
    for archive in published.archives:
        content = files.get(archive.name, b"")
        digest = f"sha1:{hashlib.sha1(content).hexdigest()}" if archive.digest else None
        exact = len(content) if archive.size is not None else None
        where = f"{url}/{archive.name}" if archive.url else ""
        archives.append(replace(archive, url=where, size=exact, digest=digest, about=0, unpacked=0))
    return replace(published, archives=tuple(archives), counts=counts)


@pytest.fixture
def site(server, coco, tmp_path, monkeypatch):
    """The server with COCO, in an empty folder; the catalogue's addresses are those of the server."""
    monkeypatch.chdir(tmp_path)
    server.files.update(coco)
    images = {f"{split}2017": count for split, count in NAMES.items()}
    counts = {
        "coco": images,
        "coco-val": {"val2017": NAMES["val"]},
        "coco-panoptic": images | {f"annotations/panoptic_{split}": n for split, n in images.items()},
    }
    for name, wanted in counts.items():
        monkeypatch.setitem(SETS, name, small(SETS[name], server.files, server.url, wanted))
    return server


def run(*argv):
    """What a command prints, and its exit status."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["data", "get", *argv])
        except SystemExit as ended:
            status = ended.code
    return status, out.getvalue(), err.getvalue()


def left(folder):
    """The files of a folder that are neither data nor the lock."""
    return sorted(path.name for path in Path(folder).iterdir() if path.is_file() and path.name != ".get.lock")


def test_coco_is_fetched_and_scored_in_two_commands(site, tmp_path, capsys):
    status, out, err = run("coco", "--yes")
    assert status == 0, err
    for said in (
        "COCO 2017",
        "CC BY 4.0",
        "cocodataset.org/#termsofuse",
        "train2017.zip",
        f"from {site.url}/val2017.zip",
    ):
        assert said in out
    assert "coco is complete in datasets/coco; next: vitdet test configs/coco/detr_vit_small.yaml" in out
    folder = Path("datasets/coco")
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"train2017", "val2017", "annotations"} and not left(
        folder
    )
    assert sorted(p.name for p in (folder / "annotations").iterdir()) == [
        "instances_train2017.json",
        "instances_val2017.json",
    ]
    asked = len(site.asked)
    assert run("coco", "--yes")[0] == 0 and len(site.asked) == asked  # all is there

    scores, images = scored()
    assert "test/AP" in scores and images == NAMES["val"]


def scored(*words):
    """The scores of the second command, on a model that fits a test, and the number of images that it is scored on."""
    from vitdet.command.run import read_command

    config = str(ROOT / "configs" / "coco" / "detr_vit_tiny.yaml")
    tiny = ["--data.size", "64", "--data.eval_batch_size", "2", "--model.backbone.pretrained", "false"]
    cli = read_command("test", [config, *tiny, *words, "--trainer.accelerator", "cpu", "--trainer.logger", "false"])
    (scores,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    return scores, len(cli.datamodule.index("val"))


def test_sets_share_what_they_share(site):
    assert run("coco-val", "--yes")[0] == 0
    folder = Path("datasets/coco")
    assert not (folder / "train2017").exists() and (folder / "annotations" / "instances_val2017.json").is_file()
    assert scored("--data.train", "null")[1] == NAMES["val"]
    before = (folder / "val2017").stat().st_mtime_ns
    assert run("coco", "coco-panoptic", "--yes")[0] == 0
    assert (folder / "val2017").stat().st_mtime_ns == before
    for split, count in NAMES.items():
        assert len(list((folder / "annotations" / f"panoptic_{split}2017").glob("*.png"))) == count
        assert len(json.loads((folder / "annotations" / f"panoptic_{split}2017.json").read_text())["images"]) == count
    assert [name for name, _ in site.asked].count("val2017.zip") == 1 and not left(folder)


def test_a_cut_connection_is_resumed(site):
    whole = len(site.files["val2017.zip"])
    site.cut = whole // 2
    status, _, err = run("coco-val", "--yes")
    assert status == 2 and "val2017.zip.part: the same command goes on from there" in err
    folder = Path("datasets/coco")
    assert not (folder / "val2017").exists()
    already = (folder / "val2017.zip.part").stat().st_size
    assert 0 < already < whole and run("coco-val", "--yes")[0] == 0
    assert ("val2017.zip", f"bytes={already}-") in site.asked and not left(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-9] + b"x" * 9, r"is not the file that it should be: .* bytes with sha1 \w+, wanted"),
        (lambda content: content + b"more", "is not the file that it should be: the server's has"),
        (lambda content: b"<html>please log in</html>", "a page of another server stands in its place"),
        (lambda content: None, "the server says 404"),
    ],
)
def test_a_wrong_file_is_refused_and_leaves_nothing(site, change, said):
    content = change(site.files.pop("val2017.zip"))
    if content is not None:
        site.files["val2017.zip"] = content
    status, _, err = run("coco-val", "--yes")
    assert status == 2 and len(err.strip().splitlines()) == 1
    assert re.search(said, err) and not (Path("datasets") / "coco" / "val2017").exists()
    assert not [name for name in left("datasets/coco") if name.endswith(".zip")]


def test_without_a_network_it_says_what_to_do_by_hand(site, coco):
    site.shutdown()
    site.server_close()
    status, _, err = run("coco-val", "--yes")
    assert status == 2 and "can't be reached" in err
    assert "put it at datasets/coco/val2017.zip, and say `vitdet data get coco-val` again" in err
    for name in ("val2017.zip", "annotations_trainval2017.zip"):
        (Path("datasets") / "coco" / name).write_bytes(coco[name])
    status, out, err = run("coco-val", "--yes")
    assert status == 0, err
    assert "val2017.zip: checking" in out and "is no longer needed; remove it" in out
    assert (Path("datasets") / "coco" / "val2017.zip").is_file()  # what the user has put there stays


def test_a_mirror_has_the_same_files(site, monkeypatch):
    monkeypatch.setitem(
        SETS,
        "coco-val",
        replace(
            SETS["coco-val"], login="log in", archives=tuple(replace(one, url="") for one in SETS["coco-val"].archives)
        ),
    )
    status, _, err = run("coco-val", "--yes")
    assert status == 2 and "can't be had without a login" in err
    status, out, _ = run("coco-val", "--yes", "--mirror", f"{site.url}/copies/", "--output", "elsewhere")
    assert status == 0 and f"from {site.url}/copies/val2017.zip" in out and Path("elsewhere/coco/val2017").is_dir()


def test_files_that_need_a_login_are_laid_out_when_they_are_there(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["train/ulm/a", "val/ulm/b"]
    kinds = ("color.png", "instanceIds.png", "labelIds.png", "polygons.json")
    files = {
        "gtFine_trainvaltest.zip": packed(
            {f"gtFine/{n}_gtFine_{k}": b"x" for n in names for k in kinds} | {"README": b""}
        ),
        "leftImg8bit_trainvaltest.zip": packed({f"leftImg8bit/{n}_leftImg8bit.png": b"x" for n in names}),
    }
    counts = {f"{p}/{s}": n for p, n in (("gtFine", 4), ("leftImg8bit", 1)) for s in ("train", "val")}
    monkeypatch.setitem(SETS, "cityscapes", small(SETS["cityscapes"], files, "", counts))
    status, _, err = run("cityscapes", "--yes")
    assert (
        status == 2 and "csDownload -d datasets/cityscapes gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip" in err
    )
    Path("datasets/cityscapes").mkdir(parents=True)
    Path("datasets/cityscapes/gtFine_trainvaltest.zip").write_bytes(files["gtFine_trainvaltest.zip"])
    status, _, err = run("cityscapes", "--yes")
    assert status == 2 and "needs leftImg8bit_trainvaltest.zip," in err
    Path("datasets/leftImg8bit_trainvaltest.zip").write_bytes(files["leftImg8bit_trainvaltest.zip"][:-1])
    status, _, err = run("cityscapes", "--yes")
    assert status == 2 and "leftImg8bit_trainvaltest.zip is not the file that it should be" in err
    Path("datasets/leftImg8bit_trainvaltest.zip").write_bytes(files["leftImg8bit_trainvaltest.zip"])
    assert run("cityscapes", "--yes")[0] == 0
    assert Path("datasets/cityscapes/leftImg8bit/val/ulm/b_leftImg8bit.png").is_file()
    Path("datasets/cityscapes/gtFine/val/ulm/b_gtFine_color.png").unlink()
    status, _, err = run("cityscapes")
    assert status == 2 and "gtFine/val has 3 files, wanted 4; remove the folder" in err


def yolo():
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "JPEG")
    return {"images/train2017/a.jpg": stream.getvalue(), "labels/train2017/a.txt": b"1 0.5 0.5 0.2 0.2\n"}


def seen(data):
    return {data.classes[label] for label in data.index("train").categories.tolist()}


def test_other_sets_have_the_layout_that_configs_expect(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    top = "ADEChallengeData2016"
    places = [f"{part}/{split}" for part in ("images", "annotations") for split in ("training", "validation")]
    server.files["ADEChallengeData2016.zip"] = packed({f"{top}/{place}/a.x": b"x" for place in places})
    server.files["VOCtrainval_11-May-2012.tar"] = packed(
        {f"VOCdevkit/VOC2012/{part}/a.x": b"x" for part in ("JPEGImages", "Annotations")}, "tar"
    )
    server.files["coco128.zip"] = packed({f"coco128/{name}": content for name, content in yolo().items()})
    server.files["BCCD_Dataset-master.zip"] = packed(
        {f"BCCD_Dataset-master/BCCD/{part}/a.x": b"x" for part in ("JPEGImages", "Annotations", "ImageSets")}
        | {"BCCD_Dataset-master/README.md": b""}
    )
    sets = {"ade20k": "ADEChallengeData2016", "voc2012": "VOCdevkit", "coco128": "coco128", "bccd": "bccd"}
    for name in sets:
        counts = dict.fromkeys(SETS[name].counts, 1)
        monkeypatch.setitem(SETS, name, small(SETS[name], server.files, server.url, counts))
    status, _, err = run(*sets, "--yes")
    assert status == 0, err
    assert all((Path("datasets") / folder).is_dir() for folder in sets.values())
    assert Path("datasets/ADEChallengeData2016/annotations/validation/a.x").is_file()
    found = vitdet.data.open("datasets/coco128")
    assert len(found.classes) == 80 and seen(found) == {"bicycle"}
    assert Path("datasets/bccd/JPEGImages/a.x").is_file() and Path("datasets/VOCdevkit/VOC2012").is_dir()


# ---- questions and names


def test_it_asks_first(site, monkeypatch):
    status, out, err = run("coco-val")
    assert status == 2 and "There is nobody to ask; say --yes" in err and not site.asked and "licence" in out
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    status, _, err = run("coco-val")
    assert status == 2 and "nothing was fetched" in err and not Path("datasets").exists()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert run("coco-val")[0] == 0 and Path("datasets/coco/val2017").is_dir()


def test_names(capsys):
    assert "did you mean coco-panoptic?" in run("coco-panoptc")[2]
    assert "there are coco, coco-val" in run("zzz")[2]
    out = run()[1]
    assert all(name in out and one.licence in out for name, one in SETS.items()) and "needs a login" in out


def test_every_entry_of_the_catalogue_is_whole():
    for name, one in SETS.items():
        assert name == one.name and one.terms.startswith("http") and one.licence and one.counts and one.use
        assert bool(one.login) == any(not archive.url for archive in one.archives)
        for archive in one.archives:
            assert archive.gives and archive.megabytes > 0 and archive.unpacked > 0
            assert archive.digest is None or archive.digest.split(":")[0] in ("md5", "sha1")
            assert not archive.url or archive.url.startswith(
                ("http://images.cocodataset.org/", "https://", "http://data.")
            )
    assert catalogue.IMAGES2017 == {"train2017": 118_287, "val2017": 5_000}


# ---- disks and archives


def test_a_disk_without_room_is_noticed_before(site, monkeypatch):
    huge = tuple(replace(one, unpacked=10**9) for one in SETS["coco-val"].archives)
    monkeypatch.setitem(SETS, "coco-val", replace(SETS["coco-val"], archives=huge))
    status, _, err = run("coco-val", "--yes")
    assert status == 2 and "coco-val needs about 2000000.0 GB, and there are" in err and not site.asked


LIMITED = """
import resource, sys
from dataclasses import replace
from vitdet.download import archives, get
from vitdet.download.catalogue import Archive, Published
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from pathlib import Path
archive = Archive("a.zip", {"a": "a"}, url=sys.argv[2])
get.get(Published("a", "", "a", (archive,), "", "", {"a": 2}), Path("datasets"), tell=print)
"""


@pytest.mark.parametrize(
    ("limit", "said"), [(1000, "a.zip can't be written"), (50_000, "a.zip can't be unpacked into")]
)
def test_a_disk_that_fills_up_leaves_no_part_of_the_data(server, tmp_path, limit, said):
    """Files of this process may not grow beyond a limit, as on a full disk: the download, or only what is unpacked."""
    server.files["a.zip"] = packed({"a/small": b"x", "a/large": bytes(200_000), "a/noise": os.urandom(20_000)})
    command = [sys.executable, "-c", LIMITED, str(limit), f"{server.url}/a.zip"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1 and said in done.stderr and "--output" in done.stderr
    assert not (tmp_path / "datasets" / "a" / "a").exists()
    assert not [path for path in (tmp_path / "datasets" / "a").iterdir() if path.is_dir()]
    done = subprocess.run(
        [*command[:3], "999999", command[4]], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0 and (tmp_path / "datasets" / "a" / "a" / "large").stat().st_size == 200_000


def test_what_a_killed_run_has_left_is_removed(site):
    stale = Path("datasets/coco/.val2017.zip.abc/val2017")
    stale.mkdir(parents=True)
    assert run("coco-val", "--yes")[0] == 0 and not stale.parent.exists()


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def flipped(content, at=1000):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def tar_with(kind, target):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("a/link")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (packed({"a/../../owned": b"x"}), "would be written outside its folder"),
        (packed({"a/..\\owned": b"x"}), "would be written outside its folder"),
        (packed({"a/C:owned": b"x"}), "would be written outside its folder"),
        (packed({"/a/owned": b"x", "a/b": b""}), None),
        (packed({link("a/link"): b"/etc/passwd"}), "holds a link or device"),
        (tar_with(tarfile.SYMTYPE, "/etc"), "holds a link or device"),
        (tar_with(tarfile.LNKTYPE, "../../x"), "holds a link or device"),
        (tar_with(tarfile.FIFOTYPE, ""), "holds a link or device"),
        (packed({"b/x": b"x"}), "has no a; is it the file"),
        (packed({"a/x": os.urandom(5000)})[:-30], "is damaged, or no archive"),
        (flipped(packed({"a/x": os.urandom(5000)})), "is damaged, or no archive .Bad CRC-32"),
        (b"", "is damaged, or no archive"),
        (packed({"a/../../owned": b"x"}, "tar"), "would be written outside its folder"),
    ],
)
def test_an_archive_writes_nothing_outside_its_folder(tmp_path, content, said):
    archive = tmp_path / "z" / "x.zip"
    archive.parent.mkdir()
    archive.write_bytes(content)
    if said is None:
        assert unpack(archive, tmp_path / "out", {"a": "a"}) == ["a"]
    else:
        with pytest.raises(DownloadError, match=said):
            unpack(archive, tmp_path / "out", {"a": "a"})
        assert not list((tmp_path / "out").iterdir())
    assert not list(tmp_path.rglob("owned")) and not Path("/a/owned").exists()


def test_two_processes_do_not_fetch_into_one_folder(site, tmp_path):
    from filelock import FileLock

    Path("datasets/coco").mkdir(parents=True)
    with FileLock("datasets/coco/.get.lock"), pytest.raises(DownloadError, match="another process is fetching into"):
        get.get(SETS["coco-val"], Path("datasets"), tell=print)
