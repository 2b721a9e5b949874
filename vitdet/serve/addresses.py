"""Images at addresses that strangers send, fetched without reaching what only this machine can see."""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, urljoin, urlsplit

from vitdet.errors import UserError
from vitdet.serve.refusal import Refusal

PUBLIC = "public"
REDIRECTS = 3
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Fetcher:
    """Fetches files from addresses that are allowed, and from no others.

    The name of a host is looked up once, all its addresses are checked, and the connection goes to the address that was
    checked, so that a name can't point elsewhere in between. Redirects are followed at most three times, each checked
    in the same way. Proxies of the environment are not used.

    Args:
        allowed: `public` for all addresses of the internet, or networks such as `10.1.0.0/16`. None by default.
        max_bytes: the largest file.
        timeout: seconds in all.

    Raises:
        UserError: a word is neither `public` nor a network.

    Example:
        >>> Fetcher(["public"], max_bytes=10, timeout=1).reachable("127.0.0.1")
        False
    """

    def __init__(self, allowed: Sequence[str] = (), *, max_bytes: int, timeout: float) -> None:
        self.public = PUBLIC in allowed
        try:
            self.networks = [ipaddress.ip_network(word) for word in allowed if word != PUBLIC]
        except ValueError as error:
            raise UserError(f"urls: {error}; wanted {PUBLIC}, or a network such as 10.1.0.0/16") from error
        self._max_bytes, self._timeout = max_bytes, timeout

    def __bool__(self) -> bool:
        return self.public or bool(self.networks)

    def reachable(self, text: str) -> bool:
        """Whether files may be fetched from an address, such as `8.8.8.8`."""
        address = _plain(ipaddress.ip_address(text.partition("%")[0]))
        if any(address in network for network in self.networks):
            return True
        return self.public and address.is_global and not address.is_multicast

    def fetch(self, url: str) -> bytes:
        """The file at an address.

        Raises:
            Refusal: 403 without permission, 413 for too large a file, 422 for what can't be fetched.
        """
        if not self:
            raise Refusal(403, "this server fetches no addresses (`--urls` allows it); send the image itself")
        end = time.monotonic() + self._timeout
        for _ in range(REDIRECTS + 1):
            parts = _split(url)
            try:
                found = self._get(parts, end)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Refusal(422, f"{parts.hostname} can't be fetched from; check the address") from error
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise Refusal(422, f"the address leads on more than {REDIRECTS} times; give that of the file itself")

    def _get(self, parts: SplitResult, end: float) -> bytes | str:
        """The file, or the address that it has moved to."""
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        connection = _Pinned(host, port, self._address(host, port), parts.scheme == "https", _left(end))
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"user-agent": "vitdet", "accept": "image/*"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                return answer.getheader("location") or ""
            if answer.status != 200:
                raise Refusal(422, f"{host} answers {answer.status}; wanted an image")
            return self._body(answer, connection, end)
        finally:
            connection.close()

    def _address(self, host: str, port: int) -> str:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        if not found or not all(self.reachable(address) for address in found):
            raise Refusal(403, f"{host} is at an address from which this server fetches nothing; send the image itself")
        return sorted(found)[0]

    def _body(self, answer: http.client.HTTPResponse, connection: "_Pinned", end: float) -> bytes:
        body = bytearray()
        while piece := answer.read1(2**16):
            body += piece
            if len(body) > self._max_bytes:
                raise Refusal(413, f"the file at the address has more than {self._max_bytes:,} bytes")
            if connection.sock is not None:
                connection.sock.settimeout(_left(end))
        return bytes(body)


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that has been checked, whatever the name of the host leads to by now."""

    def __init__(self, host: str, port: int, address: str, secure: bool, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._address, self._context = address, ssl.create_default_context() if secure else None

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = plain if self._context is None else self._context.wrap_socket(plain, server_hostname=self.host)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        # reading the port checks it
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and "@" not in parts.netloc
    except ValueError:
        good = False
    if not good or any(ord(letter) <= 32 or ord(letter) > 126 for letter in url):
        raise Refusal(422, "url is no address of a file; wanted http://… or https://…, without a password")
    return parts


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv4Address(int(address) & 2**32 - 1) if address in _NAT64 else None
        return address.ipv4_mapped or address.sixtofour or nat64 or address
    return address


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("too slow")
    return left
