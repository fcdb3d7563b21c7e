"""Pushing to a Hub: a server process on loopback, the stock clients against it, and what may go wrong between them."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.types import GenerationPlan
from imagenet_sd.pipeline import open_dataset
from imagenet_sd.storage.dataset import fingerprint
from imagenet_sd.storage.hub import git_blob_id, scrub, wait_before_retry
from imagenet_sd.storage.upload import check_limits, published_document
from tests.conftest import ROOT, CliRun

TOKEN = "open-sesame-4711-0815"  # unlike the Hub's own, so that no pattern knows it

LOADER = """
import hashlib, json, sys
from datasets import Image, load_dataset
from huggingface_hub import snapshot_download

rows = load_dataset(sys.argv[1], split="train").cast_column("image", Image(decode=False)).to_list()
for row in rows:
    row["image"] = [hashlib.sha256(row["image"]["bytes"]).hexdigest(), row["image"]["path"]]
names = load_dataset(sys.argv[1], split="train").features["label"].names
snapshot_download(sys.argv[1], repo_type="dataset", local_dir=sys.argv[2])
print(json.dumps({"rows": rows, "names": names}))
"""


class Hub:
    """A running server and its log."""

    def __init__(self, root: Path, home: Path):
        self.root, self.home = root, home
        command = [sys.executable, "-m", "tests.hubserver", str(root), TOKEN]
        self.process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 60
        while not (root / "port").exists():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{(root / 'port').read_text()}"

    def env(self, *, xet: bool = False, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(self.home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
        return kept | ours | {"HF_HUB_DISABLE_XET": "0" if xet else "1"} | more

    def faults(self, *faults: dict[str, Any]) -> None:
        body = json.dumps([{"count": 1} | fault for fault in faults]).encode()
        urllib.request.urlopen(f"{self.url}/_control/faults", data=body, timeout=30).read()

    def log(self, repo: str = "") -> list[dict[str, Any]]:
        text = (self.root / "log.jsonl").read_text()
        return [entry for line in text.splitlines() if repo in (entry := json.loads(line))["path"]]

    def uploads(self) -> Counter[str]:
        """How often each object was stored."""
        return Counter(entry["stored"] for entry in self.log() if "stored" in entry)

    def commits(self, repo: str) -> list[list[str]]:
        return [entry["committed"] for entry in self.log(f"/{repo}/") if "committed" in entry]

    def shards(self, repo: str) -> list[str]:
        """Names of the shards that were committed, in order."""
        return [Path(path).name for commit in self.commits(repo) for path in commit if path.endswith(".parquet")]

    def files(self, repo: str, branch: str = "main") -> dict[str, dict[str, Any]]:
        return json.loads((self.root / "repos" / f"me--{repo}.json").read_text())["branches"][branch]["files"]

    def content(self, repo: str, path: str) -> bytes:
        return (self.root / "objects" / self.files(repo)[path]["object"]).read_bytes()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One server for all tests; each uses repositories, and objects, of its own."""
    hub = Hub(tmp_path_factory.mktemp("hub") / "root", tmp_path_factory.mktemp("home"))
    yield hub
    hub.process.terminate()
    hub.process.wait(30)


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy whose shards differ from those of all other tests, so that uploads can be counted by hash."""
    out = Path(shutil.copytree(small_dataset, tmp_path / "copy"))
    for path in shards(out):
        table = pq.read_table(path)
        mark = {**table.schema.metadata, b"test": request.node.name.encode()}
        pq.write_table(table.replace_schema_metadata(mark), path, write_page_checksum=True)
        sign(path)
    return out


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("data/*/*.parquet"))


def manifest_of(path: Path) -> Path:
    return path.parent / ".manifests" / f"{path.name[:11]}.json"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sign(path: Path) -> None:
    """Make the manifest of a shard say what the shard is."""
    manifest = json.loads(manifest_of(path).read_text())
    manifest |= {"sha256": sha256(path), "num_bytes": path.stat().st_size}
    manifest_of(path).write_text(json.dumps(manifest))


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start_push(hub: Hub, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imagenet_sd", "push", *map(str, arguments)]
    return subprocess.Popen(command, env=hub.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_a_pushed_dataset_loads_as_it_was(hub: Hub, dataset: Path, tmp_path: Path, cli: CliRun, xet: bool):
    repo = "loads-xet" if xet else "loads-lfs"
    first = cli("push", dataset, f"me/{repo}", "--format", "json", env=hub.env(xet=xet))
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert (told["shards_there"], told["shards_uploaded"], told["files_uploaded"]) == (4, 4, 10)
    assert "images 20/20" in first.stderr

    before = len(hub.log())
    second = cli("push", dataset, f"me/{repo}", "--format", "json", env=hub.env(xet=xet))
    assert json.loads(second.stdout)["files_uploaded"] == 0
    assert {entry["method"] for entry in hub.log()[before:]} == {"GET"}

    copy = tmp_path / "downloaded"
    command = [sys.executable, "-c", LOADER, f"me/{repo}", str(copy)]
    loaded = subprocess.run(
        command, env=hub.env(xet=xet, HF_HOME=str(tmp_path / "home")), capture_output=True, text=True, check=True
    )
    there = json.loads(loaded.stdout)
    here = [row for path in shards(dataset) for row in pq.read_table(path).to_pylist()]
    for row in here:
        row["image"] = [hashlib.sha256(row["image"]["bytes"]).hexdigest(), row["image"]["path"]]
    assert there["rows"] == here
    assert there["names"] == sorted({row["wnid"] for row in here})
    assert any(f"{repo}/xet-read-token" in entry["path"] for entry in hub.log()) == xet
    assert all(("xet" in file) == (xet and path.endswith(".parquet")) for path, file in hub.files(repo).items())

    verified = cli("verify", copy)
    assert verified.returncode == 0 and "sound" in verified.stdout, verified.stdout + verified.stderr


def test_killed_half_way_nothing_is_uploaded_twice(hub: Hub, dataset: Path, cli: CliRun):
    hub.faults({"match": f"PUT /_lfs/{sha256(shards(dataset)[2])}", "delay": 20, "drop": "before"})
    running = start_push(hub, dataset, "me/killed", "--shards-per-commit", 1)
    wait_for(lambda: len(hub.log("me/killed.git/info/lfs")) == 3)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert len(hub.shards("killed")) == 2
    hub.faults()

    done = cli("push", dataset, "me/killed", env=hub.env())
    assert done.returncode == 0, done.stderr
    assert "4 of 4 shards are there, 2 uploaded in this run" in done.stdout
    uploads = hub.uploads()
    assert [uploads[sha256(path)] for path in shards(dataset)] == [1, 1, 1, 1]
    assert hub.shards("killed") == [path.name for path in shards(dataset)]


def test_killed_between_upload_and_commit_nothing_is_uploaded_twice(hub: Hub, dataset: Path, cli: CliRun):
    last = sha256(shards(dataset)[3])
    hub.faults({"match": f"PUT /_lfs/{last}", "delay": 20, "drop": "before"})
    running = start_push(hub, dataset, "me/uncommitted")
    wait_for(lambda: hub.uploads()[sha256(shards(dataset)[2])])
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert hub.shards("uncommitted") == []
    hub.faults()
    done = cli("push", dataset, "me/uncommitted", env=hub.env())
    assert done.returncode == 0, done.stderr
    assert [hub.uploads()[sha256(path)] for path in shards(dataset)] == [1, 1, 1, 1]
    assert len(hub.shards("uncommitted")) == 4


def test_follow_uploads_what_finishes_and_ends(hub: Hub, dataset: Path, tmp_path: Path):
    growing = tmp_path / "growing"
    (growing / "data/round-000/.manifests").mkdir(parents=True)
    shutil.copy(dataset / "dataset.json", growing)
    parts = [(path, growing / path.relative_to(dataset)) for path in shards(dataset)]

    running = start_push(hub, growing, "me/follow", "--follow", "--poll", 0.1)
    for number, (source, target) in enumerate(parts[:2]):
        shutil.copy(source, target)
        time.sleep(0.3)
        assert len(hub.shards("follow")) == number  # a shard without manifest is not finished
        shutil.copy(manifest_of(source), manifest_of(target))
        wait_for(lambda number=number: len(hub.shards("follow")) == number + 1)
    time.sleep(0.3)
    running.terminate()
    _, said = running.communicate(timeout=30)
    assert running.returncode == 143
    assert "me/follow holds 2 of 4 shards" in said and "run the same command again" in said and "Traceback" not in said

    running = start_push(hub, growing, "me/follow", "--follow", "--poll", 0.1)
    for source, target in parts[2:]:
        shutil.copy(source, target)
        shutil.copy(manifest_of(source), manifest_of(target))
    told, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert "4 of 4 shards are there, 2 uploaded in this run" in told
    assert hub.shards("follow") == [path.name for path in shards(dataset)]
    assert "images 20/20" in said


def test_passing_trouble_is_waited_out(hub: Hub, dataset: Path, cli: CliRun):
    hub.faults(
        {"match": "GET /api/datasets/me/trouble$", "status": 500},
        {"match": "POST /api/repos/create", "status": 503, "body": "<html>busy</html>"},
        {"match": "GET .*trouble/tree/", "status": 429, "headers": {"Retry-After": "0"}},
        {"match": "validate-yaml", "status": 503, "body": "not JSON"},
        {"match": "preupload", "drop": "before"},
        {"match": f"PUT /_lfs/{sha256(shards(dataset)[0])}", "status": 500},
        {"match": f"PUT /_lfs/{sha256(shards(dataset)[1])}", "drop": "after"},
        {"match": "POST .*trouble/commit/", "drop": "after"},
        {"match": "POST .*trouble/commit/", "status": 429, "headers": {"Retry-After": "3"}},
        {"match": "POST .*trouble/commit/", "status": 503},
    )
    done = cli("push", dataset, "me/trouble", env=hub.env())
    assert done.returncode == 0, done.stderr
    assert "4 of 4 shards are there" in done.stdout
    faults = [entry for entry in hub.log() if entry.get("fault") and ("trouble" in entry["path"])]
    assert len(faults) >= 5
    assert len(hub.shards("trouble")) == 4
    assert len(hub.commits("trouble")) == 2, "a commit whose answer was lost was made again"
    assert "could not commit 8 files (429 Too Many Requests, broken on request); try 2 of 10 in 3 s" in done.stderr
    answers = [(entry["status"], entry["time"]) for entry in hub.log("me/trouble/commit/")]
    limited = [status for status, _ in answers].index(429)
    assert answers[limited + 1][1] - answers[limited][1] >= 3


def test_lasting_trouble_ends_in_one_line(hub: Hub, dataset: Path, cli: CliRun):
    hub.faults({"match": "me/broken", "status": 503, "count": 99})
    done = cli("push", dataset, "me/broken", "--attempts", 2, env=hub.env())
    hub.faults()
    assert done.returncode == 1
    assert len(hub.log("me/broken")) == 2
    assert "error: me/broken: could not look it up after 2 attempts: 503 Service Unavailable" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["preupload", "PUT", "commit", "tree"])
def test_no_token_is_ever_printed(hub: Hub, dataset: Path, cli: CliRun, where: str):
    echo = "You sent Authorization: {authorization}, that is {token}, and ?token={authorization}\x1b[31m"
    headers = {"X-HF-Warning": "{authorization}", "X-Request-Id": "{authorization}"}
    fault = {"match": "PUT" if where == "PUT" else f"/{where}/", "body": echo, "headers": headers}
    hub.faults({**fault, "status": 503}, {**fault, "status": 400, "count": 9})
    done = cli("push", dataset, f"me/echo-{where}", env=hub.env(HF_DEBUG="1"))
    hub.faults()
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "You sent" in said, said
    assert TOKEN not in said and "\x1b" not in said and "Traceback" not in said
    kept = [path for path in hub.home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert kept == []


def test_scrub_knows_the_shapes_of_secrets():
    for secret in (
        "hf_AbCdEfGhIjKlMnOp",
        "Bearer abc.def-ghi",
        "authorization: xyzzy99",
        "Authorization=xyzzy99",
        "https://host/path?X-Amz-Signature=xyzzy99&x=1",
        "https://host/path?a=1&X-Amz-Security-Token=xyzzy99",
        "https://user:xyzzy99@host/",
        "Bearer%20xyzzy99",
    ):
        for word in ("AbCdEf", "def-ghi", "xyzzy99"):
            assert word not in scrub(f"a {secret} b"), secret
    assert scrub("an own-secret here\nand\tthere\x07", "own-secret", None) == "an [secret] here and there"
    assert scrub("503 for /api/datasets/me/digits?cursor=3") == "503 for /api/datasets/me/digits?cursor=3"
    assert len(scrub("x" * 9999)) < 500


def test_waiting_follows_the_hub_and_is_bounded():
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    def error(status: int, **headers: str) -> HfHubHTTPError:
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        request = httpx2.Request("GET", "http://hub")
        return HfHubHTTPError("no", response=httpx2.Response(status, headers=names, request=request))

    def wait(*arguments: Any) -> float:
        seconds = wait_before_retry(*arguments)
        assert seconds is not None
        return seconds

    assert wait(error(429, retry_after="17"), 1) == 17
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 40))
    assert 37 <= wait(error(503, retry_after=later), 1) <= 41
    assert wait(error(429, ratelimit='"api";r=0;t=55'), 1) == 55
    assert wait(error(429, ratelimit='"api";r=12;t=55'), 1) < 2
    assert wait_before_retry(error(429, retry_after="86400"), 1) is None
    assert all(wait(error(503), attempt) <= 375 for attempt in range(1, 20))
    assert wait(error(503), 6) > 5 * wait(error(503), 1)
    for status in (400, 401, 403, 404):
        assert wait_before_retry(error(status), 1) is None
    assert wait_before_retry(FileNotFoundError("gone"), 1) is None
    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = httpx2.ReadTimeout("slow")
    assert wait(wrapped, 1) < 2


def test_git_blob_id_is_gits(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"some\ncontent\n")
    told = subprocess.run(["git", "hash-object", tmp_path / "file"], capture_output=True, text=True, check=True)
    assert git_blob_id(b"some\ncontent\n") == told.stdout.strip()


def test_another_dataset_is_not_mixed_in(hub: Hub, dataset: Path, tmp_path: Path, cli: CliRun):
    assert cli("push", dataset, "me/taken", env=hub.env()).returncode == 0
    commits = hub.commits("taken")
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    document = json.loads((other / "dataset.json").read_text())
    document["settings"]["seed"] = 1
    document["fingerprint"] = fingerprint(document)
    (other / "dataset.json").write_text(json.dumps(document))
    done = cli("push", other, "me/taken", env=hub.env())
    assert done.returncode == 1
    assert "me/taken holds another dataset" in done.stderr and document["fingerprint"] in done.stderr
    assert hub.commits("taken") == commits


def test_a_longer_dataset_is_not_shortened(hub: Hub, dataset: Path, tmp_path: Path, cli: CliRun):
    longer = Path(shutil.copytree(dataset, tmp_path / "longer"))
    document = json.loads((longer / "dataset.json").read_text()) | {"rounds": 2}
    (longer / "dataset.json").write_text(json.dumps(document))
    done = cli("push", longer, "me/longer", env=hub.env())
    assert done.returncode == 0 and "4 of 8 shards are there" in done.stdout and "4 not generated yet" in done.stdout
    done = cli("push", dataset, "me/longer", env=hub.env())
    assert done.returncode == 0, done.stderr
    assert "holds 2 rounds of this dataset" in done.stderr
    assert json.loads(hub.content("longer", "dataset.json"))["rounds"] == 2


def test_a_damaged_shard_is_named_and_left_out(hub: Hub, dataset: Path, tmp_path: Path, cli: CliRun):
    bad = shards(dataset)[1]
    good, facts = bad.read_bytes(), bad.stat()
    position = random.Random(3).randrange(len(good))
    bad.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
    os.utime(bad, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    done = cli("push", dataset, "me/damaged", "--format", "json", env=hub.env())
    name = bad.relative_to(dataset).as_posix()
    assert done.returncode == 1
    assert json.loads(done.stdout)["refused"] == [{"shard": name, "message": "its SHA-256 differs from its manifest"}]
    assert f"{name} is not uploaded" in done.stderr and "verify --repair" in done.stderr
    assert sorted(hub.shards("damaged")) == [path.name for path in shards(dataset) if path != bad]

    bad.write_bytes(good)
    done = cli("push", dataset, "me/damaged", env=hub.env())
    assert done.returncode == 0 and "4 of 4 shards are there, 1 uploaded" in done.stdout


def test_access_and_privacy(hub: Hub, dataset: Path, cli: CliRun):
    done = cli("push", dataset, "me/nobody", env=hub.env(HF_TOKEN=""))
    assert done.returncode == 1
    assert "no token was found" in done.stderr and "hint: log in with `hf auth login`, or set HF_TOKEN" in done.stderr
    done = cli("push", dataset, "forbidden/repo", env=hub.env())
    assert done.returncode == 1 and "this token may not create it: 403" in done.stderr and "HF_TOKEN" in done.stderr
    hub.faults({"match": "xet-write-token", "status": 403, "count": 9})
    done = cli("push", dataset, "me/read-only", env=hub.env(xet=True))
    assert done.returncode == 1 and "this token may not upload data/round-000/train-00000" in done.stderr
    done = cli("push", dataset, "no-namespace", env=hub.env())
    assert done.returncode == 1 and "NAMESPACE/NAME" in done.stderr

    done = cli("push", dataset, "me/secret", "--private", "--revision", "next", env=hub.env())
    assert done.returncode == 0, done.stderr
    repo = json.loads((hub.root / "repos/me--secret.json").read_text())
    assert repo["private"] is True
    assert sum(path.endswith(".parquet") for path in repo["branches"]["next"]["files"]) == 4
    assert not any(path.endswith(".parquet") for path in repo["branches"]["main"]["files"])
    done = cli("push", dataset, "me/open", env=hub.env())
    assert done.returncode == 0, done.stderr
    done = cli("push", dataset, "me/open", "--private", env=hub.env())
    assert done.returncode == 1 and "me/open is public" in done.stderr


def test_the_path_to_a_local_model_stays_at_home(dataset: Path, tmp_path: Path):
    document = open_dataset(dataset).document
    assert published_document(document) == document
    local = document | {"model_source": str(tmp_path / "models" / "mine")}
    assert published_document(local) == document | {"model_source": "mine"}
    hub_model = document | {"model_source": "CompVis/stable-diffusion-v1-4"}
    assert published_document(hub_model) == hub_model


@pytest.mark.parametrize(
    ("counts", "rounds", "word"),
    [((9_999,), 1, ""), ((10_000,), 1, "10,000 files a folder"), ((6_000,), 9, "100,000 in a repository")],
)
def test_limits_of_the_hub(small_dataset: Path, counts: tuple[int, ...], rounds: int, word: str):
    plan = open_dataset(small_dataset).plan
    large = GenerationPlan(
        fingerprint="f", classes=plan.classes[:1], counts=counts, rounds=rounds, shard_size=1, prompts=plan.prompts
    )
    if not word:
        return check_limits(large)
    with pytest.raises(DatasetError, match=word):
        check_limits(large)
