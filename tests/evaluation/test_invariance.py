"""How far features move: against SciPy, torchvision and closed forms."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageEnhance, ImageOps
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import mahalanobis
from torch import nn

from imagenet_sd.core.results import EvaluationResults, InvarianceResult
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.preprocess import invariance_preprocessing
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.suites.invariance import measure_invariance
from imagenet_sd.evaluation.transformations import TRANSFORMATIONS, named, to_network
from imagenet_sd.evaluation.whitening import Moments, Whitening
from imagenet_sd.pipeline import evaluate
from tests.conftest import CliRun


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PLAIN = replace(invariance_preprocessing(16), mean=(0.0,) * 3, std=(1.0,) * 3)


def photos(count: int = 4, height: int = 40, width: int = 48) -> torch.Tensor:
    """Smooth colourful images uint8 [N, 3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 6, generator=generator) * 255
    return TF.resize(coarse, [height, width]).clamp(0, 255).to(torch.uint8)


def write(folder: Path, images: torch.Tensor, name: str = "{:03d}") -> Path:
    (folder / "things").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "things" / f"{name.format(number)}.png")
    return folder


class Module(nn.Module):
    """An encoder that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def encoder(function) -> Encoder:
    """Of images in [0, 1]: no normalisation."""
    return Encoder(name="e", module=Module(function), fingerprint="f", own=PLAIN)


def measured(function, folder: Path, cache: Path, **settings) -> dict[str, InvarianceResult]:
    values: dict[str, Any] = {"strengths": 8} | settings
    config = EvalConfig(suite="invariance", preprocessing="model", **values)
    spec = DataSpec(kind="imagefolder", root=str(folder))
    results, _ = measure_invariance([encoder(function)], "d", spec, config, cache)
    return {result.transformation: result for result in results}


def pooled(x: torch.Tensor, size: int = 2) -> torch.Tensor:
    return nn.functional.adaptive_avg_pool2d(x, size).flatten(1)


@pytest.mark.parametrize("dimension", [3, 12])
def test_moments_and_whitening_equal_numpys_and_scipys(dimension: int):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, dimension)) @ rng.normal(size=(dimension, dimension)) + 5
    moments = Moments()
    for part in np.array_split(x, 7):
        moments.add(torch.from_numpy(part))
    assert np.allclose(moments.mean, x.mean(0), rtol=1e-12)
    assert np.allclose(moments.covariance, np.cov(x, rowvar=False), rtol=1e-10)
    whitening = Whitening.of(moments.mean, moments.covariance)
    inverse = np.linalg.inv(np.cov(x, rowvar=False))
    a, b = x[:20], x[20:40]
    expected = [mahalanobis(u, v, inverse) for u, v in zip(a, b, strict=True)]
    assert np.allclose(whitening.distance(torch.from_numpy(a), torch.from_numpy(b)), expected, rtol=1e-9)
    # the official code's way: L = chol(inverse covariance), cosine of (mu - f) L
    lower = np.linalg.cholesky(inverse)
    u, v = ((x.mean(0) - each) @ lower for each in (a, b))
    expected = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    assert np.allclose(whitening.cosine(torch.from_numpy(a), torch.from_numpy(b)), expected, rtol=1e-9)
    assert whitening.rank == dimension


def test_a_singular_covariance_gets_a_small_ridge():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    moments = Moments()
    moments.add(torch.cat([x, torch.zeros(50, 1).double()], 1))
    whitening = Whitening.of(moments.mean, moments.covariance)
    assert whitening.rank == 3
    inverse = np.linalg.inv(moments.covariance.numpy() + 1e-10 * np.eye(4))
    a, b = np.array([1.0, 0, 0, 0]), np.array([0.5, 0, 0, 1e-5])
    found = whitening.distance(torch.tensor(a)[None], torch.tensor(b)[None])
    assert np.allclose(found, mahalanobis(a, b, inverse), rtol=1e-6)


def test_the_identity_encoder_has_scipys_distance(tmp_path: Path):
    """End to end on files: pixels as features, the distance of hue and flips from SciPy on the same pixels."""
    folder = write(tmp_path / "d", photos(60))
    results = measured(pooled, folder, tmp_path / "c", transformations="h_flip,hue", measured_images=20)
    files = sorted((folder / "things").iterdir())
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])

    def features(x: torch.Tensor) -> np.ndarray:
        resized = nn.functional.interpolate(x.float(), scale_factor=1, mode="nearest")
        return pooled(to_network(resized, PLAIN)).double().numpy()

    clean = features(pixels)
    inverse = np.linalg.inv(np.cov(clean, rowvar=False))
    result = results["h_flip"]
    moved = features(TF.hflip(pixels))
    every = [mahalanobis(a, b, inverse) for a, b in zip(clean, moved, strict=True)]
    assert result.strengths == ((0.0,), (1.0,)) and result.distances[0] == pytest.approx(0, abs=1e-9)
    assert result.num_test == 20 and result.distance == pytest.approx(result.distances[1] / 2)
    # the 20 images are a seeded sample: the mean over all 60 is near, and over all of them exact
    whole = measured(pooled, folder, tmp_path / "c", transformations="h_flip,hue", measured_images=60)
    assert whole["h_flip"].distances[1] == pytest.approx(np.mean(every), rel=1e-4)
    for k, (shift,) in enumerate(whole["hue"].strengths):
        moved = features(TF.adjust_hue(pixels, shift))
        expected = np.mean([mahalanobis(a, b, inverse) for a, b in zip(clean, moved, strict=True)])
        assert whole["hue"].distances[k] == pytest.approx(expected, rel=1e-4)
    assert whole["hue"].cosine == pytest.approx(np.mean(whole["hue"].cosines))


def test_an_encoder_without_colour_is_invariant_to_hue(tmp_path: Path):
    """Hue turns in HSV and leaves the value, the largest channel, as it is: cosine 1, distance 0. Luma is not so."""
    folder = write(tmp_path / "d", photos(40))
    # at 16 pixels without resizing: interpolation does not commute with a maximum
    exact = write(tmp_path / "e", photos(40, 18, 18))
    found = measured(lambda x: pooled(x.amax(1, keepdim=True)), exact, tmp_path / "c", transformations="hue")["hue"]
    assert found.cosine == pytest.approx(1, abs=1e-6) and found.distance == pytest.approx(0, abs=1e-6)
    found = measured(lambda x: pooled(TF.rgb_to_grayscale(x)), folder, tmp_path / "l", transformations="hue")["hue"]
    assert found.cosine < 0.999 and found.distance > 0.01


def test_grey_images_are_invariant_to_all_that_changes_colour_alone(tmp_path: Path):
    grey = photos(30)[:, :1].expand(-1, 3, -1, -1)
    folder = write(tmp_path / "d", grey)
    found = measured(lambda x: pooled(x)[:, :4], folder, tmp_path / "c", transformations="hue,grayscale")
    assert found["hue"].cosine == pytest.approx(1, abs=1e-9) and found["hue"].distance == 0
    # torchvision's weights of luma sum to 0.9999: grey loses a level
    assert found["grayscale"].cosine > 0.999 and found["grayscale"].distance < 0.05
    moved = measured(lambda x: pooled(x)[:, :4], folder, tmp_path / "c", transformations="brightness,rotation")
    assert all(result.cosine < 0.95 and result.distance > 0.3 for result in moved.values())


def test_a_mean_colour_is_invariant_to_flips_and_ignores_where_things_are(tmp_path: Path):
    folder = write(tmp_path / "d", photos(30, 40, 40))
    found = measured(lambda x: pooled(x, 1), folder, tmp_path / "c", transformations="h_flip,v_flip,invert")
    for name in ("h_flip", "v_flip"):
        assert found[name].cosine == pytest.approx(1, abs=1e-4) and found[name].distance < 1e-2
    assert found["invert"].cosines[1] < 0


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_transformation_keeps_or_changes_images(name: str):
    """Grids have the papers' sizes; images stay uint8 of their size; only what is the identity changes nothing."""
    chosen, images = TRANSFORMATIONS[name], photos()
    sizes = {"posterize": 7} | dict.fromkeys(("h_flip", "v_flip", "grayscale", "invert", "equalize"), 2)
    assert len(chosen.grid(256)) == sizes.get(name, 256) and len(chosen.grid(16)) == min(16, sizes.get(name, 16))
    changed = []
    for strength in chosen.grid(16):
        moved = chosen.apply(images, strength)
        assert moved.dtype == torch.uint8 and moved.shape[:2] == images.shape[:2]
        assert torch.equal(moved[:2], chosen.apply(images[:2], strength))  # an image does not depend on its batch
        changed.append(not torch.equal(moved, images))
    assert sum(changed) >= len(changed) - (2 if name == "blur" else 1)


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("rotation", (90.0,), lambda x: x.rot90(1, (2, 3))),
        ("rotation", (180.0,), lambda x: x.flip(2, 3)),
        ("translation", (0.25, -0.5), lambda x: TF.pad(x, [10, 0, 0, 20])[:, :, 20:, :40]),
        ("resized_crop", (0.25, 0.0, 0.5, 0.5), lambda x: TF.resize(x[:, :, 10:30, :20], [40, 40])),
        ("scale", (0.5,), lambda x: None),
        ("posterize", (1.0,), lambda x: (x >> 7) << 7),
        ("invert", (1.0,), lambda x: 255 - x),
        ("hue", (0.0,), lambda x: x),
        ("brightness", (2.0,), lambda x: (x.int() * 2).clamp(max=255).to(torch.uint8)),
        ("brightness", (1.0,), lambda x: x),
        ("contrast", (2.0,), lambda x: enhanced(x, ImageEnhance.Contrast, 2.0)),
        ("saturation", (2.0,), lambda x: enhanced(x, ImageEnhance.Color, 2.0)),
        ("sharpness", (2.0,), lambda x: enhanced(x, ImageEnhance.Sharpness, 2.0)),
        ("equalize", (1.0,), lambda x: each_with_pillow(x, ImageOps.equalize)),
    ],
)
def test_a_strength_means_what_it_says(name: str, strength: tuple[float, ...], expected):
    images = photos(3, 40, 40)
    moved = TRANSFORMATIONS[name].apply(images, strength).int()
    if name == "scale":  # half the size: the border is black, the middle is the image
        assert moved[:, :, :9].max() == 0 and moved[:, :, 12:28, 12:28].float().mean() > 60
        return
    difference = (moved - expected(images).int()).abs()
    assert difference.max() <= (1 if name == "hue" else 2)


