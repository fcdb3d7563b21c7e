"""Everything that only a GPU can show, in one command of under 8 minutes; `make gpu-check` runs it.

A list of named checks (see `--list`), each with a budget of time: generation in half precision, at the true shapes of
Stable Diffusion 1.4 and XL with random weights, against the stock pipelines and a matrix product of the same dtype in
the same run; equal bytes from several workers on one device; kernels against each other; training that is interrupted
and goes on; one process of torchrun; probes. One that fails, raises or takes too long does not stop the others.

Prints progress on standard error and a table on standard output, and writes the figures as JSON after every check.
Without a GPU it runs a reduced form (`--reduced`): the same checks at tiny sizes, and says what it leaves out. Ends
with exit code 1 if a check has failed.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from gpu_checks import generation, kernels, probes, training
from gpu_checks.check import Check, Setting, run_checks, table

from imagenet_sd.core.files import write_json
from imagenet_sd.core.progress import note
from imagenet_sd.generation.diffusion.loading import pick_device, set_up_cpu_worker

CHECKS: list[Check] = [*generation.CHECKS, *training.CHECKS, *probes.CHECKS, *kernels.CHECKS]
PACKAGES = ("imagenet-sd", "torch", "diffusers", "transformers", "accelerate", "triton", "xformers")
BUDGET = 460.0  # of 8 minutes; the rest is for starting


def main(arguments: Sequence[str] | None = None) -> None:
    names = [check.name for check in CHECKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="run these checks only")
    parser.add_argument("--list", action="store_true", help="say which checks there are, and run none")
    parser.add_argument("--reduced", action="store_true", help="tiny sizes; always so without a GPU")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all checks together")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="JSON file of the figures")
    options = parser.parse_args(arguments)
    if options.list:
        width = max(map(len, names))
        print("\n".join(f"{check.name:<{width}}  {check.seconds:>4.0f} s  {check.about}" for check in CHECKS))
        return
    chosen = [check for check in CHECKS if check.name in (options.only or names)]
    result = run(chosen, options.out, options.budget, reduced=options.reduced)
    print(summary(result))
    sys.exit(0 if result["passed"] else 1)


def run(checks: Sequence[Check], out: Path, budget: float, *, reduced: bool) -> dict[str, Any]:
    """Run checks and write their results, again after each, so that a run that is killed leaves its figures.

    Returns:
        What the file holds: `facts`, `checks` (the rows of `run_checks`), `seconds`, `passed`.
    """
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    started, device = time.monotonic(), pick_device()
    if device.type != "cuda":
        note("no GPU: the reduced form, at tiny sizes, and without what needs one")
        set_up_cpu_worker()
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(device=device, reduced=reduced or device.type != "cuda", folder=Path(folder))
        result: dict[str, Any] = {"facts": facts(setting), "reduced": setting.reduced, "budget_s": budget}

        def publish(rows: list[dict[str, Any]]) -> None:
            result["checks"] = rows
            result["seconds"] = round(time.monotonic() - started, 1)
            result["passed"] = all(row["status"] != "failed" for row in rows)
            write_json(out, result)

        publish([])
        publish(run_checks(checks, setting, budget, publish))
    return result


def facts(setting: Setting) -> dict[str, Any]:
    """Device, driver, versions and commit: what figures depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    versions["torch"] = torch.__version__  # with the CUDA that it was built for
    known: dict[str, Any] = {
        "device": platform.processor() or "cpu",
        "dtype": setting.dtype,
        "threads": torch.get_num_threads(),
        "versions": versions,
        "commit": _output("git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"),
    }
    if setting.on_gpu:
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or ""
        known |= {
            "device": torch.cuda.get_device_name(setting.device),
            "memory_gib": round(torch.cuda.get_device_properties(setting.device).total_memory / (1 << 30), 1),
            "driver": driver.split("\n")[0],
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return known


def _output(*command: str) -> str | None:
    """What a command prints; None where there is no such command, or it fails."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=os.environ)
        return done.stdout.strip()
    return None


def summary(result: dict[str, Any]) -> str:
    """The table, and below it where it was made."""
    statuses = [row["status"] for row in result["checks"]]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("passed", "failed", "skipped"))
    known = result["facts"]
    place = ", ".join(
        str(part)
        for part in (
            known["device"],
            f"driver {known['driver']}" if known.get("driver") else "",
            f"CUDA {known['cuda']}" if known.get("cuda") else "",
            f"torch {torch.__version__}",
            known["dtype"],
            "reduced form" if result["reduced"] else "",
        )
        if part
    )
    return f"{table(result['checks'])}\n\n{counts} in {result['seconds']:.0f} s on {place}"


if __name__ == "__main__":
    main()
