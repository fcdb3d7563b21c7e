"""Every operation against Pillow or torchvision, every distribution against its definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as T

from imagenet_sd.data.preprocess import imagenet_preprocessing, transfer_preprocessing
from imagenet_sd.training import photometric as P
from imagenet_sd.training.config import CropsConfig, PhotometricConfig
from imagenet_sd.training.crops import MultiCrop, sample_box, sample_parameters


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Natural-looking random images: smooth colour fields with edges, uint8-valued, one of them grey."""
    rng = np.random.default_rng(0)
    fields = torch.tensor(rng.random((6, 3, 5, 6)), dtype=torch.float32)
    pictures = torch.nn.functional.interpolate(fields, (40, 48), mode="bicubic").clamp(0, 1)
    pictures[1, :, 10:20, 10:30] = torch.tensor([1.0, 0.0, 0.5])[:, None, None]
    pictures[2] = pictures[2].mean(0)
    return (pictures * 255).round() / 255


FACTORS = [0.6, 0.8, 1.0, 1.2, 1.4, 1.7]


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (P.adjust_brightness, T.adjust_brightness),
        (P.adjust_contrast, T.adjust_contrast),
        (P.adjust_saturation, T.adjust_saturation),
    ],
)
def test_factors_equal_torchvision(images: torch.Tensor, ours, reference):
    result = ours(images, torch.tensor(FACTORS))
    for i, factor in enumerate(FACTORS):
        assert torch.allclose(result[i], reference(images[i], factor), atol=1e-5)


def test_hue_equals_torchvision(images: torch.Tensor):
    shifts = [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5]
    result = P.adjust_hue(images, torch.tensor(shifts))
    for i, shift in enumerate(shifts):
        assert torch.allclose(result[i], T.adjust_hue(images[i], shift), atol=1e-5)


def test_gray_and_solarize_equal_torchvision_and_pillow(images: torch.Tensor):
    assert torch.allclose(P.to_gray(images), T.rgb_to_grayscale(images), atol=1e-6)
    for image, result in zip(images, P.solarize(images), strict=True):
        pillow = ImageOps.solarize(T.to_pil_image(image), 128)
        assert np.array_equal((result * 255).round().numpy().transpose(1, 2, 0).astype(np.uint8), np.asarray(pillow))


def test_blur_equals_torchvision_and_comes_close_to_pillow(images: torch.Tensor):
    sigmas = [0.1, 0.5, 1.0, 1.5, 2.0, 2.0]
    result = P.gaussian_blur(images, torch.tensor(sigmas))
    for i, sigma in enumerate(sigmas):
        assert torch.allclose(result[i], T.gaussian_blur(images[i], [13, 13], [sigma, sigma]), atol=1e-5)
        pillow = np.asarray(T.to_pil_image(images[i]).filter(ImageFilter.GaussianBlur(sigma))) / 255
        inside = np.abs(result[i].numpy().transpose(1, 2, 0) - pillow)[6:-6, 6:-6]
        assert inside.mean() < 0.006  # Pillow approximates the Gaussian by three box blurs


def test_the_chain_follows_each_images_own_order(images: torch.Tensor):
    rows = []
    orders = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1), (0, 2, 1, 3), (3, 0, 2, 1)]
    for i, order in enumerate(orders):
        rows.append([1.3, 0.7, 1.2, 0.08, *order, i == 1, 1.2 if i == 2 else 0, i in (3, 4)])
    result = P.apply_photometric(images, torch.tensor(rows, dtype=torch.float32))
    steps = [lambda x: T.adjust_brightness(x, 1.3), lambda x: T.adjust_contrast(x, 0.7)]
    steps += [lambda x: T.adjust_saturation(x, 1.2), lambda x: T.adjust_hue(x, 0.08)]
    for i, order in enumerate(orders):
        x = images[i]
        for operation in order:
            x = steps[operation](x)
        if i == 1:
            x = T.rgb_to_grayscale(x, 3)
        if i == 2:
            x = T.gaussian_blur(x, [9, 9], [1.2, 1.2])
        if i in (3, 4):
            x = T.solarize(x, 128 / 255)
        assert torch.allclose(result[i], x, atol=2e-5), i


def test_parameters_that_say_nothing_change_nothing(images: torch.Tensor):
    rows = torch.tensor([[1, 1, 1, 0, 0, 1, 2, 3, 0, 0, 0]] * 6, dtype=torch.float32)
    assert torch.equal(P.apply_photometric(images, rows), images)
    assert torch.equal(P.apply_photometric(images, torch.zeros(6, 0)), images)


