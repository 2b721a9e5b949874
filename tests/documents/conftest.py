"""A folder in which the documented commands run as they are written: configs, data, photos, and a small trained run."""

import shutil

import clips
import pytest
import tiny
from commands import Site
from PIL import Image


@pytest.fixture(scope="session")
def whole_site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    tiny.make_datasets(folder / "datasets")
    (folder / "configs").symlink_to(tiny.ROOT / "configs")
    shapes = folder / "datasets" / "shapes"
    (folder / "data").mkdir()
    for split in tiny.IMAGES:
        (folder / "data" / split).symlink_to(shapes / split)
        (folder / "data" / f"{split}_labels").symlink_to(shapes / f"semantic_{split}")
        (folder / "data" / f"{split}.json").symlink_to(shapes / "annotations" / f"instances_{split}.json")
    shutil.copytree(shapes / "val", folder / "folder")
    for name in ("val.json", "annotations.json"):
        (folder / name).symlink_to(shapes / "annotations" / "instances_val.json")
    Image.open(shapes / "val" / "000000.jpg").save(folder / "photo.jpg")
    clips.write(folder / "clip.mp4", 8)
    site = Site(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        site.say("python tools/train.py configs/detr_vit.yaml")  # leaves what others start from, BEST
        for name in ("earlier.ckpt", "other.ckpt"):
            shutil.copy(site.newest() / "best.ckpt", folder / name)
    yield site
    site.close()


@pytest.fixture
def site(whole_site, monkeypatch):
    """The folder is the working directory."""
    monkeypatch.chdir(whole_site.folder)
    return whole_site
