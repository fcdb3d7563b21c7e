"""Checks of generation: dtypes, the true shapes, batch sizes, and several workers on one device."""

import dataclasses
from typing import Any

import numpy as np
import torch

from gpu_checks.check import Check, Outcome, Setting, passed_if
from gpu_checks.children import Child
from gpu_checks.pixels import difference, parity, shows_something
from gpu_checks.timing import ceiling, interleaved, rates
from imagenet_sd.core.errors import GenerationMemoryError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.core.types import ImageRequest, Prompt
from imagenet_sd.generation.bench.compare import compare
from imagenet_sd.generation.bench.config import SD14, BenchConfig
from imagenet_sd.generation.bench.sd14 import tflop_per_image
from imagenet_sd.generation.bench.sdxl import FULL, TINY, sdxl_pipeline, sdxl_tflop_per_image
from imagenet_sd.generation.bench.variants import copy_pipeline, load_stock, our_generator, stock_images
from imagenet_sd.generation.config import EMBEDDED, GenerationConfig
from imagenet_sd.generation.diffusion.adapter import PipelineGenerator
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.kinds import find_kind
from imagenet_sd.generation.models import identify
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.generation.worker import make_worker
from imagenet_sd.storage.dataset import Dataset

CPU = torch.device("cpu")
# (mean, largest) of 255 that a dtype may be away from float32 on a CPU. Measured on a CPU with 20 steps: float16 0.03
# and 1, bfloat16 0.20 and 14. A GPU computes the convolutions of float32 in TF32, whose fraction is that of float16.
DTYPE_BOUNDS = {"float32": (0.25, 16), "float16": (0.25, 16), "bfloat16": (1.0, 64)}
SAME = 0.25
"""How far a picture may be from itself in another batch size, which rounds otherwise; two pictures are 1 apart."""
BATCH_SIZES = (1, 4, 8, 16, 32)


def bench_config(setting: Setting, dtype: str, **values: Any) -> BenchConfig:
    """Settings at the true shapes of Stable Diffusion 1.4; in the reduced form the embedded model in a few steps."""
    chosen: dict[str, Any] = {"rounds": 3, "dtype": dtype}
    if setting.reduced:
        chosen |= {"model": EMBEDDED, "num_inference_steps": 3, "batch_size": 2} | values
    else:
        chosen |= {"model": SD14, "num_inference_steps": 20, "batch_size": 16} | values
    return BenchConfig(**chosen).resolved(setting.device)


def make_generator(config: BenchConfig, device: torch.device) -> ImageGenerator:
    """Our generator on a model of its own."""
    return our_generator(config, load_stock(config, device))


def embedded(setting: Setting) -> Outcome:
    """The pictures of every dtype are those of float32 on the CPU, but for rounding."""
    sizes: dict[str, Any] = {"num_inference_steps": 3, "batch_size": 2} if setting.reduced else {"batch_size": 16}
    config = BenchConfig(model=EMBEDDED, rounds=1, dtype="float32", **sizes).resolved(CPU)
    (requests,) = config.requests()
    reference = make_generator(config, CPU).generate(requests)
    good, figures, remarks = True, {}, []
    for dtype in setting.dtypes[0 if setting.on_gpu else 1 :]:
        generator = make_generator(dataclasses.replace(config, dtype=dtype), setting.device)
        apart, (mean, largest) = difference(generator.generate(requests), reference), DTYPE_BOUNDS[dtype]
        good = good and apart.mean <= mean and apart.largest <= largest
        figures[dtype] = {**dataclasses.asdict(apart), "mean_bound": mean, "largest_bound": largest}
        remarks.append(f"{dtype} {apart}")
    return passed_if(good, f"from float32 on the CPU: {'; '.join(remarks)}", figures)


def sd14(setting: Setting) -> Outcome:
    """Images per second against the stock pipeline, TFLOP/s against a matrix product, and the same pictures."""
    config = bench_config(setting, setting.dtype)
    stock = load_stock(config, setting.device)
    generator = our_generator(config, copy_pipeline(stock))
    seconds, _ = compare(config, stock, generator, config.requests())
    kept = [name for name in seconds if not name.endswith("_cpu")]
    rate = rates({name: seconds[name] for name in kept}, dict.fromkeys(kept, config.images_per_round))
    few = config.requests()[0][:2]
    eager, ours = stock_images(config, stock, few), generator.generate(few)
    del stock, generator
    same, remark, figures = parity(ours, eager, _exact(setting, config, few))
    figures |= {"images_per_second": rate, "settings": dataclasses.asdict(config)}
    words = [_rates_line(rate), f"against the stock pipeline {remark}"]
    if config.model == SD14:
        cost = tflop_per_image(config.width, config.height, config.num_inference_steps, config.guidance_scale)
        good, line, more = _work(setting, config.dtype, cost * rate["ours"])
        same, figures = same and good, figures | more
        words.insert(1, line)
    else:
        words.append("embedded model")
    if setting.on_gpu and config.dtype != "float16":
        figures["float16"] = _in_float16(setting, config)
        words.append(f"float16 {figures['float16']['images_per_second']:.1f} images/s")
    return passed_if(same and shows_something(ours), "; ".join(words), figures)


