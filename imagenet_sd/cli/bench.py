"""Commands that measure speed: bench generate, bench loader, bench probe."""

from typing import Any

from imagenet_sd import pipeline
from imagenet_sd.cli.common import FORMAT, app, echo, parse_size, show
from imagenet_sd.cli.options import AT_LEAST_0, AT_LEAST_1, SIZE, options
from imagenet_sd.generation.bench.config import BenchConfig


@app.group()
def bench() -> None:
    """Measure speed on this machine: the generator, the data loader, the linear probe."""


@bench.command()
@options(
    BenchConfig, "settings", without=("width", "height"),
    guidance_scale={"flags": ["--scale", "--guidance-scale"]},
    num_inference_steps={"flags": ["--steps"], "type": AT_LEAST_0},
    batch_size={"type": AT_LEAST_1}, batches={"type": AT_LEAST_1}, rounds={"type": AT_LEAST_1},
    workers={"type": AT_LEAST_0},
)  # fmt: skip
@SIZE
@FORMAT
def generate(settings: dict[str, Any], size: str, format: str) -> None:
    """Time our generator against diffusers' pipeline, one prompt at a time and in batches, on the same images."""
    show(pipeline.bench_generate(**settings, **parse_size(size)), format, _print_generate)


@bench.command()
@options(pipeline.bench_loader, "settings", rounds={"type": AT_LEAST_1})
@FORMAT
def loader(settings: dict[str, int], format: str) -> None:
    """Time a multi-crop sample in a data worker against a plain torchvision pipeline."""
    show(pipeline.bench_loader(**settings), format, _print_result)


@bench.command()
@options(pipeline.bench_probe, "settings", rounds={"type": AT_LEAST_1})
@FORMAT
def probe(settings: dict[str, Any], format: str) -> None:
    """Time the linear probe: its regularisation path against scikit-learn, or SGD on features of ImageNet-1k's size."""
    show(pipeline.bench_probe(**settings), format, _print_result)


def _print_result(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if isinstance(value, (int, float, str)):
            echo(f"{name:28s} {value:.4g}" if isinstance(value, float) else f"{name:28s} {value}")


def _print_generate(result: dict[str, Any]) -> None:
    from statistics import median

    settings, images = result["settings"], result["images_per_round"]
    threads = f", {result['threads']} thread" if result["device_type"] == "cpu" else ""
    echo(
        f"model      {settings['model']}, {settings['width']}x{settings['height']}, "
        f"{settings['num_inference_steps']} steps, guidance scale {settings['guidance_scale']:g}, "
        f"batches of {settings['batch_size']}, {result['dtype']}{', compiled' if settings['compile'] else ''}"
    )
    echo(f"device     {result['device']}{threads}; {settings['rounds']} rounds of {images} images each, in turn")
    words = {"naive": "diffusers, one prompt at a time", "batched": "diffusers, lists of prompts", "ours": "ours"}
    for name, text in words.items():
        seconds = median(result["seconds"][name])
        ratio = f"   {result[f'ratio_{name}']:.2f}x as long as ours" if name != "ours" else ""
        echo(f"{text:32s} {seconds:8.3f} s {images / seconds:8.2f} images/s{ratio}")
    if "ratio_naive_cpu" in result:
        ratios = f"{result['ratio_naive_cpu']:.2f}x and {result['ratio_batched_cpu']:.2f}x"
        echo(f"           by processor time, which a busy machine disturbs less: {ratios}")
    parts = ", ".join(f"{name} {share:.1%}" for name, share in result["shares"].items())
    echo(f"denoiser   {result['denoiser_share']:.1%} of our time is the model's ({parts})")
    difference = f"differ from those of lists of prompts by up to {result['largest_pixel_difference']} of 255"
    echo(f"pixels     {'equal those of lists of prompts' if result['pixels_equal'] else difference}")
    if result["device_type"] == "cpu":
        echo(
            f"machine    {result['images_per_second']:.2f} images/s with {result['workers']} workers of one thread "
            "each, JPEG files included"
        )
    if "matmul_tflops" in result:
        ours = f"{result['tflops']:.0f} TFLOP/s of " if "tflops" in result else ""
        echo(f"GPU        {ours}{result['matmul_tflops']:.0f} TFLOP/s that a large bfloat16 product reaches")
