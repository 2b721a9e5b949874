"""A server on this machine that speaks as much of the Hugging Face hub as uploading and fetching a model need: creating
a repository, the LFS batch, commits, branches, and resolving files of a revision. It keeps everything in memory."""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TOKEN = "hf_" + "a" * 34


class Hub:
    """What the server holds.

    Attributes:
        branches: by repository and branch, the commits, newest last: each a mapping of paths to contents.
        objects: contents of large files by their SHA-256.
        private: the repositories that only a request with the token may see.
        log: method and path of each request.
        refuse: the status that answers every request, if any.
        gone: whether nobody answers any more.
    """

    def __init__(self) -> None:
        self.branches: dict[tuple[str, str], list[dict[str, bytes]]] = {}
        self.objects: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.log: list[str] = []
        self.refuse: int | None = None
        self.gone = False

    def commit(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The id and the files of a branch, or of a commit by its id."""
        for (name, branch), commits in self.branches.items():
            for files in reversed(commits):
                if name == repository and revision in (branch, sha(files)):
                    return sha(files), files
        return None


def sha(files: dict[str, bytes]) -> str:
    return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_): ...

    def _answer(self, status: int, content=b"", **headers) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str = "") -> None:
        self._answer(status, {"error": code}, **({"X_Error_Code": code} if code else {}))

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if self.hub.gone:
            self.close_connection = True
            return
        self.hub.log.append(f"{self.command} {path}")
        may = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        writes = self.command in ("POST", "PUT") and not path.startswith("/lfs/")
        if self.hub.refuse or (writes and not may):
            self._error(self.hub.refuse or 401)
            return
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                if found.groupdict().get("name") in self.hub.private and not may:
                    self._error(401, "RepoNotFound")
                else:
                    method(self, body, **found.groupdict())
                return
        self._error(404, "RepoNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _any

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def create(self, body) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if (name, "main") in self.hub.branches:
            self._answer(409, {"url": f"{self.address}/{name}", "error": "exists"})
            return
        self.hub.branches[name, "main"] = [{}]
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        self._answer(200, {"url": f"{self.address}/{name}", "name": name})

    def branch(self, body, name, branch) -> None:
        self.hub.branches.setdefault((name, branch), [dict(self.hub.branches[name, "main"][-1])])
        self._answer(200, {})

    def preupload(self, body, name, branch) -> None:
        files = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith((".safetensors", ".jpg")) else "regular" for path in files}
        told = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
        self._answer(200, {"files": told})

    def validate(self, body) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def batch(self, body, name) -> None:
        asked = json.loads(body)["objects"]
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.address}/lfs/{one['oid']}", "header": {}}}} for one in asked
        ]
        self._answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def put(self, body, oid) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._answer(200)

    def take(self, body, name, branch) -> None:
        """A commit, a line of JSON for each change."""
        commits = self.hub.branches[name, branch]
        files = dict(commits[-1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commits.append(files)
        address = f"{self.address}/{name}/commit/{sha(files)}"
        self._answer(200, {"success": True, "commitUrl": address, "commitOid": sha(files)})

    def info(self, body, name, branch="main") -> None:
        if not any(repository == name for repository, _ in self.hub.branches):
            self._error(404, "RepoNotFound")
        elif (found := self.hub.commit(name, branch)) is None:
            self._error(404, "RevisionNotFound")
        else:
            commit, files = found
            siblings = [{"rfilename": file} for file in files]
            self._answer(
                200, {"_id": "1", "id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []}
            )

    def tree(self, body, name, branch) -> None:
        found = self.hub.commit(name, branch)
        if found is None:
            self._error(404, "RevisionNotFound")
            return
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in found[1].items()
        ]
        self._answer(200, entries)

    def resolve(self, body, name, branch, file) -> None:
        found = self.hub.commit(name, branch)
        if found is None or file not in found[1]:
            self._error(404, "RevisionNotFound" if found is None else "EntryNotFound")
            return
        content = found[1][file]
        self._answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=found[0])


NAME, BRANCH = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<branch>[\w.-]+)"
ROUTES = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{NAME}/branch/{BRANCH}", Handler.branch),
    (rf"POST /api/models/{NAME}/preupload/{BRANCH}", Handler.preupload),
    (rf"POST /api/models/{NAME}/commit/{BRANCH}", Handler.take),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/(?P<oid>\w+)", Handler.put),
    (rf"GET /api/models/{NAME}/tree/{BRANCH}", Handler.tree),
    (rf"GET /api/models/{NAME}/revision/{BRANCH}", Handler.info),
    (rf"GET /api/models/{NAME}", Handler.info),
    (rf"(GET|HEAD) /{NAME}/resolve/{BRANCH}/(?P<file>.+)", Handler.resolve),
]


@contextmanager
def serving() -> Iterator[tuple[Hub, str]]:
    """The hub, and the address of its server on this machine."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        # connections that are kept alive would be answered after the end
        hub.gone = True
        server.shutdown()
        server.server_close()
