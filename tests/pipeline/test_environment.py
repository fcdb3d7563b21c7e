"""`imagenet-sd env`: what it says against other ways to find out, that it tells no secret, and that it survives."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch.nn.attention import SDPBackend, sdpa_kernel

import imagenet_sd
from imagenet_sd.cli.environment import _device
from imagenet_sd.core.machine import LIBRARIES, folder_bytes, library_versions
from imagenet_sd.generation.diffusion import capabilities
from imagenet_sd.prompts.wordnet import find_wordnet, wordnet_facts
from imagenet_sd.storage.hub_status import ask_hub, known_secrets, mask_url
from tests.conftest import ROOT, CliRun

TOKEN, STORED, PASSWORD, ENDPOINT_PASSWORD = "0123-a-token", "hf_" + "stored" * 5, "p@ss/w0rd", "open%40sesame"
SECRETS = (TOKEN, STORED, PASSWORD, ENDPOINT_PASSWORD, "open@sesame", "sesame", "signed-query")


@contextmanager
def http_server(status: int) -> Iterator[tuple[str, list[str]]]:
    """A server that gives one answer; its address, and the requests it got with their headers."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            requests.append(f"{self.requestline}\n{self.headers}")
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a token, a Hub cache of 1,000 bytes (a blob and a link to it) and a cache of 50."""
    home = tmp_path_factory.mktemp("homes") / "someone"
    blobs = home / "hf" / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0").write_bytes(bytes(1000))
    (blobs.parent / "link").symlink_to(blobs / "0")
    (home / "hf" / "token").write_text(STORED)
    (home / "cache").mkdir()
    (home / "cache" / "file").write_bytes(bytes(50))
    return home


@pytest.fixture(scope="module")
def machine(home: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """An environment full of secrets, and the requests that reached its Hub."""
    with http_server(200) as (address, requests):
        yield (
            {
                **{name: value for name, value in os.environ.items() if not name.lower().endswith("proxy")},
                "HOME": str(home), "HF_HOME": str(home / "hf"), "IMAGENET_SD_CACHE": str(home / "cache"),
                "IMAGENET_SD_WORDNET": str(find_wordnet()), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
                "HF_ENDPOINT": f"http://me:{ENDPOINT_PASSWORD}@{address}/mirror?token=signed-query",
                "HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9", "LD_LIBRARY_PATH": f"{home}/lib:/{PASSWORD}",
                "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT),
            },
            requests,
        )  # fmt: skip


@pytest.fixture(scope="module")
def report(cli: CliRun, machine) -> dict:
    done = cli("env", "--format", "json", env=machine[0])
    assert done.returncode == 0 and done.stderr == ""
    return json.loads(done.stdout)


def test_versions_are_those_of_the_distributions(report: dict):
    lists = re.findall(r"^(\w+) = \[\n?(.*?)\]$", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE | re.DOTALL)
    needed = {key: re.findall(r'"([\w-]+)>=', value) for key, value in lists}
    assert len(needed["dependencies"]) > 25
    for name in [*needed["dependencies"], *needed["ray"], *needed["xformers"], "peft", "torchao"]:
        try:
            expected = version(name)
        except PackageNotFoundError:
            expected = None
        assert report["libraries"][name] == expected, name
    assert report["imagenet_sd"] == imagenet_sd.__version__
    assert report["python"]["version"] == sys.version.split()[0]
    assert report["torch"]["version"] == torch.__version__ and report["torch"]["cuda"] == torch.version.cuda


def test_an_unknown_library_has_no_version():
    assert library_versions(["torch", "no-such-library"]) == {"torch": version("torch"), "no-such-library": None}
    assert len(set(LIBRARIES)) == len(LIBRARIES)


def test_the_machine_is_described(report: dict, home: Path):
    assert report["cpu"]["cores"] == os.cpu_count() and report["cpu"]["model"]
    total = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) * 1024
    assert report["memory"]["total_bytes"] == pytest.approx(total, rel=0.01)
    assert 0 < report["memory"]["available_bytes"] < total
    free = shutil.disk_usage(home).free
    assert report["free_bytes"]["cache"] == report["free_bytes"]["hub_cache"] == pytest.approx(free, abs=3e9)
    assert report["free_bytes"]["working_folder"] == pytest.approx(shutil.disk_usage(".").free, abs=3e9)
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if "CC" not in os.environ:
        assert (report["compilers"]["c"] or {"command": None})["command"] == compiler


def test_torch_and_its_devices(report: dict):
    kinds = [device["device"] for device in report["torch"]["devices"]]
    assert kinds[0] == "cpu" and kinds.count("cpu") == 1
    assert len([kind for kind in kinds if kind.startswith("cuda")]) == torch.cuda.device_count()
    built_for_gpus = torch.version.cuda or torch.version.hip
    assert bool(report["torch"]["accelerator_error"]) == bool(built_for_gpus and not torch.cuda.is_available())
    assert 0 < report["torch"]["import_seconds"] < 120


def test_the_cpu_runs_what_torch_runs_there(report: dict):
    cpu = report["torch"]["devices"][0]
    assert cpu["attention_dtype"] == "float32"
    assert cpu["dtypes"]["float32"] == {"runs": True, "error": None}
    assert cpu["attention"]["math"] == {"runs": True, "error": None}
    query = torch.randn(1, 1, 8, 16)
    for name, kind in SDPBackend.__members__.items():
        if name not in ("ERROR", "OVERRIDEABLE"):
            try:
                with sdpa_kernel(kind):
                    torch.nn.functional.scaled_dot_product_attention(query, query, query)
                runs = True
            except RuntimeError:
                runs = False
            found = cpu["attention"][name.removesuffix("_ATTENTION").lower()]
            assert found["runs"] == runs == (found["error"] is None), name
    assert cpu["attention"]["xformers"]["error"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_runs_what_torch_says_that_it_supports(report: dict):
    gpu = next(device for device in report["torch"]["devices"] if device["device"] == "cuda:0")
    assert gpu["name"] == torch.cuda.get_device_name(0) and report["nvidia_driver"]
    assert gpu["capability"] == "{}.{}".format(*torch.cuda.get_device_capability(0))
    assert gpu["dtypes"]["float32"]["runs"] and gpu["dtypes"]["float16"]["runs"]
    assert gpu["dtypes"]["float8_e4m3fn"]["runs"] == (torch.cuda.get_device_capability(0) >= (8, 9))
    assert gpu["attention"]["math"]["runs"] and gpu["attention"]["efficient"]["runs"]


def test_kernels_that_fail_or_calculate_wrongly_do_not_run(monkeypatch: pytest.MonkeyPatch):
    right = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a: right(*a) + 0.1)
    found = capabilities._attention(torch.device("cpu"), "float32")
    assert found["math"] == {"runs": False, "error": "attention has a wrong result"}
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *a: torch.full((1,), float("nan")))
    trials = capabilities._trials(torch.device("cpu"))["dtypes"]
    assert trials["bfloat16"] == {"runs": False, "error": "a convolution has a wrong result"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "from torch.nn.functional import scaled_dot_product_attention as sdpa\n"
            "def memory_efficient_attention(*qkv): return sdpa(*(x.transpose(1, 2) for x in qkv)).transpose(1, 2)",
            {"runs": True, "error": None},
        ),
        (
            "from torch.nn.functional import scaled_dot_product_attention as memory_efficient_attention",
            {"runs": False, "error": "attention has a wrong result"},  # positions and heads in each other's place
        ),
        ("raise ImportError('built for\\nanother torch')", {"runs": False, "error": "built for another torch"}),
    ],
)
def test_xformers_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: dict):
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "__init__.py").touch()
    (tmp_path / "xformers" / "ops.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("xformers", "xformers.ops"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = capabilities._attention(torch.device("cpu"), "float32")["xformers"]
    for name in ("xformers", "xformers.ops"):
        sys.modules.pop(name, None)
    assert found == expected


def test_gpus_of_one_kind_are_tried_once(monkeypatch: pytest.MonkeyPatch):
    """Trying one costs time and memory; the others are named, and say whose result is theirs."""
    kind = {"name": "Accelerator X", "capability": "9.0", "memory_bytes": 80_000_000_000}
    gpus = [{"device": f"cuda:{number}", **kind} for number in range(2)]
    trials = {"runs": True, "error": None}
    tried = []

    def try_device(device: torch.device) -> dict:
        tried.append(str(device))
        return {"free_bytes": 70_000_000_000, "dtypes": {"float32": trials}, "attention": {}, "attention_dtype": "x"}

    monkeypatch.setattr(capabilities, "_accelerators", lambda: [*gpus, {"device": "cuda:2", **kind, "name": "Y"}])
    monkeypatch.setattr(capabilities, "_trials", try_device)
    devices = capabilities._torch_facts()["devices"]
    assert tried == ["cpu", "cuda:0", "cuda:2"] and devices[2] == gpus[1] | {"same_as": "cuda:0"}
    assert [*_device(devices[1]), *_device(devices[2])] == [
        ("cuda:0", "Accelerator X, capability 9.0, 80 GB, 70 GB free"),
        ("  dtypes", "float32"),
        ("cuda:1", "Accelerator X, capability 9.0, 80 GB, runs what cuda:0 runs"),
    ]


def test_the_hub_is_asked_without_a_token(report: dict, machine):
    requests = machine[1]
    assert requests and all("authorization" not in request.lower() for request in requests)
    assert report["hub"]["reachable"] is True and report["hub"]["status"] == 200 and report["hub"]["error"] is None
    assert report["hub"]["token"] == "HF_TOKEN" and report["hub"]["offline"] is False
    assert report["hub"]["cache"] == "~/hf/hub" and report["hub"]["cache_bytes"] == 1000
    assert report["cache"] == {"path": "~/cache", "bytes": 50}


def test_no_secret_is_told_and_home_is_a_tilde(report: dict, machine, home: Path):
    environment, _ = machine
    text = json.dumps(report)
    for secret in (*SECRETS, str(home)):
        assert secret not in text, secret
    address = environment["HF_ENDPOINT"].rpartition("@")[2].partition("/")[0]
    assert report["hub"]["endpoint"] == f"http://[secret]@{address}/mirror?[secret]"
    assert report["variables"]["HTTPS_PROXY"] == "http://[secret]@127.0.0.1:9"
    assert report["variables"]["LD_LIBRARY_PATH"] == "~/lib:/[secret]"
    assert report["variables"]["NO_PROXY"] == "127.0.0.1"
    assert "HF_TOKEN" not in report["variables"]


def test_the_text_has_it_all_in_aligned_lines(cli: CliRun, machine, report: dict):
    done = cli("env", env=machine[0])
    assert done.returncode == 0
    for secret in SECRETS:
        assert secret not in done.stdout
    lines = done.stdout.splitlines()
    assert all(line[13] == " " and line[14].strip() for line in lines), lines
    labels = {line[:14].strip() for line in lines}
    expected = (
        "imagenet-sd python platform processor memory libraries torch cpu dtypes attention compilers WordNet hub "
    )
    assert labels >= {*expected.split(), "not installed", "NVIDIA driver", "hub cache", "free disk", "variables"}
    flowing = " ".join(line[14:] for line in lines)
    for name, known in report["libraries"].items():
        assert (f"{name} {known}" if known else name) in flowing
    assert "answers in" in flowing and "HF_TOKEN" in flowing and "~/hf/hub, 1.0 kB" in flowing
    assert f"built for CUDA {torch.version.cuda}" in flowing or not torch.version.cuda


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise ImportError('libcudart.so.99: no such file')", "libcudart.so.99: no such file"),
        ("import os; os.abort()", "it crashed with SIGABRT"),
        ("import sys; sys.exit('out of order')", "out of order"),
    ],
)
def test_a_broken_torch_is_a_line_of_the_report(cli: CliRun, machine, tmp_path: Path, code: str, error: str):
    """Whatever importing torch does, the command goes on, and does not import it itself."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(code)
    environment = {**machine[0], "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = cli("env", env=environment, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(rf"^torch         error: {re.escape(error)}$", done.stdout, flags=re.MULTILINE)
    assert "WordNet       3.0 in" in done.stdout


def test_a_torch_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    assert capabilities.torch_facts(seconds=2) == {"error": "no answer within 2 seconds"}


def test_neither_process_imports_more_than_it_must():
    """The command leaves torch to its child; the child leaves diffusers, transformers and all others alone."""
    heavy = {"torch", "torchvision", "diffusers", "transformers", "accelerate", "datasets", "timm", "peft", "sklearn"}
    asking = "import imagenet_sd.generation.diffusion.capabilities as c; c.torch_facts = dict; "
    asking += "import imagenet_sd; imagenet_sd.environment()"
    child = ["-m", "imagenet_sd.generation.diffusion.capabilities"]
    for arguments, expected in ((["-c", asking], set()), (child, {"torch"})):
        command = [sys.executable, "-X", "importtime", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
        loaded = {name.split(".")[0] for name in re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE)}
        assert "imagenet_sd" in loaded and loaded & heavy == expected


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (401, True), (404, True), (407, False), (503, False)])
def test_answers_of_the_hub(no_proxy: None, monkeypatch: pytest.MonkeyPatch, status: int, reachable: bool):
    with http_server(status) as (address, _):
        monkeypatch.setattr(constants, "ENDPOINT", f"http://{address}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        found = ask_hub()
    assert found["status"] == status and found["reachable"] is reachable
    assert (found["error"] is None) == reachable


def test_a_silent_hub_and_offline_mode(no_proxy: None, monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        began = time.monotonic()
        found = ask_hub(seconds=0.2)
        assert time.monotonic() - began < 2
        assert found["reachable"] is False and found["status"] is None and "timed out" in found["error"]
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert ask_hub()["reachable"] is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "no address")
    assert ask_hub()["reachable"] is False


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://huggingface.co", "https://huggingface.co"),
        ("http://a:b@proxy:3128", "http://[secret]@proxy:3128"),
        ("http://a:b@c@proxy/x", "http://[secret]@proxy/x"),
        ("http://a:b/c@proxy", "http://[secret]@proxy"),
        ("a:b@proxy:3128", "[secret]@proxy:3128"),
        ("http://proxy/x?sig=abc#def", "http://proxy/x?[secret]"),
    ],
)
def test_urls_are_masked(url: str, masked: str):
    assert mask_url(url) == masked


