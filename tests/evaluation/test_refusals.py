"""What an evaluation refuses in one line instead of a number or a traceback: weights, checkpoints, sizes, images."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from imagenet_sd.core.specs import EncoderSpec
from imagenet_sd.data.images import ArraySet, FolderSet
from imagenet_sd.data.open import open_images
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder, timm_encoder
from imagenet_sd.evaluation.features import extract
from imagenet_sd.evaluation.suites.imagenet import classify
from imagenet_sd.pipeline import evaluate
from tests.conftest import CliRun

TINY = EvalConfig(crop_size=32, seeds=(0,), trials=2)


class Broken(torch.nn.Module):
    """Mean colours, and NaN for an image whose first pixel is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3))
        means[x[:, 0, 0, 0] > 2] = float("nan")
        return means


def broken(head: torch.nn.Module | None = None, module: torch.nn.Module | None = None) -> Encoder:
    return Encoder(name="broken", module=module or Broken(), fingerprint="0" * 64, head=head, classes=("a", "b"))


def six_images(bright: int) -> ArraySet:
    pixels = np.random.default_rng(0).integers(0, 100, (6, 32, 32, 3), np.uint8)
    pixels[bright:, 0, 0] = 255
    return ArraySet("six", pixels, np.array([0, 1] * 3), ("a", "b"))


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_features_that_are_not_finite_name_encoder_and_first_image(batch_size: int, tmp_path: Path):
    with pytest.raises(EvaluationError, match="broken gives features that are not finite, first for six/3 of six"):
        extract(broken(), six_images(3), replace(TINY, batch_size=batch_size), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))  # nothing of it stays in the cache


def test_a_cache_of_an_older_version_with_nan_in_it_is_not_believed(tmp_path: Path):
    found = extract(broken(), six_images(6), TINY, tmp_path)
    (part,) = (tmp_path / found.cache_key).glob("*.safetensors")
    tensors = load_file(part)
    tensors["features"][2, 1] = np.nan
    save_file(tensors, part, {"unreadable": "[]"})
    again = extract(broken(), six_images(6), TINY, tmp_path)
    assert not again.from_cache and np.array_equal(again.data.features, found.data.features)


@pytest.mark.parametrize("suite", ["transfer", "fewshot", "analysis"])
def test_weights_that_are_not_finite_end_every_suite(suite: str, tmp_path: Path, cli: CliRun):
    import timm

    state = timm.create_model("resnet10t", num_classes=0).state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    encoder = f"timm:resnet10t@{tmp_path / 'nan.pth'}"
    done = cli("evaluate", encoder, "--suite", suite, "--data", "f=builtin:faces", "--crop-size", 32,
               "--cache", tmp_path / "c", "--out", tmp_path / "r.json")  # fmt: skip
    assert done.returncode == 1 and not (tmp_path / "r.json").exists()
    assert f"error: {encoder} gives features that are not finite, first for builtin:faces/0" in done.stderr


def test_a_classifier_with_nan_is_refused(tmp_path: Path):
    head = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(head.bias, float("nan"))
    encoder = broken(head)
    with pytest.raises(EvaluationError, match="broken: its classifier gives scores that are not finite for six"):
        classify(encoder, "six", extract(encoder, six_images(6), TINY, tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda w: [w, w], "holds no weights by name, but a list"),
        (lambda w: w, "holds no weights by name, but a Tensor"),
        (lambda w: {0: w, 1: w}, "holds no weights by name, but a dict"),
        (lambda w: {"state_dict": {"model": [w]}}, "holds no weights by name, but a dict"),
        (lambda w: {1: w, "conv1.weight": w}, "does not fit the model: it lacks"),
    ],
)
def test_checkpoints_of_odd_shapes_are_one_line(content: Callable[[torch.Tensor], Any], said: str, tmp_path: Path):
    torch.save(content(torch.zeros(2)), tmp_path / "c.pth")
    with pytest.raises(EvaluationError, match=said) as caught:
        timm_encoder(EncoderSpec.parse(f"timm:resnet10t@{tmp_path / 'c.pth'}"))
    assert caught.value.hint


