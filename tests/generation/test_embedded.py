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
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    pipeline = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER)
    classes = [type(pipeline.components[name]).__name__ for name in ("text_encoder", "tokenizer", "vae", "unet")]
    assert classes == ["CLIPTextModel", "CLIPTokenizer", "AutoencoderKL", "UNet2DConditionModel"]
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("seven", num_inference_steps=3, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (32, 32)


def test_the_tokenizer_covers_the_digit_prompts():
    from transformers import CLIPTokenizer

    from imagenet_sd.prompts.build import build_prompts
    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.templates import load_templates

    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")
    for template in load_templates().values():
        for prompt in build_prompts(load_classes("digits-10"), template, images_per_class=20):
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