def test_passwords_are_known_quoted_and_unquoted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://me:open%20sesame@127.0.0.1:9")
    assert {"open%20sesame", "open sesame", "me:open%20sesame"} <= set(known_secrets())


def test_a_wordnet_that_is_missing_or_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IMAGENET_SD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGENET_SD_WORDNET", str(tmp_path))
    found = wordnet_facts()
    assert found["path"] is None and "nltk.downloader" in found["hint"]
    licence = "  1 This software and database is being provided\n  2 WordNet {} Copyright 2006\n"
    (tmp_path / "data.noun").write_text(licence.format("3.1"))
    found = wordnet_facts()
    assert (found["path"], found["version"]) == (str(tmp_path), "3.1") and "WordNet 3.0" in found["hint"]
    archive = tmp_path / "wordnet.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("wordnet/data.noun", licence.format("3.0"))
    monkeypatch.setenv("IMAGENET_SD_WORDNET", str(archive))
    assert wordnet_facts() == {"path": str(archive), "version": "3.0", "extract": False, "hint": None}


def test_folders_are_counted_or_given_up(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(7))
    (tmp_path / "b").write_bytes(bytes(5))
    assert folder_bytes(tmp_path) == 12 and folder_bytes(tmp_path / "none") == 0
    assert folder_bytes(tmp_path, seconds=-1) is None