def test_a_refused_pickle_prints_our_advice_and_not_how_to_load_it_all_the_same(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    (tmp_path / "c.pth").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    with pytest.raises(EvaluationError) as caught:
        timm_encoder(EncoderSpec.parse(f"timm:resnet10t@{tmp_path / 'c.pth'}"))
    told = f"{caught.value} {caught.value.hint}"
    assert "weights_only" not in told and "add_safe_globals" not in told and "torch.load" not in told
    assert "holds more than tensors" in told and ".safetensors" in told and not (tmp_path / "owned").exists()


def test_a_vision_transformer_and_a_size_that_it_does_not_take_are_one_line(tmp_path: Path):
    said = "vit_tiny_patch16_224@random does not take images of 32 pixels: Input height"
    with pytest.raises(EvaluationError, match=said) as e:
        evaluate("timm:vit_tiny_patch16_224@random", {"f": "builtin:faces"}, TINY, cache=tmp_path)
    assert "--crop-size" in e.value.hint


@pytest.mark.parametrize("suite", ["transfer", "fewshot", "analysis", "imagenet-probe", "gradient"])
def test_one_class_is_nothing_to_tell_apart(suite: str, tmp_path: Path):
    """Every classifier would be right: a table of targets has one class."""
    for number in range(10):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png\t{number}\t{'test' if number < 3 else 'train'}\n" for number in range(10)]
    (tmp_path / "t.tsv").write_text("path\tred\tsplit\n" + "".join(lines))
    settings = {"probe": "gradient", "blocks": "layer4"} if suite == "gradient" else {"suite": suite}
    config, data = replace(TINY, **settings), {"t": f"targets:{tmp_path / 't.tsv'}"}  # pyright: ignore[reportArgumentType]
    with pytest.raises(EvaluationError, match="has one class, image") as caught:
        evaluate("timm:test_resnet@random", data, config, cache=tmp_path / "c")
    assert "--suite readout" in caught.value.hint


def test_one_class_is_not_read_out_nor_scored(tmp_path: Path):
    (tmp_path / "d" / "only").mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "d" / "only" / f"{number}.png")
    config, data = replace(TINY, suite="readout"), {"d": f"imagefolder:{tmp_path / 'd'}"}
    with pytest.raises(EvaluationError, match="has one class, only"):
        evaluate("timm:test_resnet@random", data, config, cache=tmp_path / "c")
    encoder = replace(broken(torch.nn.Linear(3, 2)), classes=("b", "z"))
    with pytest.raises(EvaluationError, match="six and the classifier have one class, 'b', in common"):
        classify(encoder, "six", extract(encoder, six_images(6), TINY, tmp_path / "c"))


def test_a_batch_holds_an_image():
    with pytest.raises(EvaluationError, match="batch_size is 0"):
        EvalConfig(batch_size=0)


def test_data_of_which_no_image_can_be_read_is_one_line(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.png").write_bytes(b"broken")
    with pytest.raises(EvaluationError, match="none of its 2 images can be read"):
        extract(broken(), FolderSet(tmp_path / "data"), TINY, tmp_path / "cache")


def test_digests_are_equal_for_equal_content_only(tmp_path: Path):
    for name, value in (("a/1", 10), ("a/2", 20), ("b/1", 10)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 50), (value, 0, 0)).save(tmp_path / f"{name}.png")
    found = extract(broken(), FolderSet(tmp_path), TINY, tmp_path / ".cache")
    assert found.digests[0] == found.digests[2] != found.digests[1]
    images = open_images("builtin:faces", "test")
    assert isinstance(images, ArraySet)
    whole = extract(broken(), images, TINY, tmp_path / ".cache")
    assert len(np.unique(whole.digests)) == len({x.tobytes() for x in images.images})
