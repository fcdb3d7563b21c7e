"""Stable Diffusion XL with random weights: it has the published shapes, and costs what a whole call does."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from imagenet_sd.generation.bench.sdxl import TINY, sdxl_modules, sdxl_pipeline, sdxl_tflop_per_image

CPU = torch.device("cpu")


def test_modules_have_the_published_numbers_of_parameters():
    """Those of the weights of stabilityai/stable-diffusion-xl-base-1.0."""
    modules = sdxl_modules(torch.float32, "meta")
    counts = {name: sum(weight.numel() for weight in module.parameters()) for name, module in modules.items()}
    expected = {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840}
    assert counts == expected


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_cost_is_that_of_a_whole_call(guidance_scale: float):
    pipeline = sdxl_pipeline(torch.float32, CPU, shapes=TINY)
    with FlopCounterMode(display=False) as counter:
        image = pipeline("a car", width=64, height=64, num_inference_steps=3, guidance_scale=guidance_scale).images[0]
    assert np.ptp(np.asarray(image)) > 0
    expected = counter.get_total_flops() / 1e12
    assert sdxl_tflop_per_image(64, 64, 3, guidance_scale, TINY) == pytest.approx(expected, rel=1e-6)


def test_weights_are_made_in_the_dtype_and_by_the_seed():
    first, again, other = (sdxl_pipeline(torch.bfloat16, CPU, seed, TINY) for seed in (0, 0, 1))
    assert torch.get_default_dtype() == torch.float32
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        weights = [torch.cat([w.flatten() for w in getattr(p, part).parameters()]) for p in (first, again, other)]
        assert weights[0].dtype == torch.bfloat16
        assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
