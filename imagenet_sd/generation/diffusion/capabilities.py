"""What the devices of this machine really run: dtypes and attention kernels, each tried on tiny tensors.

The trials take place in a process of their own, since a broken driver or library can crash. Run as a program this
prints what it found as JSON. Imports torch and, where it is installed, xformers; loads no model.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from imagenet_sd.core.errors import one_line

if TYPE_CHECKING:
    import torch

_SECONDS = 60.0
_NOT_KERNELS = ("ERROR", "OVERRIDEABLE")


def torch_facts(seconds: float = _SECONDS) -> dict[str, Any]:
    """Import torch in a process of its own and try its devices there.

    Args:
        seconds: how long that may take at most.

    Returns:
        `version`, `cuda`, `hip` and `cudnn` of torch, `import_seconds`, `accelerator_error` (why a build for GPUs sees
        none, or None), and `devices`; or only `error`, where torch cannot be imported, crashes, or takes too long.
        A device has `device`, `name`, `capability`, on a GPU `memory_bytes` and `free_bytes`, and the trials: `dtypes`,
        `attention` in `attention_dtype`, each name -> {"runs": bool, "error": one line or None}; or `same_as`, the
        device of its kind that was tried.
    """
    command = [sys.executable, "-m", "imagenet_sd.generation.diffusion.capabilities"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {seconds:g} seconds"}
    if done.returncode < 0:
        return {"error": f"it crashed with {signal.Signals(-done.returncode).name}"}
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": (done.stderr.strip() or "no answer").splitlines()[-1][:200]}


def _torch_facts() -> dict[str, Any]:
    """What `torch_facts` tells, found out in this process."""
    began = time.perf_counter()
    try:
        import torch
    except Exception as error:  # a broken installation fails in any way
        return {"error": _reason(error)}
    seconds = time.perf_counter() - began
    devices = [{"device": "cpu", "name": "", "capability": _attempted(torch.backends.cpu.get_cpu_capability)}]
    accelerators, problem = [], None
    try:
        accelerators = _accelerators()
    except Exception as error:
        problem = _reason(error)
    tried: dict[tuple[Any, ...], str] = {}
    for facts in [*devices, *accelerators]:
        kind = facts["name"], facts["capability"], facts.get("memory_bytes")
        if kind in tried:
            facts["same_as"] = tried[kind]
        else:
            tried[kind] = facts["device"]
            facts |= _trials(torch.device(facts["device"]))
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": _attempted(torch.backends.cudnn.version) if accelerators else None,
        "import_seconds": round(seconds, 2),
        "accelerator_error": problem,
        "devices": [*devices, *accelerators],
    }


def _accelerators() -> list[dict[str, Any]]:
    """The GPUs that torch sees. Raises what torch does where it is built for GPUs and sees none."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if torch.version.cuda or torch.version.hip:
            torch.cuda.init()
            return [_cuda_facts(index) for index in range(torch.cuda.device_count())]
        if not torch.accelerator.is_available():
            return []
        kind = torch.accelerator.current_accelerator()
        names = [f"{kind}:{index}" for index in range(torch.accelerator.device_count())]
        return [{"device": name, "name": str(kind), "capability": None} for name in names]


def _cuda_facts(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "device": f"cuda:{index}",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
    }


def _trials(device: "torch.device") -> dict[str, Any]:
    import torch

    dtypes = {name: _tried(lambda name=name: _try_dtype(device, name)) for name in ("float32", "float16", "bfloat16")}
    if device.type == "cuda":
        dtypes["float8_e4m3fn"] = _tried(lambda: _try_float8(device))
    order = ("float32",) if device.type == "cpu" else ("bfloat16", "float16", "float32")
    dtype = next((name for name in order if dtypes[name]["runs"]), "float32")
    free = {"free_bytes": _attempted(lambda: torch.cuda.mem_get_info(device)[0])} if device.type == "cuda" else {}
    return free | {"dtypes": dtypes, "attention": _attention(device, dtype), "attention_dtype": dtype}


