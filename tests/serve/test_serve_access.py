"""Who may ask a server, from where, and to where it may be led."""

import hashlib
import re

import pytest
from servers import client, encoded, photo, running

from vitdet.errors import UserError
from vitdet.serve.addresses import Fetcher
from vitdet.serve.guard import OPEN, Access, is_loopback
from vitdet.serve.refusal import Refusal

PNG = {"content": encoded(photo()), "headers": {"content-type": "image/png"}}


def ask(url, **headers):
    return client.post(f"{url}/predict", content=PNG["content"], headers={**PNG["headers"], **headers})


@pytest.fixture(scope="module")
def locked(detector):
    access = Access(keys=["secret", "ключ"], hosts=["127.0.0.1", "::1"], origins=["https://friend.example"])
    with running(detector, access=access) as url:
        yield url


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "secre"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Basic secret"}, 401),
        ({"authorization": "Bearer secret2"}, 401),
        ({"x-api-key": "secret"}, 200),
        ({"authorization": "Bearer secret"}, 200),
        ({"authorization": "bearer  secret"}, 200),
        # what a header can hold of it
        ({"x-api-key": "ключ".encode().decode("latin-1")}, 401),
        ({"x-api-key": "secret", "host": "evil.example"}, 421),
        ({"x-api-key": "secret", "host": "[::1]:80"}, 200),
        ({"x-api-key": "secret", "origin": "https://evil.example"}, 403),
        ({"x-api-key": "secret", "origin": "null"}, 403),
        ({"x-api-key": "secret", "origin": "http://["}, 403),
        ({"x-api-key": "secret", "origin": "https://friend.example"}, 200),
    ],
)
def test_who_may_ask(locked, headers, status):
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = ask(locked, **headers)
    assert answer.status_code == status, answer.text
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_what_is_open_without_the_key(locked):
    for path in OPEN:
        assert client.get(locked + path).status_code in (200, 204), path
        assert client.head(locked + path).status_code in (200, 204), path
    assert client.head(f"{locked}/model").status_code == 401
    for path in ("/model", "/metrics"):
        assert client.get(locked + path).status_code == 401
        assert client.get(locked + path, headers={"x-api-key": "secret"}).status_code == 200
    assert client.get(f"{locked}/nothing").status_code == 401


def test_pages_of_others_are_told_nothing_unless_they_are_friends(locked, url):
    question = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    for origin, allowed in (("https://friend.example", "https://friend.example"), ("https://evil.example", None)):
        answer = client.options(f"{locked}/predict", headers={"origin": origin, **question})
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert ask(locked, origin=origin).headers.get("access-control-allow-origin") == allowed
    assert "access-control-allow-origin" not in client.get(f"{url}/health", headers={"origin": "https://a.b"}).headers
    # the page's own
    assert ask(url, origin=url).status_code == 200


def test_headers_tell_browsers_what_to_leave_alone(url):
    for path in ("/", "/docs", "/health", "/nothing", "/model"):
        headers = client.get(url + path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert "server" not in headers and headers["cache-control"] == "no-store"


def test_pages_need_no_network(url):
    """All that they load is in them, and their policy names the very script."""
    for path in ("/", "/docs"):
        page = client.get(url + path)
        assert not re.findall(r"https?://|//cdn|@import|<link|src=", page.text)
        (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
        digest = hashlib.sha256(script.encode()).digest()
        assert __import__("base64").b64encode(digest).decode() in page.headers["content-security-policy"]
        assert client.head(url + path).status_code == 200


def test_the_description_of_the_interface(url):
    told = client.get(f"{url}/openapi.json").json()
    assert set(told["paths"]) == {"/predict", "/model", "/metrics", "/health", "/health/live", "/health/ready"}
    predict = told["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) >= {"multipart/form-data", "application/json"}
    assert {"400", "413", "415", "422", "429", "503", "504"} <= set(predict["responses"])
    assert [one["name"] for one in predict["parameters"]] == ["threshold", "masks", "output"]


INTERNAL = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INTERNAL)
def test_internal_addresses_are_out_of_reach(address):
    assert not Fetcher(["public"], max_bytes=1, timeout=1).reachable(address)


def test_public_addresses_and_networks_that_are_named():
    public = Fetcher(["public"], max_bytes=1, timeout=1)
    assert public.reachable("93.184.216.34") and public.reachable("2606:2800:220:1::1")
    both = Fetcher(["public", "10.1.0.0/16"], max_bytes=1, timeout=1)
    assert both.reachable("10.1.2.3") and both.reachable("8.8.8.8") and not both.reachable("10.2.0.1")
    only = Fetcher(["fd00::/8"], max_bytes=1, timeout=1)
    assert only.reachable("fd00::1") and not only.reachable("8.8.8.8")
    assert not Fetcher(max_bytes=1, timeout=1)
    with pytest.raises(UserError, match=r"wanted public, or a network"):
        Fetcher(["everything"], max_bytes=1, timeout=1)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("", 422), ("photo.jpg", 422), ("file:///etc/passwd", 422), ("ftp://a/b", 422), ("gopher://a", 422),
        ("http://", 422), ("http://user:word@example.org/", 422), ("http://a:99999/", 422), ("http://a b/", 422),
        ("http://a/\r\nX: y", 422), ("http://[::1", 422), ("//127.0.0.1/", 422), ("http://ä.example/", 422),
        ("http://localhost/", 403), ("http://127.0.0.1:22/", 403), ("http://[::1]/", 403), ("http://0/", 403),
        ("http://2130706433/", 403), ("http://0x7f.1/", 403), ("http://[::ffff:169.254.169.254]/", 403),
        ("https://169.254.169.254/latest/meta-data", 403), ("http://nowhere.invalid/", 422),
    ],
)  # fmt: skip
def test_addresses_that_lead_inside(url, status):
    """However the address is written, and whatever the name leads to."""
    with pytest.raises(Refusal) as refused:
        Fetcher(["public"], max_bytes=1, timeout=2).fetch(url)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("host", "only_here"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_loopback(host, only_here):
    assert is_loopback(host) == only_here
