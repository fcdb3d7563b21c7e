"""Parts of `make embedded` that have gone wrong without a sign, or would."""

import random
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch

from tests.conftest import ROOT


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The training scripts import each other by name."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


def test_an_update_is_that_of_adam_whatever_the_memory_layout():
    """A fused optimizer pairs weights and gradients by their place in memory; layouts that differ shuffle them."""
    from train_embedded_unet import Weights

    torch.manual_seed(0)
    module = torch.nn.Conv2d(4, 6, 3)
    expected = torch.nn.Parameter(module.weight.detach().clone())
    adam = torch.optim.AdamW([expected], lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01)
    weights = Weights.of(module)
    module.to(memory_format=torch.channels_last)
    for step in range(3):
        gradient = (1e-3 * torch.randn(6, 4, 3, 3)).bfloat16()
        module.weight.grad = gradient.contiguous(memory_format=torch.channels_last)
        module.bias.grad = torch.zeros(6, dtype=torch.bfloat16)
        expected.grad = gradient.float()
        adam.step()
        weights.update(step, 1e-2)
    assert torch.allclose(weights.master[0], expected, atol=1e-6)
    assert torch.equal(module.weight, weights.master[0].bfloat16())


def test_the_projection_keeps_most_of_a_picture_and_comes_back():
    from train_embedded_data import CHANNELS, Projection

    rng = np.random.default_rng(0)
    smooth = rng.random((200, 3, 4, 4)).astype(np.float32)
    images = torch.nn.functional.interpolate(torch.from_numpy(smooth), size=32, mode="bilinear") * 2 - 1
    projection = Projection.fit(images)
    latents = projection(images)
    assert latents.shape == (200, CHANNELS, 8, 8)
    assert abs(latents.var((0, 2, 3)).mean().item() - 1) < 0.1
    assert (projection.back(latents) - images).square().mean() < 0.01 * images.var()


def test_the_learning_rate_ends_low_for_any_number_of_steps():
    from train_embedded_unet import learning_rate

    for steps in (1000, 5000):
        rates = [learning_rate(step, steps) for step in range(steps)]
        assert max(rates) == 1 == rates[int(0.5 * steps)] and rates[-1] < 0.02
    assert learning_rate(900, 1000) < learning_rate(900, 5000)  # a shortened run is further down


def test_captions_name_the_class_and_what_is_measured():
    from train_embedded_captions import Captions

    from imagenet_sd.data.colours import Appearance

    looks = [Appearance(object="red", background="green"), Appearance(object="white")] * 10
    captions = Captions(0, looks, [7, 7] * 10)
    texts = [captions.photo(7, looks[0], painted=False) for _ in range(400)]
    names = [name.lower() for name in captions.photos[7].lemmas]
    assert all(any(name in text.lower() for name in names) for text in texts)
    assert 0.1 < np.mean(["red" in text.split() for text in texts]) < 0.9
    assert 0.1 < np.mean(["green background" in text for text in texts]) < 0.7
    assert all("red" in captions.photo(7, looks[0], painted=True) for _ in range(50))
    assert any("thin" in captions.digit(7, "thin") for _ in range(50))


def test_batches_are_the_same_wherever_a_run_starts_and_whoever_prepares_them():
    from train_embedded_captions import Captions, train_tokenizer
    from train_embedded_data import Pictures, Projection
    from train_embedded_unet import Batches, Choices

    from imagenet_sd.data.colours import Appearance

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 10
    photos = Pictures(images=images, labels=labels, looks=[Appearance(object="red")] * 40, painted=8)
    tokenizer = train_tokenizer(Captions(0, photos.looks, labels.tolist()).corpus())
    projection = Projection(mean=torch.zeros(48), basis=torch.eye(48)[:, :12])
    choices = Choices(photos, tokenizer, batch=16, seed=random.randrange(100))
    batches = Batches(photos, projection, choices, torch.device("cpu"))
    straight, late = list(batches.steps(0, 4, workers=0)), list(batches.steps(2, 4, workers=2))
    for one, other in zip(straight[2:], late, strict=True):
        for field in fields(one):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
    first, second = straight[:2]
    assert first.noisy.shape == (16, 12, 8, 8) and first.tokens.shape == (16, 77)
    assert not torch.equal(first.noisy, second.noisy)
    # clean = sqrt(kept) noisy - sqrt(1 - kept) velocity (v-prediction) gives back the picture's latents
    kept = batches.kept[first.times].view(-1, 1, 1, 1)
    clean = kept.sqrt() * first.noisy - (1 - kept).sqrt() * first.velocity
    choice = choices[0]
    expected = batches.latents[choice.flips, choice.rows].float()
    assert torch.allclose(clean[: len(expected)], expected, atol=1e-4)