def _attention(device: "torch.device", dtype: str) -> dict[str, dict[str, Any]]:
    """The kernels of `scaled_dot_product_attention`, each alone, and that of xformers."""
    from torch.nn.attention import SDPBackend

    kernels = {name: kind for name, kind in SDPBackend.__members__.items() if name not in _NOT_KERNELS}
    trials = {
        name.removesuffix("_ATTENTION").lower(): _tried(lambda kind=kind: _try_sdpa(device, dtype, kind))
        for name, kind in kernels.items()
    }
    if find_spec("xformers") is None:
        return trials | {"xformers": {"runs": False, "error": "not installed"}}
    return trials | {"xformers": _tried(lambda: _try_xformers(device, dtype))}


def _try_dtype(device: "torch.device", name: str) -> None:
    """A product and a convolution of ones, whose results every dtype holds exactly."""
    import torch

    ones = torch.ones(1, 16, 16, 16, dtype=getattr(torch, name), device=device)
    _check(bool((ones @ ones == 16).all()), "a product of matrices")
    convolved = torch.nn.functional.conv2d(ones, torch.ones_like(ones[:, :, :3, :3]))
    _check(bool((convolved == 144).all()), "a convolution")


def _try_float8(device: "torch.device") -> None:
    import torch

    ones, scale = torch.ones(32, 32, device=device).to(torch.float8_e4m3fn), torch.ones((), device=device)
    product = torch._scaled_mm(ones, ones.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)
    _check(bool((product == 32).all()), "a product of matrices")


def _try_sdpa(device: "torch.device", dtype: str, kind: Any) -> None:
    import torch
    from torch.nn.attention import sdpa_kernel

    query, key, value = _attention_inputs(device, dtype)
    with sdpa_kernel(kind):
        result = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    _check_attention(result, query, key, value)


def _try_xformers(device: "torch.device", dtype: str) -> None:
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

    query, key, value = _attention_inputs(device, dtype)
    result = memory_efficient_attention(*(x.transpose(1, 2).contiguous() for x in (query, key, value)))
    _check_attention(result.transpose(1, 2), query, key, value)


def _attention_inputs(device: "torch.device", dtype: str) -> "tuple[torch.Tensor, ...]":
    """Query, key and value [1, 2, 32, 64] (batch, heads, positions, width of a head)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 1, 2, 32, 64, generator=generator).to(device, getattr(torch, dtype))
    return tuple(numbers)


def _check_attention(result: "torch.Tensor", *inputs: "torch.Tensor") -> None:
    """Compare with softmax(q k^T / sqrt(d)) v in float32, to within the rounding of bfloat16."""
    query, key, value = (x.float() for x in inputs)
    expected = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1) @ value
    _check(bool((result.float() - expected).abs().max() < 0.05), "attention")


def _check(right: bool, what: str) -> None:
    if not right:
        raise ArithmeticError(f"{what} has a wrong result")


def _tried(trial: Callable[[], None]) -> dict[str, Any]:
    """Whether a trial ends well; why not, with what torch warns of on its way (it names the kernel's conditions)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trial()
        except Exception as error:
            said = [one_line(w.message) for w in caught if isinstance(w.message, Warning)]
            return {"runs": False, "error": one_line(Exception("; ".join([_reason(error), *said])), 300)}
    return {"runs": True, "error": None}


def _attempted(ask: Callable[[], Any]) -> Any:
    """What a question of torch is answered with; None where it fails or this version has no such question."""
    with suppress(Exception):
        return ask()


def _reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__


if __name__ == "__main__":
    gc.disable()  # this process is short: without collecting, importing takes a tenth less
    print("\n" + json.dumps(_torch_facts()), flush=True)
    os._exit(0)  # taking torch down in good order would take a second
