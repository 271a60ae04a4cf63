"""A small Hugging Face hub on localhost: what the real client needs to download and publish models, with faults."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub:
    """Repositories in memory, served at `url`; use it as a context manager.

    `drop_once` names files whose next transfer breaks off half-way; `wrong_bytes` files that are sent with all
    bytes inverted under the right size and ETag, `wrong_once` those whose next transfer is; `trickled` those that come
    at ten bytes a second, and `busy` those that are to be asked for again in an hour; `etags` replaces the ETags
    of the real hub (SHA-256 of weights, git's SHA-1 of small files); `requests` lists what was asked for.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # repo -> commit -> file -> content
        self.heads: dict[str, str] = {}
        self.lfs: dict[str, bytes] = {}
        self.drop_once: set[str] = set()
        self.wrong_bytes: set[str] = set()
        self.wrong_once: set[str] = set()
        self.trickled: set[str] = set()
        self.busy: set[str] = set()
        self.etags: dict[str, str] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add files to the head of `repo`; returns the new commit."""
        history = self.repos.setdefault(repo, {})
        content = {**history.get(self.heads.get(repo, ""), {}), **files}
        identity = repr((repo, len(history), sorted(content)))
        self.heads[repo] = hashlib.sha1(identity.encode()).hexdigest()
        history[self.heads[repo]] = content
        return self.heads[repo]

    def commit_folder(self, repo: str, folder: Path) -> str:
        """Add all files of a folder, at any depth, to the head of `repo`; returns the new commit."""
        paths = (path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return self.commit(repo, files)

    def resolve(self, repo: str, revision: str) -> str | None:
        """The commit a branch or commit name stands for."""
        return self.heads.get(repo) if revision == "main" else revision if revision in self.repos[repo] else None


def hub_hash(name: str, content: bytes) -> str:
    """The ETag that the real hub gives: SHA-256 of large files, git's SHA-1 of small ones."""
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path.split("?")[0]):
            self._file(*match.groups())
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([^/]+))?", self.path.split("?")[0]):
            repo, revision = match.groups()
            commit = self.hub.resolve(repo, revision or "main") if repo in self.hub.repos else None
            if commit is None:
                return self._error("RepoNotFound")
            files = [{"rfilename": name} for name in self.hub.repos[repo][commit]]
            self._json({"id": repo, "modelId": repo, "sha": commit, "siblings": files, "private": False, "tags": []})
        else:
            self._error("EntryNotFound")

    def do_POST(self) -> None:
        body = self._body()
        self.hub.requests.append((self.command, self.path, None))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": f["path"], "uploadMode": modes[f["path"].endswith(".safetensors")], "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            self._json({"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")
        elif match := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._error("EntryNotFound")

    def do_PUT(self) -> None:
        body = self._body()
        oid = self.path.rsplit("/", 1)[-1]
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "wrong content"}, status=400)
        self.hub.lfs[oid] = body
        self._json({})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _file(self, repo: str, revision: str, name: str) -> None:
        if repo not in self.hub.repos:
            return self._error("RepoNotFound")
        commit = self.hub.resolve(repo, revision)
        if commit is None:
            return self._error("RevisionNotFound")
        content = self.hub.repos[repo][commit].get(name)
        if content is None:
            return self._error("EntryNotFound", commit)
        if name in self.hub.busy:
            self.send_response(429)
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        etag = self.hub.etags.get(name, hub_hash(name, content))
        if name in self.hub.wrong_bytes or (name in self.hub.wrong_once and self.command == "GET"):
            self.hub.wrong_once.discard(name)
            content = bytes(255 - byte for byte in content)
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.drop_once:
            self.hub.drop_once.discard(name)
            self.wfile.write(content[start : start + len(content) // 2])
            self.close_connection = True
            return
        for byte in content[start:] if name in self.hub.trickled else ():
            self.wfile.write(bytes([byte]))
            time.sleep(0.1)
        if name not in self.hub.trickled:
            self.wfile.write(content[start:])

    def _create(self, request: dict[str, Any]) -> None:
        repo = f"{request['organization']}/{request['name']}"
        if repo in self.hub.repos:
            return self._json({"error": "exists", "url": f"{self.hub.url}/{repo}"}, status=409)
        self.hub.repos[repo] = {}
        self.hub.commit(repo, {".gitattributes": b""})
        self._json({"url": f"{self.hub.url}/{repo}"})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
        oid = self.hub.commit(repo, files)
        self._json({"success": True, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid})

    def _json(self, values: dict[str, Any], kind: str = "application/json", status: int = 200) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, code: str, commit: str | None = None) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