def each_with_pillow(images: torch.Tensor, change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    pictures = [change(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def enhanced(images: torch.Tensor, kind: Callable[[Image.Image], Any], factor: float) -> torch.Tensor:
    return each_with_pillow(images, lambda picture: kind(picture).enhance(factor))


def test_a_shear_of_45_degrees_moves_each_row_by_its_distance_from_the_middle():
    images = photos(2, 41, 41)
    moved = TRANSFORMATIONS["shear"].apply(images, (45.0, 0.0))
    for row in range(10, 31):
        shift = row - 20
        expected = torch.roll(images[:, :, row], -shift, -1)[:, :, 10:31]  # away from the black corners
        assert (moved[:, :, row, 10:31].int() - expected.int()).abs().max() <= 1, row


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("rotation", (0.0,), (360 - 360 / 256,)),
        ("translation", (-0.0625, -0.0625), (0.0625 - 0.125 / 16,) * 2),
        ("scale", (0.25,), (2.0,)),
        ("shear", (-160.0, -160.0), (140.0, 140.0)),
        ("resized_crop", (0.0, 0.0, 0.75, 0.75), (0.25, 0.25, 0.25, 0.25)),
        ("deform", (10.0,), (50.0,)),
        ("hue", (-0.5,), (0.5,)),
        ("blur", (1e-5,), (20.0,)),
        ("sharpness", (1.0,), (30.0,)),
        ("posterize", (1.0,), (7.0,)),
        *((name, (0.25,), (5.0,)) for name in ("brightness", "contrast", "saturation")),
        *((name, (0.0,), (1.0,)) for name in ("h_flip", "v_flip", "grayscale", "invert", "equalize")),
    ],
)
def test_grids_span_the_published_ranges(name: str, first: tuple[float, ...], last: tuple[float, ...]):
    """Ericsson et al.: 256 strengths; a range that closes on itself leaves its last point out."""
    grid = TRANSFORMATIONS[name].grid(256)
    assert grid[0] == pytest.approx(first) and grid[-1] == pytest.approx(last)
    for axis in range(len(first)):
        values = np.unique([point[axis] for point in grid])
        assert np.ptp(np.diff(values)) < 1e-9  # evenly


def test_every_transformation_has_its_range_checked():
    ranges = test_grids_span_the_published_ranges.pytestmark[0].args[1]
    assert {name for name, _, _ in ranges} == set(TRANSFORMATIONS)


def test_on_small_images_strengths_in_pixels_shrink():
    """A blur of 20 pixels would wipe out an image of 32; of 256 pixels and more it is as published."""
    for edge, size, sigma in ((256, 23, 20.0), (300, 23, 20.0), (32, 3, 2.5)):
        images = photos(1, edge, edge)
        expected = TF.gaussian_blur(images, [size, size], [sigma, sigma])
        assert torch.equal(TRANSFORMATIONS["blur"].apply(images, (20.0,)), expected)


def test_pairs_of_one_object(tmp_path: Path):
    """Two objects of three variants each: the mean over three pairs of each object, against SciPy."""
    images = photos(6, 18, 18)
    (tmp_path / "d" / "things").mkdir(parents=True)
    for image, name in zip(images, ("cup_a", "cup_b", "cup_c", "big_hat_a", "big_hat_b", "big_hat_c"), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "d" / "things" / f"{name}.png")
    function = lambda x: pooled(x, 1)[:, :2]  # noqa: E731
    found = measured(function, tmp_path / "d", tmp_path / "c", transformations="variants")["variants"]
    f = function(to_network(images, PLAIN)).double().numpy()
    inverse = np.linalg.inv(np.cov(f, rowvar=False))
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    assert found.distance == pytest.approx(np.mean([mahalanobis(f[i], f[j], inverse) for i, j in pairs]), rel=1e-5)
    assert found.num_test == 6 and found.family == "real"
    write(tmp_path / "x", images)
    with pytest.raises(EvaluationError, match="names no object"):
        measured(function, tmp_path / "x", tmp_path / "c", transformations="variants")


def test_it_resumes_and_names_what_it_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    folder = write(tmp_path / "d", photos(12))
    (folder / "things" / "003.png").write_bytes(b"broken")
    first = measured(pooled, folder, tmp_path / "c", transformations="hue,rotation")
    assert first["hue"].unreadable == ("things/003.png",) and first["hue"].num_test == 11
    said = capsys.readouterr().err
    assert "things/003.png cannot be read" in said and said.count("note: d: all images: there is no test split") == 1
    assert {result.note for result in first.values()} == {"all images: there is no test split"}
    kept = next((tmp_path / "c").rglob("rotation-*"))
    kept.write_bytes(kept.read_bytes()[:-9])
    computed = []
    rotation = TRANSFORMATIONS["rotation"]
    for name in ("hue", "rotation"):
        counted = lambda x, s, name=name, apply=TRANSFORMATIONS[name].apply: computed.append(name) or apply(x, s)  # noqa: E731
        fields = {each: getattr(TRANSFORMATIONS[name], each) for each in ("name", "family", "axes")}
        monkeypatch.setitem(TRANSFORMATIONS, name, type(rotation)(**fields, apply=counted))
    again = measured(pooled, folder, tmp_path / "c", transformations="hue,rotation")
    assert again == first and set(computed) == {"rotation"}


@pytest.mark.parametrize(
    ("function", "count", "message"),
    [
        (lambda x: pooled(x) * float("nan"), 5, "not finite"),
        (pooled, 1, "1 readable images"),
        (lambda x: x.flatten(1) @ torch.zeros(7, 2), 5, "does not take 5 images of 16 pixels"),
    ],
)
def test_what_cannot_be_measured_is_one_line(function, count: int, message: str, tmp_path: Path):
    folder = write(tmp_path / "d", photos(count))
    with pytest.raises(EvaluationError, match=message) as caught:
        measured(function, folder, tmp_path / "c", transformations="hue")
    assert "\n" not in str(caught.value) and caught.value.hint


def test_features_that_are_not_finite_under_a_transformation_name_it(tmp_path: Path):
    """An encoder that divides by 0 for grey images; such numbers in a cache of before are computed again."""
    folder = write(tmp_path / "d", photos(8))
    colourful = lambda x: pooled(x) / (x.amax(1) - x.amin(1)).amax((1, 2)).gt(0)[:, None]  # noqa: E731
    with pytest.raises(EvaluationError, match="e gives features that are not finite for images under grayscale"):
        measured(colourful, folder, tmp_path / "c", transformations="grayscale")
    first = measured(pooled, folder, tmp_path / "c", transformations="h_flip")
    kept = next((tmp_path / "c").rglob("h_flip-*"))
    save_file({name: value * float("nan") for name, value in load_file(kept).items()}, kept)
    assert measured(pooled, folder, tmp_path / "c", transformations="h_flip") == first


def test_names_of_transformations():
    assert named("hue, rotation,hue") == ["hue", "rotation"] and named("") == list(TRANSFORMATIONS)
    with pytest.raises(EvaluationError, match="no transformation 'spin'"):
        named("spin")


def test_the_command_line_and_the_schema(tmp_path: Path, cli: CliRun):
    data = ["--data", "faces=builtin:faces", "--crop-size", 32, "--cache", tmp_path / "c"]
    options = ["--suite", "invariance", "--strengths", 2, "--transformations", "contrast,h_flip", *data]
    done = cli("evaluate", "timm:test_resnet@random", *options, "--out", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "contrast" in done.stdout and "cosine" in done.stdout
    document = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(document, EvaluationResults.model_json_schema())
    assert [row["transformation"] for row in document["results"]] == ["contrast", "h_flip"]
    assert EvaluationResults.model_validate(document).invariances[0].distance > 0
    config = EvalConfig(suite="invariance", crop_size=32, strengths=2, transformations="contrast,h_flip")
    again = evaluate("timm:test_resnet@random", {"faces": "builtin:faces"}, config, cache=tmp_path / "c")
    assert again["features_from_cache"] and again["results"] == document["results"]
    with pytest.raises(EvaluationError, match="takes one encoder"):
        evaluate("timm:test_resnet@random+timm:test_vit@random", {"f": "builtin:faces"}, config, cache=tmp_path)