def test_distributions_of_the_photometric_parameters():
    rng = np.random.default_rng(0)
    config = PhotometricConfig()
    n = 6000
    for is_global in (True, False):
        values = np.stack([sample_parameters(rng, config, is_global) for _ in range(n)])
        applied = (values[:, :4] != [1, 1, 1, 0]).any(1)
        limit = 4 * np.sqrt(0.25 / n)
        assert abs(applied.mean() - 0.8) < limit
        for column, low, high in ((0, 0.6, 1.4), (1, 0.6, 1.4), (2, 0.8, 1.2), (3, -0.1, 0.1)):
            x = values[applied, column]
            assert low <= x.min() and x.max() <= high
            quartiles = np.quantile((x - low) / (high - low), [0.25, 0.5, 0.75])
            assert np.abs(quartiles - [0.25, 0.5, 0.75]).max() < 0.03
        assert abs((values[:, 8] > 0).mean() - 0.2) < limit
        assert abs((values[:, 9] > 0).mean() - (0.2 if is_global else 0.5)) < limit
        blurred = values[values[:, 9] > 0, 9]
        assert blurred.min() >= 0.1 and blurred.max() <= 2 and abs(blurred.mean() - 1.05) < 0.06
        assert abs((values[:, 10] > 0).mean() - (0.2 if is_global else 0)) < limit
        orders = np.unique(values[:, 4:8], axis=0, return_counts=True)[1]
        assert len(orders) == 24 and orders.min() > n / 24 * 0.7


def test_boxes_have_the_areas_and_ratios_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([sample_box(rng, 512, 384, (0.05, 0.4), (3 / 4, 4 / 3)) for _ in range(4000)])
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 512 and boxes[:, 3].max() <= 384
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = w * h / (512 * 384), w / h
    assert area.min() > 0.045 and area.max() < 0.41 and abs(area.mean() - 0.225) < 0.007
    assert ratio.min() > 0.73 and ratio.max() < 1.36 and abs(np.log(ratio).mean()) < 0.02
    centre = (boxes[:, 0] + boxes[:, 2]) / 2
    assert abs(centre.mean() - 256) < 6
    assert sample_box(rng, 1000, 10, (0.9, 1.0), (3 / 4, 4 / 3)) == (493, 0, 506, 10)  # torchvision's fallback


def test_crops_equal_torchvisions_resized_crop():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((320, 240))
    config = CropsConfig(global_crop_size=64, local_crop_size=32, local_crops_number=2, horizontal_flip=0.0)
    crops = MultiCrop(config, PhotometricConfig(), seed=3)(picture, 5, "x")
    assert crops.global_crops.shape == (1, 3, 64, 64) and crops.local_crops.shape == (2, 3, 32, 32)
    assert crops.parameters.shape == (3, 11)
    from imagenet_sd.core.seeds import stable_hash

    rng = np.random.default_rng(stable_hash("crops", 3, 5, "x"))
    left, top, right, bottom = sample_box(rng, 320, 240, config.global_crops_scale, config.aspect_ratio)
    expected = T.resized_crop(picture, top, left, bottom - top, right - left, [64, 64], T.InterpolationMode.BICUBIC)
    difference = np.abs(crops.global_crops[0].astype(int) - np.asarray(expected).transpose(2, 0, 1))
    assert difference.max() <= 2 and difference.mean() < 0.02  # Pillow rounds between its two passes


def test_crops_depend_on_seed_epoch_and_id_only():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8))
    cut = MultiCrop(CropsConfig(local_crops_number=0), None, seed=0)
    one = cut(picture, 0, "a").global_crops
    cut(picture, 3, "other")
    assert np.array_equal(cut(picture, 0, "a").global_crops, one)
    for other in (cut(picture, 1, "a"), cut(picture, 0, "b"), replace_seed(cut)(picture, 0, "a")):
        assert not np.array_equal(other.global_crops, one)


def replace_seed(cut: MultiCrop) -> MultiCrop:
    return MultiCrop(replace(cut.crops), cut.photometric, seed=1)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (100, 500), (225, 224), (98, 49), (45, 20)])
@pytest.mark.parametrize("suite", ["imagenet", "transfer"])
def test_the_evaluation_crop_equals_torchvision(size: tuple[int, int], suite: str):
    """torchvision validates its classifiers with Resize(256), bilinear; the thesis takes features at 224, bicubic."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    resize, filter, ours = {
        "imagenet": (256, T.InterpolationMode.BILINEAR, imagenet_preprocessing(224)),
        "transfer": (224, T.InterpolationMode.BICUBIC, transfer_preprocessing(224)),
    }[suite]
    resized = T.resize(picture, resize, filter)
    expected = np.asarray(T.center_crop(resized, [224, 224])).transpose(2, 0, 1)
    assert np.array_equal(ours.crop(picture), expected)
    assert imagenet_preprocessing(32) == transfer_preprocessing(32)  # small images are shown whole
