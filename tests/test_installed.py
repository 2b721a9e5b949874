"""vitdet as it is installed: what the built wheel and source archive hold, and what works without a clone.

`.ci/wheel` installs both into an empty environment, without extras, and trains there."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from test_dependencies import declared, normal

from vitdet.command import shipped
from vitdet.command.layers import read_layers
from vitdet.command.recipes import recipe

ROOT = Path(__file__).parents[1]
NEEDED = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "vitdet", "configs"]
BUILD = "import setuptools.build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


def run(*words: str, cwd: Path, package: Path, **environment: str) -> subprocess.CompletedProcess:
    """Python with vitdet at `package`, in a process of its own."""
    own = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=own | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder with both archives, as GitHub's action would build them."""
    source = tmp_path_factory.mktemp("source")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    done = run("-c", BUILD, cwd=source, package=source, GITHUB_REPOSITORY="owner/vitdet")
    assert done.returncode == 0, done.stderr[-2000:]
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_the_package_and_its_configs_and_nothing_else(wheel):
    files = [path.relative_to(ROOT) for name in ("vitdet", "configs") for path in (ROOT / name).rglob("*")]
    wanted = {path.as_posix() for path in files if (ROOT / path).is_file() and path.suffix != ".pyc"}
    wanted = {f"vitdet/{path}" if path.startswith("configs/") else path for path in wanted}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == wanted


def test_the_source_archive_builds_the_wheel(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert {"configs/detr_vit.yaml", "configs/_base/coco.yaml", "setup.py", "README.md", "LICENSE"} <= found


def test_the_metadata_has_whole_addresses(wheel):
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(name).decode()
    assert "Project-URL: Source, https://github.com/owner/vitdet\n" in text
    assert re.search(r"\]\(https://raw.githubusercontent.com/owner/vitdet/v[\d.]+/docs/blood_cells.jpg\)", text)
    links = re.findall(r"\]\(([^)\s]+)\)", text.partition("\n\n")[2])
    assert len(links) > 10 and all(link.startswith("https://") for link in links), links
    for address in re.findall(r"/owner/vitdet/(?:blob/)?v[\d.]+/([^)#\s]+)", "\n".join(links)):
        assert (ROOT / address).is_file(), address
    versions = set(re.findall(r"^Classifier: Programming Language :: Python :: (3\.\d+)$", text, re.MULTILINE))
    assert versions == {"3.10", "3.11", "3.12", "3.13"}


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_configs_are_found_outside_of_a_clone(kind, wheel, installed, tmp_path):
    """Also where the package is imported from an archive."""
    package = installed if kind == "folder" else wheel
    done = run("-m", "vitdet", "configs", cwd=tmp_path, package=package)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines() if "  " in line} == set(shipped.names())
    done = run("-m", "vitdet", "configs", "finetune", cwd=tmp_path, package=package)
    assert done.stdout == (ROOT / "configs" / "finetune.yaml").read_text()
    done = run("-m", "vitdet", "new", "my.yaml", "--from", "finetune", cwd=tmp_path, package=package)
    assert done.returncode == 0 and "vitdet train my.yaml --data FOLDER" in done.stdout, done.stderr
    code = "from vitdet.command.layers import read_layers; print(read_layers('my.yaml'))"
    done = run("-c", code, cwd=tmp_path, package=package)
    assert yaml.safe_load(done.stdout) == read_layers(ROOT / "configs" / "finetune.yaml"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_every_extra_that_is_named_in_a_message_is_declared():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "vitdet").rglob("*.py"))
    named = {name for group in re.findall(r"vitdet\[([\w,]+)\]", text) for name in group.split(",")}
    named |= set(re.findall(r"\bextra\(\"(\w+)\"", text))
    assert all(declared(name) for name in named), named
    assert all(normal(name) == name for name in named)


# ---- names of configs


def test_a_file_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(recipe("custom")[0]) == ROOT / "configs" / "custom.yaml"
    Path("custom").mkdir()  # a folder of that name is no config
    assert Path(recipe("custom")[0]) == ROOT / "configs" / "custom.yaml"
    assert Path(recipe("configs/custom.yaml")[0]) == ROOT / "configs" / "custom.yaml"
    Path("configs").mkdir()
    Path("configs", "custom.yaml").write_text("model: {lr: 1.0}")
    assert recipe("custom")[0] == recipe("configs/custom.yaml")[0] == "configs/custom.yaml"
    shutil.rmtree("custom")
    Path("custom").write_text("model: {lr: 1.0}")
    assert recipe("custom") == ("custom", None)
