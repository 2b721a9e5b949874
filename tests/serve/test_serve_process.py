"""`vitdet serve` as a process: what it prints, how it ends, and what it answers until then."""

import concurrent.futures
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
import torch
from servers import CATEGORY_IDS, CLASSES, encoded, make_detector, photo

from vitdet import checksum
from vitdet.checkpoint import write
from vitdet.cli import main
from vitdet.errors import UserError
from vitdet.serve import serve
from vitdet.serve.service import version_of

PNG = encoded(photo())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    detector = make_detector()
    saved = {"classes": CLASSES, "category_ids": CATEGORY_IDS, "eval_transform": detector.transform.config}
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    checksum.write(path, lambda file: torch.save(write({}, detector.backbone, detector.head, **saved), file))
    return path


def test_it_starts_answers_and_stops_with_what_it_accepted(checkpoint):
    command = [sys.executable, "-m", "vitdet", "serve", str(checkpoint), "--port", "0", "--host", "0.0.0.0"]
    process = subprocess.Popen(
        [*command, "--max_wait", "300"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        about, where, warning = (process.stdout.readline() for _ in range(3))
        assert re.match(r"best\.ckpt \(version [0-9a-f]{12}, 3 classes\) on ", about)
        assert "warning: others can reach 0.0.0.0" in warning and "VITDET_API_KEY" in warning
        url = "http://127.0.0.1:" + re.search(r":(\d+)/ is a page", where)[1]
        with concurrent.futures.ThreadPoolExecutor(20) as threads:
            kind = {"content-type": "image/png"}
            asked = [
                threads.submit(httpx.post, f"{url}/predict", content=PNG, headers=kind, timeout=30) for _ in range(20)
            ]
            while "vitdet_waiting_images 0.0" in httpx.get(f"{url}/metrics").text:
                time.sleep(0.02)
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            answers = [one.result() for one in asked]
        assert [answer.status_code for answer in answers] == [200] * 20
        out = process.stdout.read()
        assert process.wait(20) == 0, out
        assert out == "stopped; 20 images were answered\n"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
    finally:
        process.kill()
        process.wait()


def test_a_version_is_of_all_files_of_a_model(tmp_path):
    assert version_of("rf-detr-nano") is None and version_of(tmp_path) is None
    versions = []
    for name in ("model.safetensors", "model.xml", "model.bin"):
        (tmp_path / name).write_text("1")
        versions.append(version_of(tmp_path / "model.xml") or version_of(tmp_path))
    assert versions == [hashlib.sha256(text.encode()).hexdigest()[:12] for text in ("1", "1", "11")]


def says(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["serve", *words])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_mistakes_end_in_a_sentence(checkpoint, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"can't listen at 127.0.0.1, port {port}" in says(capsys, str(checkpoint), "--port", port)
    assert "port 99999" in says(capsys, str(checkpoint), "--port", "99999")
    assert "nowhere.ckpt" in says(capsys, "nowhere.ckpt", "--port", "0")
    assert "max_batch is 0" in says(capsys, str(checkpoint), "--max_batch", "0")
    assert "wanted public, or a network" in says(capsys, str(checkpoint), "--urls", "all")
    assert "no device 'tpu'" in says(capsys, str(checkpoint), "--port", "0", "--device", "tpu")


def test_help_names_every_limit(capsys):
    with pytest.raises(SystemExit) as end:
        main(["serve", "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    for word in ("--max_batch", "--queue", "(256)", "VITDET_API_KEY", "--urls", "127.0.0.1", "8000"):
        assert word in shown


def test_without_the_extra_it_is_named(tmp_path):
    code = "import sys\nsys.modules['uvicorn'] = None\nfrom vitdet.cli import main\nmain(['serve', 'best.ckpt'])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 2 and "pip install 'vitdet[serve]'" in done.stderr, done.stderr


def test_a_key_that_clients_can_not_send_is_refused(monkeypatch):
    monkeypatch.setenv("VITDET_API_KEY", "good,gehe\u00efm")
    with pytest.raises(UserError, match="printable ASCII") as raised:
        serve("none.ckpt", port=0)
    assert "gehe" not in str(raised.value)
