"""Do full-size models load, and at what cost: Stable Diffusion 1.4 and SDXL base 1.0 as published, with random weights.

Writes each model in its published layout (`published_models.py`; no download), loads it with the project's loader in a
process of its own, and prints seconds and peak memory as a table. Loading in the type of the files maps them and reads
little, so a second step reads every weight once, as the first image would. The files have just been written: the system
holds most of them in memory, and the time is not that of a disk. Peak memory is the largest resident set of the process
(`getrusage`); pages of the files that are mapped count. Needs 5 GB of disk for Stable Diffusion 1.4 and 7 GB for SDXL;
each is removed before the next unless `--folder` says where to keep them.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

DTYPES = {"sd14": "float32", "sdxl": "float16"}  # those of the files
PROMPT = "a photo of a red dog"


def peak_gib() -> float:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def write(kind: str, folder: Path, seed: int) -> dict[str, Any]:
    """Write a model: seconds and peak memory."""
    from published_models import LAYOUTS, write_layout

    started = time.perf_counter()
    write_layout(LAYOUTS[kind], folder, seed)
    return {"write_seconds": time.perf_counter() - started, "write_peak_gib": peak_gib()}


def load(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Load a model in this process and generate images: seconds, peak memory and what was loaded."""
    started = time.perf_counter()
    import torch
    from diffusers import DiffusionPipeline

    from imagenet_sd.generation.diffusion.loading import load_pipeline, pick_device
    from imagenet_sd.generation.models import kind_of_folder

    device, dtype = pick_device(), getattr(torch, args.dtype)
    result: dict[str, Any] = {"import_seconds": time.perf_counter() - started, "import_peak_gib": peak_gib()}
    started = time.perf_counter()
    if args.loader == "diffusers":
        options = {"safety_checker": None, "requires_safety_checker": False} if args.load == "sd14" else {}
        pipeline = DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, **options
        ).to(device)
    else:
        pipeline = load_pipeline(folder, dtype, device, kind_of_folder(folder, args.load))
    result |= {"load_seconds": time.perf_counter() - started, "load_peak_gib": peak_gib()}
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    counts = {name: sum(tensor.numel() for tensor in module.parameters()) for name, module in modules.items()}
    started = time.perf_counter()
    for module in modules.values():
        assert all(tensor.detach().max().isfinite() for tensor in module.parameters())
    result |= {"read_seconds": time.perf_counter() - started, "read_peak_gib": peak_gib()}
    result |= {"device": device.type, "dtype": args.dtype, "loader": args.loader, "parameters": counts}
    if args.images:
        result |= generate(pipeline, args.images, args.steps)
    if device.type == "cuda":
        result["device_peak_gib"] = torch.cuda.max_memory_allocated() / (1 << 30)
    return result


def generate(pipeline: Any, images: int, steps: int) -> dict[str, Any]:
    """Seconds per image of the stock call at the model's own size, one image at a time; the first one warms up too."""
    import numpy as np
    import torch

    seconds, spreads = [], []
    for seed in range(images):
        generator, started = torch.Generator().manual_seed(seed), time.perf_counter()
        pixels = pipeline(PROMPT, num_inference_steps=steps, generator=generator, output_type="np").images[0]
        seconds.append(time.perf_counter() - started)
        if not np.isfinite(pixels).all():
            raise SystemExit(f"image {seed} has values that are not finite")
        spreads.append(float(np.ptp(pixels)))
    return {"steps": steps, "image_seconds": seconds, "image_spread": min(spreads), "image_peak_gib": peak_gib()}


def in_child(step: str, kind: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What `write` or `load` measures, in a process of its own: the peak of one step is not that of another."""
    command = [sys.executable, __file__, f"--{step}", kind, "--folder", str(folder), "--seed", str(args.seed)]
    command += ["--loader", args.loader, "--dtype", args.dtype or DTYPES[kind]]
    command += ["--images", str(args.images), "--steps", str(args.steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{kind}: the process that should {step} the model ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown, one row for each model."""
    columns = {
        "GiB on disk": "gib_on_disk", "write, s": "write_seconds", "import, s": "import_seconds",
        "load, s": "load_seconds", "read, s": "read_seconds", "peak after writing, GiB": "write_peak_gib",
        "import": "import_peak_gib", "load": "load_peak_gib", "read": "read_peak_gib",
    }  # fmt: skip
    lines = ["| model | dtype | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for kind, result in results.items():
        cells = [f"{result[name]:.1f}" if name in result else "" for name in columns.values()]
        lines.append("| " + " | ".join([kind, result["dtype"], *cells]) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=DTYPES, help="one of the two models")
    parser.add_argument("--folder", type=Path, help="where to write and keep the models; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--images", type=int, default=0, help="images to generate with each model")
    parser.add_argument("--steps", type=int, default=1, help="denoising steps of each image")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: that of the files")
    parser.add_argument("--loader", choices=("project", "diffusers"), default="project")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--write", choices=DTYPES, help=argparse.SUPPRESS)
    parser.add_argument("--load", choices=DTYPES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.write or args.load:
        print(json.dumps(write(args.write, args.folder, args.seed) if args.write else load(args.folder, args)))
        return
    results = {}
    for kind in [args.only] if args.only else list(DTYPES):
        with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as root:
            folder = Path(root) / kind
            written = {} if (folder / "model_index.json").is_file() else in_child("write", kind, folder, args)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            results[kind] = {"gib_on_disk": size / (1 << 30)} | written | in_child("load", kind, folder, args)
    print(table(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
