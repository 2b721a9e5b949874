"""Downloads against a real server on this machine that misbehaves on purpose."""

import hashlib
import http.server
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import save_file

from vitdet import zoo
from vitdet.download import files as module
from vitdet.download.files import download
from vitdet.zoo import CheckpointError, DownloadError
from vitdet.zoo.tensors import read_state

CONTENT = bytes(range(256)) * 8000  # 2 MB
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`; cuts the connection after `server.cut` bytes of a reply."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, dict(self.headers)))
        if server.delay:
            time.sleep(server.delay)
        if server.longer:
            server.longer = False
            return self.send_error(416)
        if self.path.endswith("missing"):
            return self.send_error(404)
        first, tag = 0, f'"{hashlib.md5(server.content).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and server.ranges and self.headers.get("If-Range") == tag:
            first = int(wanted[1])
        body = server.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        if server.tags:
            self.send_header("ETag", tag)
        self.end_headers()
        cut, server.cut = server.cut, None
        self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.cut, server.ranges, server.tags, server.asked = CONTENT, None, True, True, []
    server.delay, server.longer = 0, False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY", raising=False)


def test_a_file_is_fetched_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("VITDET_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        path = download(f"{server.url}/model.pth", "model.pth", digest=SHA)
        assert path == tmp_path / "cache" / "model.pth" and path.read_bytes() == CONTENT
    assert len(server.asked) == 1
    left = {item.name for item in path.parent.iterdir()} - {"model.pth", "model.pth.lock"}
    assert not left


def test_a_cut_connection_is_reported_and_resumed(server, tmp_path):
    server.cut = 1_500_000
    with pytest.raises(DownloadError, match=r"cut after 1,500,000 of 2,048,000 bytes|cut|reached"):
        download(f"{server.url}/m.pth", "m.pth", digest=SHA, folder=tmp_path)
    part = tmp_path / "m.pth.part"
    assert not (tmp_path / "m.pth").exists() and part.stat().st_size > 0
    already = part.stat().st_size
    assert download(f"{server.url}/m.pth", "m.pth", digest=SHA, folder=tmp_path).read_bytes() == CONTENT
    assert server.asked[1][1]["Range"] == f"bytes={already}-"


@pytest.mark.parametrize("change", ["content", "no ranges", "no tags"])
def test_what_was_begun_is_begun_anew_if_the_rest_would_not_fit(server, tmp_path, change):
    server.cut, server.tags = 700_000, change != "no tags"
    with pytest.raises(DownloadError):
        download(f"{server.url}/m.pth", "m.pth", folder=tmp_path)
    server.content = CONTENT[::-1] if change == "content" else CONTENT
    server.ranges = change != "no ranges"
    assert download(f"{server.url}/m.pth", "m.pth", folder=tmp_path).read_bytes() == server.content


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(
        DownloadError, match=r"is not the file that it should be: 2,048,000 bytes with md5 \w+, wanted 00"
    ):
        download(f"{server.url}/m.pth", "m.pth", digest="md5:00", folder=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pth", ".part")]


def test_a_missing_file_and_no_network_say_what_to_do(server, tmp_path):
    with pytest.raises(DownloadError, match=r"the server says 404 .*Without a network, .*put it at .*m\.pth"):
        download(f"{server.url}/missing", "m.pth", folder=tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"can't be reached: .*refused.*put it at .*m\.pth"):
        download(f"http://127.0.0.1:{port}/m.pth", "m.pth", folder=tmp_path)


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.longer = True
    (tmp_path / "m.pth.part").write_bytes(CONTENT * 2)
    (tmp_path / "m.pth.part.etag").write_text('"old"')
    assert download(f"{server.url}/m.pth", "m.pth", digest=SHA, folder=tmp_path).read_bytes() == CONTENT
    server.longer = True
    with pytest.raises(DownloadError, match="the server says 416"):
        download(f"{server.url}/m.pth", "n.pth", folder=tmp_path)


def test_a_folder_that_cannot_be_written_is_no_network_error(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"file/m.pth can't be written: .*set VITDET_HOME"):
        download(f"{server.url}/m.pth", "m.pth", folder=tmp_path / "file")
    (tmp_path / "m.pth.part").mkdir()
    with pytest.raises(DownloadError, match=r"m.pth can't be written"):
        download(f"{server.url}/m.pth", "m.pth", folder=tmp_path)


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DownloadError, match="timed out"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}/m.pth", "m.pth", folder=tmp_path)


def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    download("http://weights.invalid/m.pth", "m.pth", digest=SHA, folder=tmp_path)
    assert server.asked[0][0] == "http://weights.invalid/m.pth"


def test_two_processes_fetch_one_file_once(server, tmp_path):
    code = f"from vitdet.download.files import download; download({server.url!r} + '/m.pth', 'm.pth', digest={SHA!r})"
    server.delay = 15  # time for the other one to come
    env = {**os.environ, "VITDET_HOME": str(tmp_path)}
    runs = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(2)]
    assert [run.wait(120) for run in runs] == [0, 0]
    assert len(server.asked) == 1 and (tmp_path / "m.pth").read_bytes() == CONTENT


class Evil:
    def __reduce__(self):
        return open, ("owned", "w")


def test_files_that_are_no_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = {"model": {"weight": torch.ones(2)}}
    torch.save(good, "good.pth")
    assert torch.equal(read_state("good.pth")["weight"], torch.ones(2))
    save_file({"weight": torch.ones(2)}, "good.safetensors")
    assert torch.equal(read_state("good.safetensors")["weight"], torch.ones(2))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:400])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:-2])
    (tmp_path / "page.pth").write_text("<html>please log in</html>")
    torch.save({"model": Evil()}, "evil.pth")
    (tmp_path / "evil2.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("cut.pth", "cut.safetensors", "page.pth", "evil.pth", "evil2.pth"):
        with pytest.raises(CheckpointError, match=f"{name} (can't be read|is damaged)"):
            read_state(name)
    assert not (tmp_path / "owned").exists()
    torch.save([1, 2], "list.pth")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_state("list.pth")


def test_names_that_nobody_published(tmp_path):
    with pytest.raises(CheckpointError, match="near it: .*rf-detr-small"):
        zoo.find("rfdetr-smal")
