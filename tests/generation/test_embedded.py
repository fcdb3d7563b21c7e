"""The embedded generator is a real, trained Stable Diffusion pipeline, and generates what it is asked for."""

import json

import numpy as np
import pytest
import torch

from imagenet_sd.data.builtin import DIGIT_WNIDS, mnist_digits
from imagenet_sd.generation.models import EMBEDDED_FOLDER


def test_the_split_is_fair_and_disjoint():
    train, train_labels = mnist_digits("train")
    test, test_labels = mnist_digits("test")
    assert train.shape == (4000, 28, 28) and test.shape == (1000, 28, 28)
    assert np.bincount(train_labels).tolist() == [400] * 10 and np.bincount(test_labels).tolist() == [100] * 10
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


def test_it_is_small_and_safe_and_loads_plainly():
    from diffusers import StableDiffusionPipeline

    files = [path for path in EMBEDDED_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 14_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    pipeline = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER)
    classes = [type(pipeline.components[name]).__name__ for name in ("text_encoder", "tokenizer", "vae", "unet")]
    assert classes == ["CLIPTextModel", "CLIPTokenizer", "AutoencoderKL", "UNet2DConditionModel"]
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("seven", num_inference_steps=3, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (32, 32)


def test_it_changes_an_image_plainly():
    """Image to image needs a real encoder: little strength keeps the picture, much of it follows the prompt."""
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

    text_to_image = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER)
    image_to_image = StableDiffusionImg2ImgPipeline.from_pretrained(EMBEDDED_FOLDER)
    for pipeline in (text_to_image, image_to_image):
        pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    red = text_to_image("a red car", guidance_scale=4, num_inference_steps=10, generator=generator).images[0]
    kept, changed = (
        image_to_image("a blue car", red, strength=strength, num_inference_steps=10, generator=generator).images[0]
        for strength in (0.1, 0.9)
    )
    before, same, after = (np.asarray(image, np.float32).mean((0, 1)) for image in (red, kept, changed))
    assert abs(before - same).max() < 15 and before[0] > before[2]
    assert after[2] - after[0] > before[2] - before[0] + 20  # bluer by far


def test_prompts_with_a_template_of_ones_own_are_followed(tmp_path, cli):
    """`a red {name}`: cars and trucks come out red, by the measure that names colours of real photographs."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    from imagenet_sd.data.colours import strongest

    (tmp_path / "my.yaml").write_text('red: "a red {name}"\n')
    options = (
        "--model embedded --classes photos-10 --prompt red --scale 4 --steps 8 --images-per-class 8 --batch-size 40"
    )
    done = cli("generate", *options.split(), "--templates", tmp_path / "my.yaml", "--out", tmp_path / "clone")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    rows = pq.read_table(next((tmp_path / "clone").glob("data/*/*.parquet"))).to_pylist()
    images = {
        wnid: np.stack([np.asarray(Image.open(io.BytesIO(r["image"]["bytes"]))) for r in rows if r["wnid"] == wnid])
        for wnid in ("n02958343", "n04490091")  # car, truck
    }
    for wnid, pictures in images.items():
        assert [seen for seen, _ in strongest(pictures)].count("red") >= 7, wnid


@pytest.mark.slow
def test_a_network_that_has_seen_real_photographs_reads_them_as_asked(tmp_path, cli):
    """After two passes over the real training photographs it is right on two thirds of the test ones; chance is 10%."""
    import io
    import sys

    import pyarrow.parquet as pq
    from PIL import Image

    from imagenet_sd.core.errors import DatasetError
    from imagenet_sd.data.photos import CIFAR10_WNIDS, cifar10
    from tests.conftest import ROOT

    try:
        photos, labels = cifar10("test")
    except DatasetError as error:
        pytest.skip(str(error))
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from photo_judge import judged, train_judge

        judge = train_judge(epochs=2)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    real = (judged(judge, photos)[0] == labels).mean()
    options = "--model embedded --classes photos-10 --scale 4 --steps 10 --images-per-class 20 --batch-size 50"
    done = cli("generate", *options.split(), "--out", tmp_path / "clone")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(next((tmp_path / "clone").glob("data/*/*.parquet"))).to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows])
    asked = np.array([CIFAR10_WNIDS.index(row["wnid"]) for row in rows])
    assert real > 0.6
    assert (judged(judge, images)[0] == asked).mean() > 0.8


@pytest.mark.parametrize("classes", ["digits-10", "photos-10"])
def test_the_tokenizer_covers_the_prompts(classes: str):
    from transformers import CLIPTokenizer

    from imagenet_sd.prompts.build import build_prompts
    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.templates import load_templates

    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")
    for template in load_templates().values():
        for prompt in build_prompts(load_classes(classes), template, images_per_class=20):
            tokens = tokenizer(prompt.text).input_ids
            assert len(tokens) <= 77
            assert tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == prompt.text.lower().replace(
                " ", ""
            )


@pytest.fixture(scope="module")
def classifier():
    """An RBF SVM that has seen real digits only."""
    from sklearn.svm import SVC

    real, labels = mnist_digits("train")
    return SVC(C=10).fit(real.reshape(len(real), -1) / 255, labels)


@pytest.mark.parametrize("prompt", [*(pytest.param(key, marks=pytest.mark.slow) for key in ("c", "c_hc")), "c_dc"])
def test_a_classifier_of_real_digits_reads_them_as_asked(prompt: str, classifier, tmp_path, cli):
    """200 images per prompt kind at scale 2."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    options = f"--model embedded --prompt {prompt} --scale 2 --steps 20 --images-per-class 20 --workers 1 --format json"
    done = cli("generate", *options.split(), "--out", tmp_path / "clone")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_images"] == 200
    rows = pq.read_table(next((tmp_path / "clone").glob("data/*/*.parquet"))).to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L")) for row in rows])
    labels = np.array([DIGIT_WNIDS.index(row["wnid"]) for row in rows])
    real, real_labels = mnist_digits("train")
    images = images[:, 2:30, 2:30].reshape(len(images), -1) / 255
    assert (classifier.predict(images) == labels).mean() >= 0.95
    for digit in range(10):  # images of a class differ: their spread is at least half of that of real ones
        spread = images[labels == digit].std(0).mean()
        assert spread > 0.5 * (real[real_labels == digit].reshape(400, -1) / 255).std(0).mean()
