"""What the loopback Hub keeps on disk: objects by SHA-256, repositories as JSON, xet's own store; knows no HTTP."""

import hashlib
import json
import struct
import uuid
from pathlib import Path
from typing import Any

Files = dict[str, dict[str, Any]]


class Store:
    """Files of `root`: `objects/` (by SHA-256), `repos/` (one JSON each), `xet/` (written by the xet client itself)."""

    def __init__(self, root: Path):
        self.root, self.xet = root, root / "cas"
        self.repos: dict[str, dict[str, Any]] = {}
        for folder in (root / "objects", root / "repos", root / "incoming", self.xet):
            folder.mkdir(parents=True, exist_ok=True)

    # Objects

    def new_file(self) -> Path:
        return self.root / "incoming" / uuid.uuid4().hex

    def has(self, oid: str) -> bool:
        return (self.root / "objects" / Path(oid).name).exists()

    def keep(self, path: Path, oid: str) -> bool:
        """Take an uploaded file in, if its content is what its name says."""
        if hashlib.sha256(path.read_bytes()).hexdigest() != oid:
            path.unlink()
            return False
        path.rename(self.root / "objects" / oid)
        return True

    def keep_bytes(self, content: bytes) -> dict[str, Any]:
        """A file that git keeps itself."""
        (self.root / "objects" / hashlib.sha256(content).hexdigest()).write_bytes(content)
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"oid": git, "size": len(content), "object": hashlib.sha256(content).hexdigest()}

    def lfs_entry(self, sha256: str) -> dict[str, Any] | None:
        """A file whose content lies in LFS or in xet; None when it is in neither."""
        entry: dict[str, Any] = {"oid": hashlib.sha1(f"pointer to {sha256}".encode()).hexdigest(), "sha256": sha256}
        if self.has(sha256):
            size = (self.root / "objects" / sha256).stat().st_size
            entry |= {"size": size, "object": sha256}
        for known, xet_hash, size in self.xet_files():
            if known == sha256:
                entry |= {"size": size, "xet": xet_hash}
        return entry if "size" in entry else None

    def read(self, file: dict[str, Any]) -> bytes:
        return (self.root / "objects" / file["object"]).read_bytes()

    def xet_files(self) -> list[tuple[str, str, int]]:
        """(SHA-256, xet hash, size) of the files in the xet store, out of its metadata shards."""
        found = []
        for path in sorted(self.xet.glob("**/xorbs/shards/*.mdb")):
            data, position = path.read_bytes(), 48
            while data[position : position + 32] != b"\xff" * 32:
                flags, count = struct.unpack_from("<II", data, position + 32)
                name, position = _hex(data[position : position + 32]), position + 48
                size = sum(struct.unpack_from("<I", data, position + 48 * i + 36)[0] for i in range(count))
                position += 48 * count * (2 if flags & 1 << 31 else 1)
                if flags & 1 << 30:
                    found.append((_hex(data[position : position + 32]), name, size))
                    position += 48
        return found

    # Repositories

    def repo(self, name: str) -> dict[str, Any] | None:
        return self.repos.get(name)

    def create(self, name: str, private: bool) -> None:
        attributes = self.keep_bytes(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")
        self.repos[name] = {"private": private, "branches": {}}
        self._save(name, "main", {".gitattributes": attributes}, 0)

    def branch(self, name: str, branch: str) -> None:
        main = self.repos[name]["branches"]["main"]
        self._save(name, branch, dict(main["files"]), main["commits"])

    def commit(self, name: str, branch: str, changes: Files) -> str:
        old = self.repos[name]["branches"][branch]
        return self._save(name, branch, old["files"] | changes, old["commits"] + 1)

    def _save(self, name: str, branch: str, files: Files, commits: int) -> str:
        sha = hashlib.sha1(json.dumps([name, branch, files, commits], sort_keys=True).encode()).hexdigest()
        self.repos[name]["branches"][branch] = {"sha": sha, "files": files, "commits": commits}
        (self.root / "repos" / f"{name.replace('/', '--')}.json").write_text(json.dumps(self.repos[name]))
        return sha

    def listing(self, tree: dict[str, Any], folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The entries of a folder, as the Hub lists them."""
        prefix, entries = f"{folder}/" if folder else "", {}
        for path, file in sorted(tree["files"].items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                above = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(above.encode()).hexdigest()
                entries[above] = {"type": "directory", "oid": oid, "size": 0, "path": above}
            if recursive or len(parts) == 1:
                entries[path] = {"type": "file", "oid": file["oid"], "size": file["size"], "path": path}
                if "sha256" in file:
                    entries[path]["lfs"] = {"oid": file["sha256"], "size": file["size"], "pointerSize": 130}
                if "xet" in file:
                    entries[path]["xetHash"] = file["xet"]
        return list(entries.values())


def _hex(raw: bytes) -> str:
    """Xet's way to write a hash: each of its four 64-bit words is little-endian."""
    return b"".join(raw[i : i + 8][::-1] for i in range(0, 32, 8)).hex()
