"""A loopback Hub: the endpoints that an upload and a download call, repositories in memory, every request recorded.

Written from what huggingface_hub 2.4 sends. `HF_ENDPOINT=server.url`, with HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
READER = "hf_reader"  # a valid token that may not write


@dataclass
class Repository:
    """files: path -> bytes; large: paths that are stored by LFS; commits: one id a commit; ignored: by a .gitignore."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    large: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    branches: list[str] = field(default_factory=lambda: ["main"])
    ignored: set[str] = field(default_factory=set)


class HubServer(ThreadingHTTPServer):
    """Runs in a thread while used as a context. `spoil`: a path whose bytes are changed as they are committed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        self.spoil: str | None = None

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/branch/(?P<branch>.+)", "create_branch"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/[^/]+", "preupload"),
        ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("POST", r"/lfs/verify", "lfs_verify"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/commit/[^/]+", "commit"),
        ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?P<folder>/.+)?", "tree"),
        ("GET", r"/api/models/(?P<name>[^/]+/[^/]+?)(/revision/(?P<revision>[^/]+))?", "info"),
        ("GET|HEAD", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def handle_request(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.body))
        for methods, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split("|"):
                self._call(name, match.groupdict())
                return
        self.answer(404, {"error": f"no such endpoint: {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def _call(self, name: str, arguments: dict[str, str]) -> None:
        repository = arguments.pop("name", None)
        if repository is not None:
            found = self.server.repositories.get(repository)
            if found is None or (found.private and self._token() not in (TOKEN, READER)):
                self.answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                return
            arguments |= {"repository": found, "name": repository}
        writes = (
            self.command != "GET" and self.command != "HEAD" and not name.startswith(("lfs_put", "validate"))
        )
        if (writes or name == "whoami") and self._token() not in (TOKEN, READER):
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
        elif writes and self._token() == READER:
            self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        else:
            getattr(self, name)(**arguments)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def answer(self, status: int, value=None, headers=None, body: bytes | None = None) -> None:
        content = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass

    def whoami(self) -> None:
        self.answer(
            200, {"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        )

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization'] or 'user'}/{asked['name']}"
        answer = {"url": f"{self.server.url}/{name}", "name": name}
        if name in self.server.repositories:
            self.answer(409, {"error": "You already created this model repo", **answer})
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.server.repositories[name] = Repository(private)
        self.answer(200, answer)

    def validate_yaml(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def create_branch(self, name: str, repository: Repository, branch: str) -> None:
        repository.branches.append(branch)
        self.answer(200, {})

    def preupload(self, name: str, repository: Repository) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": file["path"] in repository.ignored,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": files})

    def lfs_batch(self, name: str, repository: Repository) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"},
                "verify": {"href": f"{self.server.url}/lfs/verify"},
            }
            there = asked["oid"] in self.server.objects
            objects.append(asked if there else {**asked, "actions": actions})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.answer(400, {"error": "content does not match its sha256"})
            return
        self.server.objects[oid] = self.body
        self.answer(200, {})

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        there = len(self.server.objects.get(asked["oid"], b"")) == asked["size"]
        self.answer(200 if there else 404, {})

    def commit(self, name: str, repository: Repository) -> None:
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.objects[value["oid"]]
                repository.large.add(value["path"])
            if line["key"] != "header" and value["path"] == self.server.spoil:
                repository.files[value["path"]] += b"spoilt"
        repository.commits.append(hashlib.sha1(self.body).hexdigest())
        answer = {"commitOid": repository.commits[-1], "commitUrl": f"{self.server.url}/{name}/commit/x"}
        self.answer(200, {**answer, "pullRequestUrl": None})

    def tree(self, name: str, repository: Repository, revision: str, folder: str | None) -> None:
        if folder:
            self.answer(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
            return
        entries = [
            self._entry(path, content, path in repository.large) for path, content in repository.files.items()
        ]
        self.answer(200, [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "adapter"}, *entries])

    @staticmethod
    def _entry(path: str, content: bytes, large: bool) -> dict:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if large:
            entry["lfs"] = {
                "oid": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 134,
            }
        return entry

    def info(self, name: str, repository: Repository, revision: str | None) -> None:
        siblings = [{"rfilename": path} for path in repository.files]
        answer = {"id": name, "modelId": name, "sha": repository.commits[-1], "private": repository.private}
        self.answer(200, {**answer, "siblings": siblings, "tags": []})

    def resolve(self, name: str, repository: Repository, revision: str, path: str) -> None:
        commit = {"X-Repo-Commit": repository.commits[-1]}
        if path not in repository.files:
            self.answer(404, {"error": "Entry not found"}, {**commit, "X-Error-Code": "EntryNotFound"})
            return
        content = repository.files[path]
        kind = hashlib.sha256 if path in repository.large else hashlib.sha1
        etag = {"ETag": f'"{kind(content).hexdigest()}"', "Content-Type": "application/octet-stream"}
        self.answer(200, headers={**commit, **etag}, body=content)