def _exact(setting: Setting, config: BenchConfig, requests: list[ImageRequest]) -> list[np.ndarray] | None:
    """The pictures of the stock pipeline in float32; None where the configuration's are in float32 on a CPU."""
    if not setting.on_gpu:
        return None
    exact = dataclasses.replace(config, dtype="float32")
    return stock_images(exact, load_stock(exact, setting.device), requests)


def _in_float16(setting: Setting, config: BenchConfig) -> dict[str, Any]:
    """Images per second of our generator in float16; it refuses pictures that are not finite, or of one colour."""
    config = dataclasses.replace(config, dtype="float16")
    generator, requests = make_generator(config, setting.device), config.requests()[0]
    generator.generate(requests)
    seconds = interleaved(setting.device, {"ours": lambda: generator.generate(requests)})
    return {"images_per_second": rates(seconds, {"ours": len(requests)})["ours"]}


def _work(setting: Setting, dtype: str, tflops: float) -> tuple[bool, str, dict[str, float]]:
    """Compare a speed with the matrix product's: more than that means that time or work were counted wrongly."""
    limit = ceiling(setting.device, getattr(torch, dtype))
    line = f"{tflops:.0f} TFLOP/s, {tflops / limit:.0%} of a {dtype} matrix product's {limit:.0f}"
    return 0 < tflops <= 1.1 * limit, line, {"tflops": tflops, "matmul_tflops": limit}


def _rates_line(rate: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in rate.items()) + " images/s"


def sdxl(setting: Setting) -> Outcome:
    """At the true shapes: one stock call per prompt, one per batch, and our generator; twice the same bits."""
    size, steps, scale = (64, 2, 5.0) if setting.reduced else (1024, 20, 5.0)
    prompts = [f"a photo of a {thing}" for thing in ("car", "truck", "cat", "dog")][: 2 if setting.reduced else 4]
    dtype = getattr(torch, setting.dtype)
    pipeline = sdxl_pipeline(dtype, setting.device, shapes=TINY if setting.reduced else FULL)
    kind = find_kind("StableDiffusionXLPipeline")
    settings: dict[str, Any] = {"width": size, "height": size, "num_inference_steps": steps, "guidance_scale": scale}
    generator = PipelineGenerator(pipeline, kind, batch_size=len(prompts), **settings)
    requests = [_request(text, seed) for seed, text in enumerate(prompts)]
    variants = {
        "naive": lambda: [_stock_call(pipeline, [request], settings)[0] for request in requests],
        "batched": lambda: _stock_call(pipeline, requests, settings),
        "ours": lambda: [*generator.generate(requests)],
    }
    images = {name: generate() for name, generate in variants.items()}
    repeated = bool((np.stack(variants["ours"]()) == np.stack(images["ours"])).all())
    rate = rates(interleaved(setting.device, variants), dict.fromkeys(variants, len(prompts)))
    # In half precision, what another batch size changes in the stock pipeline's pictures stands for rounding.
    same, remark, figures = parity(images["ours"], images["batched"], images["naive"] if setting.on_gpu else None)
    figures |= {
        "images_per_second": rate,
        "repeated_bits_equal": repeated,
        "naive_against_batched": dataclasses.asdict(difference(images["naive"], images["batched"])),
        "ours_against_batched": dataclasses.asdict(difference(images["ours"], images["batched"])),
        "settings": settings | {"batch_size": len(prompts)},
    }
    good = repeated and same and all(map(shows_something, images.values()))
    words = [
        _rates_line(rate),
        "repeated bits are equal" if repeated else "REPEATED BITS DIFFER",
        f"against one stock call {remark}",
    ]
    if setting.reduced:
        words.append("the same blocks, a few channels wide")
    else:
        cost = sdxl_tflop_per_image(size, size, steps, scale)
        plausible, line, more = _work(setting, setting.dtype, cost * max(rate.values()))
        good, figures = good and plausible, figures | more
        words.insert(1, line)
    if setting.on_gpu and setting.dtype != "float16":
        pipeline.to(torch.float16)
        finite = shows_something(_stock_call(pipeline, requests[:1], settings))
        good = good and finite
        words.append("float16 gives a picture too" if finite else "FLOAT16 GIVES NO PICTURE")
    return passed_if(good, "; ".join(words), figures)


