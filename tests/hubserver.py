"""A Hub on loopback, as a process of its own: repositories, commits, LFS and xet uploads, downloads.

It speaks enough of the Hub's protocol for the stock `huggingface_hub` and `datasets` clients, keeps all it is given in
a folder, writes one line for each request into `log.jsonl`, and breaks on request:

    python -m tests.hubserver ROOT TOKEN

`ROOT/port` holds the port once it listens. `POST /_control/faults` takes a list of faults, each
`{"match": regex on "METHOD path", "count": N, "status": 503, "headers": {}, "body": "", "drop": "before"|"after",
"delay": seconds}`; "{authorization}" and "{token}" in a body or header are replaced by what the request sent of them.
"""

import base64
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import yaml

from tests.hubstore import Store

PAGE = 3  # entries of a listing's page: small, so that clients have to follow the links


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, root: Path, token: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.store = token, Store(root)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock = threading.RLock()
        self.faults: list[dict[str, Any]] = []
        self.log = open(root / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115

    def write_log(self, entry: dict[str, Any]) -> None:
        with self.lock:
            self.log.write(json.dumps(entry) + "\n")
            self.log.flush()

    def take_fault(self, line: str) -> dict[str, Any] | None:
        with self.lock:
            for fault in self.faults:
                if fault["count"] > 0 and re.search(fault["match"], line):
                    fault["count"] -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        self.path_, _, query = self.path.partition("?")
        self.query = {key: values[0] for key, values in parse_qs(query).items()}
        self.entry: dict[str, Any] = {"time": time.time(), "method": self.command, "path": unquote(self.path_)}
        self.entry |= {"status": 0, "bytes": 0}
        fault = self.server.take_fault(f"{self.command} {unquote(self.path_)}")
        if fault:
            time.sleep(fault.get("delay", 0))
            self.entry["fault"] = True
        if fault and fault.get("drop") == "before":
            return self._drop()
        self.silent = bool(fault and fault.get("drop") == "after")
        try:
            self.body = self._read_body()
            if fault and "status" in fault:
                raise Refusal(fault["status"], fault.get("body", "broken on request"))
            self._route()
        except Refusal as refusal:
            self._refuse(refusal, fault or {})
        except (BrokenPipeError, ConnectionResetError, EOFError):
            self.close_connection = True
        finally:
            self.server.write_log(self.entry)
        if self.silent:
            self.close_connection = True

    def _drop(self) -> None:
        self.server.write_log(self.entry)
        self.close_connection = True
        self.connection.close()

    def _read_body(self) -> bytes | Path:
        """The request's body; that of an upload goes to a file."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = iter(self._chunks())
        else:
            pieces = iter(self._pieces(int(self.headers.get("Content-Length", 0))))
        if self.command != "PUT":
            body = b"".join(pieces)
            self.entry["bytes"] = len(body)
            return body
        path = self.server.store.new_file()
        with open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)
                self.entry["bytes"] += len(piece)
        return path

    def _pieces(self, size: int):
        while size:
            piece = self.rfile.read(min(size, 1 << 20))
            if not piece:
                raise EOFError
            size -= len(piece)
            yield piece

    def _chunks(self):
        while size := int(self.rfile.readline() or b"!", 16):
            yield from self._pieces(size)
            self.rfile.readline()
        self.rfile.readline()

    def _refuse(self, refusal: Refusal, fault: dict[str, Any]) -> None:
        headers = {"X-Error-Message": self._echo(refusal.message).replace("\n", " ")}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        headers |= {key: self._echo(value) for key, value in fault.get("headers", {}).items()}
        self._answer({"error": self._echo(refusal.message)}, refusal.status, headers)

    def _echo(self, text: str) -> str:
        sent = self.headers.get("Authorization", "")
        return text.replace("{authorization}", sent).replace("{token}", sent.removeprefix("Bearer "))

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.entry["status"] = status
        if self.silent:
            return
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # What the Hub knows

    def _route(self) -> None:
        path = unquote(self.path_)
        if path == "/_control/faults":
            self.server.faults = json.loads(self._bytes())
            return self._answer("ok")
        if path.startswith("/_lfs/"):
            return self._lfs_put(path.removeprefix("/_lfs/"))
        self._check_token()
        if path == "/api/whoami-v2":
            return self._answer({"type": "user", "name": "someone", "orgs": [], "auth": {"type": "access_token"}})
        if path == "/api/validate-yaml":
            return self._validate_yaml()
        if path == "/api/repos/create":
            return self._create()
        if path == "/_verify":
            return self._answer({}, 200 if self.server.store.has(json.loads(self._bytes())["oid"]) else 404)
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, self.path_):
                with self.server.lock:
                    return getattr(self, method)(*(unquote(group or "") for group in found.groups()))
        raise Refusal(404, f"no such page: {path}")

    def _bytes(self) -> bytes:
        assert isinstance(self.body, bytes)
        return self.body

    def _check_token(self) -> None:
        given = self.headers.get("Authorization")
        if given and given != f"Bearer {self.server.token}":
            raise Refusal(401, "Invalid credentials in Authorization header")
        if not given and self.command not in ("GET", "HEAD"):
            raise Refusal(401, "Invalid username or password.")

    def _repo(self, name: str) -> dict[str, Any]:
        repo = self.server.store.repo(name)
        if repo is None or (repo["private"] and not self.headers.get("Authorization")):
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def _tree(self, name: str, revision: str) -> dict[str, Any]:
        branches = self._repo(name)["branches"]
        for branch in branches.values():
            if branch["sha"] == revision:
                return branch
        if revision not in branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return branches[revision]

    def _create(self) -> None:
        asked = json.loads(self._bytes())
        if asked["organization"] == "forbidden":
            raise Refusal(403, 'You don\'t have the rights to create a dataset under the namespace "forbidden"')
        name = f"{asked['organization']}/{asked['name']}"
        with self.server.lock:
            if self.server.store.repo(name) is not None:
                raise Refusal(409, "You already created this dataset repo")
            self.server.store.create(name, asked.get("visibility") == "private" or bool(asked.get("private")))
        self._answer({"url": f"{self.server.url}/datasets/{name}", "name": name})

    def _info(self, name: str, revision: str = "") -> None:
        tree = self._tree(name, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(tree["files"])]
        facts = {"id": name, "sha": tree["sha"], "private": self._repo(name)["private"], "siblings": siblings}
        self._answer({**facts, "tags": [], "downloads": 0, "likes": 0, "disabled": False, "gated": False})

    def _refs(self, name: str) -> None:
        branches = self._repo(name)["branches"]
        listed = [{"name": key, "ref": f"refs/heads/{key}", "targetCommit": b["sha"]} for key, b in branches.items()]
        self._answer({"branches": listed, "converts": [], "tags": []})

    def _branch(self, name: str, branch: str) -> None:
        self._tree(name, "main")
        self.server.store.branch(name, branch)
        self._answer("ok")

    def _listing(self, name: str, revision: str, folder: str) -> None:
        recursive = self.query.get("recursive", "").lower() == "true"
        entries = self.server.store.listing(self._tree(name, revision), folder, recursive)
        if not entries and folder:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        start = int(self.query.get("cursor", 0))
        headers = {}
        if start + PAGE < len(entries):
            query = f"recursive={recursive}&cursor={start + PAGE}"
            headers["Link"] = f'<{self.server.url}{self.path_}?{query}>; rel="next"'
        self._answer(entries[start : start + PAGE], 200, headers)

    def _paths_info(self, name: str, revision: str) -> None:
        tree, asked = self._tree(name, revision), parse_qs(self._bytes().decode())["paths"]
        entries = self.server.store.listing(tree, "", True)
        self._answer([entry for entry in entries if entry["path"] in asked])

    def _preupload(self, name: str, revision: str) -> None:
        files, answer = self._tree(name, revision)["files"], []
        for file in json.loads(self._bytes())["files"]:
            binary = file["path"].endswith((".parquet", ".safetensors"))
            mode = "lfs" if binary or file["size"] > 10_000_000 else "regular"
            there = files.get(file["path"], {})
            facts = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            answer.append({**facts, "oid": there.get("sha256", there.get("oid"))})
        self._answer({"files": answer})

    def _lfs_batch(self, name: str) -> None:
        self._repo(name)
        objects = []
        for item in json.loads(self._bytes())["objects"]:
            if not self.server.store.has(item["oid"]):
                secret = quote(self.headers["Authorization"])
                href = f"{self.server.url}/_lfs/{item['oid']}?X-Amz-Signature={secret}"
                item |= {"actions": {"upload": {"href": href}, "verify": {"href": f"{self.server.url}/_verify"}}}
            objects.append(item)
        self._answer({"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str) -> None:
        assert isinstance(self.body, Path)
        if not self.server.store.keep(self.body, oid):
            raise Refusal(400, "The content does not have the SHA-256 it should have")
        self.entry["stored"] = oid
        self._send(b"")

    def _commit(self, name: str, revision: str) -> None:
        changes: dict[str, dict[str, Any]] = {}
        for line in self._bytes().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changes[value["path"]] = self.server.store.keep_bytes(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                entry = self.server.store.lfs_entry(value["oid"])
                if entry is None:
                    raise Refusal(400, f"{value['path']}: its content was never uploaded")
                changes[value["path"]] = entry
            elif item["key"] != "header":
                raise Refusal(400, f"{item['key']} is not known here")
        self._tree(name, revision)
        sha = self.server.store.commit(name, revision, changes)
        self.entry["committed"] = sorted(changes)
        self._answer({"commitUrl": f"{self.server.url}/datasets/{name}/commit/{sha}", "commitOid": sha})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        tree = self._tree(name, revision)
        if path not in tree["files"]:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        file = tree["files"][path]
        etag = file.get("sha256", file["oid"])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": tree["sha"], "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Size": str(file["size"]), "X-Linked-ETag": f'"{etag}"'} if "sha256" in file else {}
        if "xet" in file:
            route = f"{self.server.url}/api/datasets/{name}/xet-read-token/{tree['sha']}"
            headers |= {"X-Xet-Hash": file["xet"], "Link": f'<{route}>; rel="xet-auth"'}
            if self.command == "HEAD":
                return self._send(b"", 200, {**headers, "Content-Length": str(file["size"])})
        content = self.server.store.read(file)
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            return self._send(content[start:stop], 206, headers)
        self._send(content, 200, headers)

    def _xet_token(self, name: str, kind: str, revision: str) -> None:
        self._repo(name)
        cas = f"local://{self.server.store.xet}"
        expiry = int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": "xet-token", "X-Xet-Token-Expiration": str(expiry)}
        self._answer({"casUrl": cas, "accessToken": "xet-token", "exp": expiry}, 200, headers)

    def _validate_yaml(self) -> None:
        content = json.loads(self._bytes())["content"]
        found = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
        try:
            header = yaml.safe_load(found[1]) if found else None
        except yaml.YAMLError as error:
            return self._answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
        missing = [] if header else [{"message": "empty or missing yaml metadata in repo card"}]
        self._answer({"errors": [], "warnings": missing})


_NAME, _REVISION = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
ROUTES = [
    (rf"/api/(?:datasets|models)/{_NAME}", "_info"),
    (rf"/api/(?:datasets|models)/{_NAME}/revision/{_REVISION}", "_info"),
    (rf"/api/(?:datasets|models)/{_NAME}/refs", "_refs"),
    (rf"/api/(?:datasets|models)/{_NAME}/branch/{_REVISION}", "_branch"),
    (rf"/api/(?:datasets|models)/{_NAME}/tree/{_REVISION}(?:/(.*))?", "_listing"),
    (rf"/api/(?:datasets|models)/{_NAME}/paths-info/{_REVISION}", "_paths_info"),
    (rf"/api/(?:datasets|models)/{_NAME}/preupload/{_REVISION}", "_preupload"),
    (rf"/api/(?:datasets|models)/{_NAME}/commit/{_REVISION}", "_commit"),
    (rf"/api/(?:datasets|models)/{_NAME}/xet-(read|write)-token/{_REVISION}", "_xet_token"),
    (rf"/(?:datasets/)?{_NAME}\.git/info/lfs/objects/batch", "_lfs_batch"),
    (rf"/(?:datasets/)?{_NAME}/resolve/{_REVISION}/(.+)", "_resolve"),
]


def main() -> None:
    root = Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    hub = Hub(root, sys.argv[2])
    temporary = root / "port.tmp"
    temporary.write_text(str(hub.server_address[1]))
    temporary.rename(root / "port")
    hub.serve_forever()


if __name__ == "__main__":
    main()
