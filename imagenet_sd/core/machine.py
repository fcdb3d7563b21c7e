"""What this machine is and has: processor, memory, NVIDIA driver, compilers, installed libraries.

Nothing here imports a library to ask for its version, and nothing is sent over a network.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LIBRARIES = tuple(
    """
    accelerate click datasets diffusers huggingface_hub jinja2 lazy-loader matplotlib mlxtend nltk numpy
    open-clip-torch optuna pandas pillow prometheus-client pyarrow pydantic pyyaml rich safetensors scikit-image
    scikit-learn scipy tensorboard timm tokenizers torch torchvision transformers peft ray torchao triton xformers
    """.split()
)
"""The dependencies of this package, its extras, and what models may need beside them."""
_COMPILERS = {"c": ("CC", ("cc", "gcc", "clang")), "c++": ("CXX", ("g++", "c++", "clang++"))}


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str | None]:
    """Version of each library by its distribution's metadata; None where it is not installed."""
    versions: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def cpu_facts() -> dict[str, Any]:
    """`model`, `cores` of the machine and `usable_cores` of this process."""
    model = _after("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"model": model, "cores": os.cpu_count(), "usable_cores": usable}


def memory_facts() -> dict[str, int | None]:
    """Bytes of memory: `total_bytes`, `available_bytes`, and `limit_bytes` of the container; None where unknown."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = _after("/proc/meminfo", "MemAvailable").removesuffix("kB").strip()
    limit = None
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # cgroup 2, cgroup 1
        with suppress(OSError, ValueError):
            limit = int(Path(file).read_text(encoding="ascii"))
    return {
        "total_bytes": total,
        "available_bytes": int(available) * 1024 if available else None,
        "limit_bytes": limit if limit and limit < total else None,
    }


def fast_bfloat16(device: "torch.device") -> bool:
    """Whether a device has instructions for bfloat16; without them it is several times slower than float32, or fails.

    GPUs before NVIDIA's Ampere emulate it, and have no convolutions in it.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    with suppress(AttributeError, RuntimeError):  # a build without oneDNN
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver, from its management library; None where there is none."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2():
            return None
        version = ctypes.create_string_buffer(96)
        failed = nvml.nvmlSystemGetDriverVersion(version, len(version))
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return None if failed else version.value.decode(errors="replace")


def compiler_facts(seconds: float = 1.0) -> dict[str, Any]:
    """What `torch.compile` needs: compilers `c` (for Triton's kernels) and `c++` (for kernels of CPUs), and Python.h.

    Each compiler is {"command", "version"}, or None; `python_headers` says whether Python.h is there.

    Args:
        seconds: how long a compiler may take to say its version.
    """
    found: dict[str, Any] = {kind: _compiler(*where, seconds) for kind, where in _COMPILERS.items()}
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return found | {"python_headers": headers.is_file()}


def _compiler(variable: str, names: Sequence[str], seconds: float) -> dict[str, str | None] | None:
    named = shlex.split(os.environ.get(variable, ""))
    for command in [named] if named else [[name] for name in names]:
        path = shutil.which(command[0])
        if path:
            said = ""
            with suppress(OSError, subprocess.SubprocessError):
                asked = [path, *command[1:], "--version"]
                said = subprocess.run(asked, capture_output=True, text=True, timeout=seconds, check=False).stdout
            return {"command": shlex.join([path, *command[1:]]), "version": said.partition("\n")[0] or None}
    return None


def folder_bytes(folder: Path, seconds: float = 0.5) -> int | None:
    """Bytes of the files below a folder, links not followed; None where counting would take longer than `seconds`."""
    total, end, todo = 0, time.monotonic() + seconds, [folder]
    while todo:
        with suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if time.monotonic() > end:
                    return None
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size if not entry.is_symlink() else 0
    return total


def _after(file: str, key: str) -> str:
    """The value of the first line `key: value` of a file of the kernel; "" without one."""
    with suppress(OSError), open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
