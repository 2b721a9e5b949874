"""The commands about `vitdet serve`: servers of their own processes, at free ports in place of the pages' 8000."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import tiny

ADDRESS = "http://127.0.0.1:8000"


class Server:
    """A process of `vitdet serve`, at a free port."""

    def __init__(self, words: list[str], folder: Path) -> None:
        words = [*words, "--port", "0"]
        if "--host" in words:
            # nothing here may be reached from elsewhere
            words[words.index("--host") + 1] = "127.0.0.1"
        environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "vitdet", "serve", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment)
        self.said = "".join(self._process.stdout.readline() for _ in range(2))
        found = re.search(r"http://[\d.]+:\d+", self.said)
        if found is None:
            self._process.kill()
        assert found, self.said
        self.url = found[0]

    def stop(self) -> str:
        """What it has said until it ended."""
        self._process.send_signal(signal.SIGTERM)
        self.said += self._process.communicate(timeout=60)[0]
        assert self._process.returncode == 0
        return self.said


def once(words: list[str], folder: Path) -> str:
    """A server that is asked whether it is ready, and stopped."""
    server = Server(words, folder)
    try:
        with urllib.request.urlopen(f"{server.url}/health/ready", timeout=60) as answer:
            assert answer.status == 200
    finally:
        said = server.stop()
    assert "stopped; 0 images were answered" in said
    return said


def curl(site, words: list[str]) -> str:
    """It is run, at a server that runs as long as the tests."""
    assert any(word.startswith(ADDRESS) for word in words)
    said = site.process("curl", "-sS", "--fail", *(word.replace(ADDRESS, site.url) for word in words))
    if "-o" in words:
        path = site.folder / words[words.index("-o") + 1]
        assert path.read_bytes()[:2] == b"\xff\xd8"
    else:
        assert '"objects"' in said
    return said


def docker(site, words: list[str]) -> str:
    """Not run: it takes a daemon and gigabytes. What it names is in the Dockerfile; what it runs in there is run."""
    text = (tiny.ROOT / "Dockerfile").read_text(encoding="utf-8")
    if words[0] == "build":
        for given in (word for word, flag in zip(words[1:], words) if flag == "--build-arg"):
            name, value = given.split("=")
            assert f"ARG {name}" in text and f"FROM base AS {value}" in text
        return ""
    assert words[0] == "run" and "EXPOSE 8000" in text and 'ENTRYPOINT ["vitdet"]' in text
    verb, *rest = words[words.index("vitdet") + 1 :]
    return site.vitdet(verb, *(word.removeprefix("/") for word in rest))
