"""Commands that measure speed: bench generate, bench loader, bench probe."""

from typing import Annotated, Any

import typer

from imagenet_sd import pipeline
from imagenet_sd.cli.common import Format, OutputFormat, app, parse_size, print_json

bench = typer.Typer(
    help="Measure speed on this machine: the generator, the data loader, the linear probe.", no_args_is_help=True
)
app.add_typer(bench, name="bench")

Rounds = Annotated[int, typer.Option(min=1, help="Measured rounds; the median counts.")]


@bench.command()
def generate(
    model: Annotated[
        str,
        typer.Option(help="embedded, sd-1.4 (random weights), or a local folder [sd-1.4 on a GPU, else embedded]."),
    ] = "",
    steps: Annotated[int, typer.Option(min=0, help="Diffusion steps [50; 20 for the embedded model].")] = 0,
    scale: Annotated[float, typer.Option("--scale", "--guidance-scale", help="Guidance scale; 1 is none.")] = 2.0,
    size: Annotated[str, typer.Option(metavar="WxH", help="Pixels [512x384; 32x32 for the embedded model].")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 16,
    batches: Annotated[int, typer.Option(min=1, help="Batches per round.")] = 1,
    rounds: Rounds = 5,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile our model; diffusers' stays as it is.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes at the same time, on a CPU [one per core].")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the images.")] = 0,
    format: OutputFormat = Format.table,
) -> None:
    """Time our generator against diffusers' pipeline, one prompt at a time and in batches, on the same images."""
    width, height = parse_size(size)
    result = pipeline.bench_generate(
        model=model,
        num_inference_steps=steps,
        guidance_scale=scale,
        width=width,
        height=height,
        batch_size=batch_size,
        batches=batches,
        rounds=rounds,
        dtype=dtype,
        compile=compile,
        workers=workers,
        seed=seed,
    )
    print_json(result) if format is not Format.table else _print_generate(result)


@bench.command()
def loader(rounds: Rounds = 7, format: OutputFormat = Format.table) -> None:
    """Time a multi-crop sample in a data worker against a plain torchvision pipeline."""
    _print_result(pipeline.bench_loader(rounds=rounds), format)


@bench.command()
def probe(rounds: Rounds = 3, format: OutputFormat = Format.table) -> None:
    """Time the linear probe's whole regularisation path against scikit-learn."""
    _print_result(pipeline.bench_probe(rounds=rounds), format)


def _print_result(result: dict[str, Any], format: Format) -> None:
    if format is not Format.table:
        return print_json(result)
    for name, value in result.items():
        if isinstance(value, (int, float, str)):
            typer.echo(f"{name:28s} {value:.4g}" if isinstance(value, float) else f"{name:28s} {value}")


def _print_generate(result: dict[str, Any]) -> None:
    from statistics import median

    settings, images = result["settings"], result["images_per_round"]
    threads = f", {result['threads']} thread" if result["device_type"] == "cpu" else ""
    typer.echo(
        f"model      {settings['model']}, {settings['width']}x{settings['height']}, "
        f"{settings['num_inference_steps']} steps, guidance scale {settings['guidance_scale']:g}, "
        f"batches of {settings['batch_size']}, {result['dtype']}{', compiled' if settings['compile'] else ''}"
    )
    typer.echo(f"device     {result['device']}{threads}; {settings['rounds']} rounds of {images} images each, in turn")
    words = {"naive": "diffusers, one prompt at a time", "batched": "diffusers, lists of prompts", "ours": "ours"}
    for name, text in words.items():
        seconds = median(result["seconds"][name])
        ratio = f"   {result[f'ratio_{name}']:.2f}x as long as ours" if name != "ours" else ""
        typer.echo(f"{text:32s} {seconds:8.3f} s {images / seconds:8.2f} images/s{ratio}")
    if "ratio_naive_cpu" in result:
        ratios = f"{result['ratio_naive_cpu']:.2f}x and {result['ratio_batched_cpu']:.2f}x"
        typer.echo(f"           by processor time, which a busy machine disturbs less: {ratios}")
    parts = ", ".join(f"{name} {share:.1%}" for name, share in result["shares"].items())
    typer.echo(f"denoiser   {result['denoiser_share']:.1%} of our time is the model's ({parts})")
    difference = f"differ from those of lists of prompts by up to {result['largest_pixel_difference']} of 255"
    typer.echo(f"pixels     {'equal those of lists of prompts' if result['pixels_equal'] else difference}")
    if result["device_type"] == "cpu":
        typer.echo(
            f"machine    {result['images_per_second']:.2f} images/s with {result['workers']} workers of one thread "
            "each, JPEG files included"
        )
    if "matmul_tflops" in result:
        ours = f"{result['tflops']:.0f} TFLOP/s of " if "tflops" in result else ""
        typer.echo(f"GPU        {ours}{result['matmul_tflops']:.0f} TFLOP/s that a large bfloat16 product reaches")
