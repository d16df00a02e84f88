"""A server with the parts of the Hugging Face hub's HTTP interface that uploads and downloads of a model use."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_right"


class FakeHub:
    """A hub on a port of this machine, with its repositories in memory; a context that serves it."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # of each repository its revisions, and their files
        self.commits: list[str] = []  # messages
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, repo: str, files: dict[str, bytes]) -> None:
        self.repos[repo] = {"main": files}

    def __enter__(self) -> "FakeHub":
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def sha(files: dict[str, bytes]) -> str:
    """The id of a commit, of its files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def reply(self, status: int, body: Any = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str = "") -> None:
        self.reply(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def files_of(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files of a revision; replies and returns None where there is none."""
        revisions = self.hub.repos.get(repo)
        if revisions is None:
            self.refuse(401, "RepoNotFound")
            return None
        by_sha = {sha(files): files for files in revisions.values()}
        files = revisions.get(revision, by_sha.get(revision))
        if files is None:
            self.refuse(404, "RevisionNotFound")
        return files

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)(/.*)?", path):
            files = self.files_of(found[1], found[3])
            if files is None:
                return
            if found[2] == "tree":
                self.reply(200, [{"type": "file", "path": name, "size": len(content), "oid": sha({name: content})}
                                 for name, content in files.items()])
            else:
                self.reply(200, {"id": found[1], "sha": sha(files),
                                 "siblings": [{"rfilename": name} for name in files]})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            files = self.files_of(found[1], found[2])
            if files is not None and found[3] not in files:
                self.refuse(404, "EntryNotFound")
            elif files is not None:
                content = files[found[3]]
                self.reply(200, content, X_Repo_Commit=sha(files), ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        else:
            self.refuse(404)

    def do_POST(self) -> None:
        self.hub.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401)
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/]+)", self.path):
            getattr(self, found[2])(found[1], found[3], body)
        else:
            self.refuse(404)

    def create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if not repo.startswith("me/"):
            self.refuse(403)
        else:
            self.reply(409 if repo in self.hub.repos else 200, {"url": f"{self.hub.url}/{repo}"})
            self.hub.repos.setdefault(repo, {"main": {}})

    def branch(self, repo: str, name: str, body: bytes) -> None:
        revisions = self.hub.repos[repo]
        self.reply(409 if name in revisions else 200, {})
        revisions.setdefault(name, dict(revisions["main"]))

    def preupload(self, repo: str, revision: str, body: bytes) -> None:
        names = [file["path"] for file in json.loads(body)["files"]]
        self.reply(200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})

    def commit(self, repo: str, revision: str, body: bytes) -> None:
        files = dict(self.hub.repos[repo][revision])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.hub.commits.append(line["value"]["summary"])
            else:
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.hub.repos[repo][revision] = files
        self.reply(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{sha(files)}", "commitOid": sha(files)})