def _stock_call(pipeline: Any, requests: list[ImageRequest], settings: dict[str, Any]) -> list[np.ndarray]:
    output = pipeline(
        [request.prompt.text for request in requests],
        generator=[torch.Generator().manual_seed(request.seed) for request in requests],
        **settings,
    )
    return [np.asarray(image) for image in output.images]


def _request(text: str, seed: int) -> ImageRequest:
    prompt = Prompt(prompt_id=str(seed), wnid="n00000000", class_index=0, template="", background="", text=text)
    return ImageRequest(image_id=f"n00000000_{seed:06d}", prompt=prompt, seed=seed)


def batch_sizes(setting: Setting) -> Outcome:
    """Images per second by batch size until memory ends; the first picture stays the same one."""
    sizes = BATCH_SIZES[:2] if setting.reduced else BATCH_SIZES
    steps = 3 if setting.reduced else 10
    config = bench_config(setting, setting.dtype, batch_size=max(sizes), num_inference_steps=steps)
    generator, requests = make_generator(config, setting.device), config.requests()[0]
    firsts, fit, ended = [], [], ""
    unrelated = np.inf
    for size in sizes:
        generator.batch_size = size
        try:
            images = generator.generate(requests[:size])
        except GenerationMemoryError:
            ended = f"; no memory for {size}"
            break
        fit.append(size)
        firsts.append(images[0])
        if size > 1 and np.isinf(unrelated):
            unrelated = difference(images[:1], images[1:2]).mean

    def run(size: int) -> None:
        generator.batch_size = size
        generator.generate(requests[:size])

    seconds = interleaved(setting.device, {size: lambda size=size: run(size) for size in fit})
    rate = rates(seconds, {size: size for size in fit})
    drift = max((difference([first], firsts[:1]).mean for first in firsts), default=np.inf)
    figures = {
        "images_per_second": {str(size): value for size, value in rate.items()},
        "mean_difference_of_the_first_image": float(drift),
        "mean_difference_of_two_images": float(unrelated),
        "settings": dataclasses.asdict(config),
    }
    line = ", ".join(f"{size}: {value:.2f}" for size, value in rate.items()) + f" images/s{ended}"
    good = bool(fit) and drift <= SAME * unrelated
    return passed_if(good, line if good else f"{line}; one image differs by {drift:.2f} in the mean", figures)


def workers(setting: Setting) -> Outcome:
    """Two processes on one device at the same time write the bytes of one process alone."""
    count, size, steps = (1, 3, 5) if setting.reduced else (32, 32, 20)
    config = GenerationConfig(
        model=EMBEDDED, prompt="c_dc", guidance_scale=2.0, num_inference_steps=steps, images_per_class=count,
        shard_size=size, batch_size=4 if setting.reduced else 16,
    )  # fmt: skip
    document = make_plan(config, identify(config))[1]
    together, alone = (Dataset.from_document(setting.folder / name, document) for name in ("together", "alone"))
    together.write_description()
    num_shards = alone.plan.num_shards
    command = ("shards", together.folder)
    with Child(setting, *command, 0, 2) as even, Child(setting, *command, 1, 2) as odd:
        for child in (even, odd):
            child.expect("ready")
        for child in (even, odd):
            child.say("go")
        for child in (even, odd):
            child.expect("done")
    worker = make_worker(alone)
    for i in range(num_shards):
        worker.run_shard(i)
    hashes = [
        [sha256_file(dataset.shard_path(dataset.plan.shard(i))) for i in range(num_shards)]
        for dataset in (together, alone)
    ]
    equal = sum(a == b for a, b in zip(*hashes, strict=True))
    figures = {"shards": num_shards, "equal_shards": equal, "images": alone.plan.num_images, "sha256": hashes[1]}
    remark = f"SHA-256 of {equal} of {num_shards} shards equal, {alone.plan.num_images} images of the embedded model"
    return passed_if(equal == num_shards > 1, remark, figures)


CHECKS = [
    Check(name="embedded", about="the embedded model in every dtype", seconds=60, run=embedded),
    Check(name="workers", about="two workers on one device against one", seconds=90, run=workers),
    Check(name="sd-1.4", about="true shapes of Stable Diffusion 1.4 against stock calls", seconds=120, run=sd14),
    Check(name="sdxl", about="true shapes of Stable Diffusion XL against stock calls", seconds=120, run=sdxl),
    Check(name="batch-sizes", about="images per second by batch size", seconds=90, run=batch_sizes),
]
