"""Runs documented commands as they are written, on small models and images.

For commands that can't be run there is a reason, and what is checked instead.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import served
import tiny
import yaml
from storage import Storage

from vitdet.cli import main
from vitdet.command.recipes import recipe
from vitdet.download.catalogue import SETS

BEST = "runs/detr_vit/version_0/best.ckpt"
CONFIG = "configs/detr_vit.yaml"
ELLIPSIS = {"runs/…/best.ckpt": BEST, "CONFIG": CONFIG, "configs/…": CONFIG, "configs/….yaml": CONFIG}
TRAINER = {"accelerator": "cpu", "pictures": 0}


class Site:
    """Runs documented commands inside `folder`, with less work: small models and images, and a step or two."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, {}
        self.server: served.Server | None = None
        self.storage: Storage | None = None

    @property
    def url(self) -> str:
        """The address of a server of the earlier run, which goes on until `close`."""
        self.server = self.server or served.Server(["earlier.ckpt"], self.folder)
        return self.server.url

    def close(self) -> None:
        if self.server is not None:
            self.server.stop()
        if self.storage is not None:
            self.storage.close()

    def stored(self) -> dict[str, str]:
        """The environment for `s3://birds`, a storage with the built-in data set."""
        if self.storage is None:
            buckets = self.folder / "buckets"
            buckets.mkdir()
            (buckets / "birds").symlink_to(self.folder / "datasets" / "shapes")
            self.storage = Storage(buckets)
        keys = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something", "AWS_DEFAULT_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": self.storage.url, "XDG_CACHE_HOME": str(self.folder / "cache")}

    def say(self, text: str) -> str:
        """What the documented command `text` prints, standard error included; each is run once."""
        if text not in self.said:
            self.said[text] = "".join(self._one(words) for words in simple_commands(text))
        return self.said[text]

    def _one(self, words: list[str]) -> str:
        words = [ELLIPSIS.get(word, word) for word in words]
        environment = {}
        while "=" in words[0]:
            name, _, environment[name] = words.pop(0).partition("=")
        program, *rest = words
        if any(word.startswith("s3://birds/") for word in rest):
            environment |= self.stored()
        if program == "python" and rest[0].startswith("tools/"):
            assert (tiny.ROOT / rest[0]).is_file()
            program, rest = "vitdet", [Path(rest[0]).stem, *rest[1:]]
        if program != "vitdet":
            assert program in PROGRAMS, f"say in PROGRAMS of commands.py how {program} is run, or why it can't be"
            return PROGRAMS[program](self, rest)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return self.vitdet(*rest)

    def vitdet(self, verb: str, *words: str) -> str:
        """Runs a verb; a config gets small sizes, which the words of the page come after."""
        if verb == "serve":
            return served.once(list(words), self.folder)
        if verb == "data" and words[0] == "get" and len(words) > 1:
            return fetched(words[1:])
        if verb == "data":
            return self.main(verb, *tiny.placeholders(list(words), self.folder / "datasets"))
        # `rf_detr/nano` is a config, too; its small sister is taken instead of the model that it names
        named = bool(words) and not words[0].startswith("-") and verb in ("train", "test", "benchmark")
        config = recipe(words[0])[0] if named else ""
        if config.endswith(".yaml") and "--help" not in words:
            words = (config, *words[1:])
            words = (words[0], *self.small(words[0], train=verb == "train"), *with_data(words[1:], self.folder))
        return self.main(verb, *words)

    def small(self, config: str, *, train: bool) -> list[str]:
        sizes = tiny.overrides(tiny.resolved(Path(config), []), self.folder)
        trainer = {**TRAINER, "max_steps": 2} if train else TRAINER
        return sizes + tiny.words({f"trainer.{key}": value for key, value in trainer.items()})

    def main(self, *argv: str) -> str:
        """`vitdet argv`, with what it prints.

        Raises:
            AssertionError: its exit status is not 0.
        """
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                main(list(argv))
            except SystemExit as end:
                assert not end.code, f"vitdet {shlex.join(argv)}\n{printed.getvalue()[-2000:]}"
        return printed.getvalue()

    def process(self, *argv: str, cwd: Path | None = None, **environment: str) -> str:
        """The same for another program."""
        own = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd or self.folder, env=own)
        assert done.returncode == 0, f"{shlex.join(argv)}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def newest(self, name: str = "detr_vit") -> Path:
        """The folder of the newest run."""
        return max((self.folder / "runs" / name).iterdir(), key=lambda run: int(run.name.removeprefix("version_")))

    def resolved(self, name: str = "detr_vit") -> dict:
        """Its `config.yaml`."""
        return yaml.safe_load((self.newest(name) / "config.yaml").read_text(encoding="utf-8"))


def simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a text in shell: lines that go on, `&&`, comments."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in line.split(" && "):
            if words := shlex.split(command, comments=True):
                yield words


def with_data(words: tuple[str, ...], folder: Path) -> list[str]:
    """The words with files for DIR, JSON and …; what a page leaves out of them, too."""
    given = [word for word in words if word.startswith(("--data.train.", "--data.val."))]
    kinds = ["images", "annotations"] if given else []
    missing = [f"--data.{s}.{kind}" for s in tiny.IMAGES for kind in kinds if not _has(given, s, kind)]
    return tiny.placeholders([*words, *(word for key in missing for word in (key, "…"))], folder / "datasets")


def _has(given: list[str], split: str, kind: str) -> bool:
    return f"--data.{split}.{kind}" in given or (kind == "annotations" and f"--data.{split}.labels" in given)


def fetched(words: tuple[str, ...]) -> str:
    """Not run: these are gigabytes. tests/download fetches small files of the same names; there are such sets."""
    assert set(words) <= set(SETS)
    return ""


def torchrun(site: Site, words: list[str]) -> str:
    """Two processes on the CPU for eight GPUs."""
    assert words[:4] == ["--nproc_per_node", "8", "-m", "vitdet"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words[2:5]]
    if words[4] == "predict":
        own = [ELLIPSIS.get(word, word) for word in words[5:]]
        said = site.process(*command, *own, "--batch_size", "1", "--device", "cpu", "--output", "shared")
        assert "process " in said and "2 images in" in said and not (site.folder / "shared" / ".unfinished").exists()
        return said
    assert words[4] == "train" and words[-2:] == ["--trainer.devices", "8"]
    small = [*site.small(CONFIG, train=True), "--trainer.name", "torchrun", "--trainer.devices", "2"]
    return site.process(*command, CONFIG, *small)


def srun(site: Site, words: list[str]) -> str:
    """There is no SLURM here: the part after `srun`, in what SLURM would give the one task of one node."""
    assert words[:4] == ["--nodes", "2", "--ntasks-per-node", "8"]
    program, verb, config, *options = words[4:]
    if verb == "predict":
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"PROCID": "0", "NTASKS": "1", "JOB_ID": "1", "STEP_ID": "0"}.items():
                patch.setenv(f"SLURM_{name}", value)
            return site._one(words[4:])
    assert options == ["--trainer.num_nodes", "2", "--trainer.devices", "8"]  # the numbers that Lightning compares
    task = {"NTASKS": "1", "JOB_NAME": "train", "NODELIST": "localhost", "NTASKS_PER_NODE": "1", "JOB_ID": "1"}
    task |= dict.fromkeys(("PROCID", "LOCALID", "NODEID"), "0")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in task.items():
            patch.setenv(f"SLURM_{name}", value)
        one = ["--trainer.name", "srun", "--trainer.num_nodes", "1", "--trainer.devices", "1"]
        return site._one([program, verb, config, *one])


def pip(site: Site, words: list[str]) -> str:
    """Not run: `.ci/run` does it in a fresh environment. What it names is there."""
    assert words[0] == "install"
    project = tiny.ROOT / "pyproject.toml"
    given = words[2].removeprefix(".") if words[1] == "-e" else words[1].removeprefix("vitdet")
    if given.startswith("[") or words[1] == "-e":
        extras = given.strip("[]")
        declared = re.findall(r"^(\w+) = \[", project.read_text(), re.MULTILINE)
        assert not extras or set(extras.split(",")) <= set(declared)
    elif words[1].startswith("vitdet["):
        assert set(words[1].removeprefix("vitdet").strip("[]").split(",")) <= set(
            re.findall(r"^(\w+) = \[", project.read_text(), re.MULTILINE)
        )
    else:  # a row of the table of commands tells what wandb is for; `.ci/wheel` installs vitdet
        assert words[1:] in (["wandb"], ["vitdet"], ["."])
    return ""


def tests(site: Site, words: list[str]) -> str:
    """Not run: it would be this run. The files are there, hold such tests, and know the options."""
    paths = [tiny.ROOT / word for word in words if word.startswith("tests")]
    assert all(path.exists() for path in paths)
    if "-k" in words:
        named = re.compile(rf"^def test_\w*{words[words.index('-k') + 1]}", re.MULTILINE)
        assert any(named.search(file.read_text()) for path in paths for file in path.rglob("test_*.py"))
    if "--parity" in words:
        assert '"--parity"' in (paths[0] / "conftest.py").read_text()
    return ""


def ruff(site: Site, words: list[str]) -> str:
    return site.process(shutil.which("ruff"), *words, cwd=tiny.ROOT)


def just(site: Site, words: list[str]) -> str:
    """Not run: the recipes call pytest, ruff and others. There is such a recipe."""
    recipes = re.findall(r"^([\w-]+).*:$", (tiny.ROOT / "justfile").read_text(), re.MULTILINE)
    assert words[0] in recipes
    return ""


def pre_commit(site: Site, words: list[str]) -> str:
    """Not run: it would change this clone. There is a file for it."""
    assert words == ["install"] and (tiny.ROOT / ".pre-commit-config.yaml").is_file()
    return ""


PROGRAMS: dict[str, Callable[[Site, list[str]], str]] = {
    "curl": served.curl,
    "docker": served.docker,
    "torchrun": torchrun,
    "srun": srun,
    "pip": pip,
    "pytest": tests,
    "ruff": ruff,
    "just": just,
    "pre-commit": pre_commit,
}
