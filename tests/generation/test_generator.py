"""The denoising loop against diffusers' own pipeline call, on the embedded model's real modules."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler

from imagenet_sd.core.errors import GenerationError
from imagenet_sd.core.types import ImageRequest, Prompt
from imagenet_sd.generation.config import JPEG
from imagenet_sd.generation.diffusion import batches
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.models import EMBEDDED_FOLDER

TEXTS = ["zero, 0, nought", "one", "two, 2, II, deuce", "seven", "an unknown word: Kiel", "nine"]


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pipeline():
    return load_pipeline(EMBEDDED_FOLDER, torch.float32, torch.device("cpu"))


def request(text: str, seed: int) -> ImageRequest:
    prompt = Prompt(prompt_id="p", wnid="w", class_index=0, template="c", background="", text=text)
    return ImageRequest(image_id=f"w_{seed:06d}", prompt=prompt, seed=seed)


def generator_for(pipeline, scale: float = 2.0, batch_size: int = 3, negative_prompt: str = "") -> ImageGenerator:
    return ImageGenerator(
        pipeline,
        guidance_scale=scale,
        num_inference_steps=4,
        negative_prompt=negative_prompt,
        width=32,
        height=32,
        batch_size=batch_size,
    )


@pytest.mark.parametrize(
    "kind", [PNDMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler]
)
@pytest.mark.parametrize(("scale", "negative"), [(2.0, ""), (7.5, "one"), (1.0, "")])
def test_bits_equal_the_pipeline_called_with_a_list(pipeline, kind, scale: float, negative: str):
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    requests = [request(text, 100 + i) for i, text in enumerate(TEXTS[:3])]
    ours = generator_for(pipeline, scale, negative_prompt=negative).generate(requests)
    noise = [torch.Generator().manual_seed(r.seed) for r in requests]
    theirs = pipeline(
        [r.prompt.text for r in requests],
        negative_prompt=[negative] * 3,
        guidance_scale=scale,
        num_inference_steps=4,
        generator=noise,
    ).images
    assert ours.dtype == np.uint8 and ours.shape == (3, 32, 32, 3)
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(ours, theirs, strict=True))


def test_an_image_does_not_depend_on_its_neighbours_or_the_padding(pipeline):
    generator = generator_for(pipeline)
    requests = [request(text, i) for i, text in enumerate(TEXTS)]
    whole = np.concatenate([generator.generate(requests[:3]), generator.generate(requests[3:])])
    mixed = generator.generate([requests[5], requests[0], requests[3]])
    assert np.array_equal(mixed, whole[[5, 0, 3]])
    assert np.array_equal(generator.generate(requests[4:5])[0], whole[4])
    assert not np.array_equal(whole[0], whole[1])


def test_encoded_images_come_in_order_in_the_recorded_format(pipeline):
    import io

    from PIL import Image

    generator = generator_for(pipeline)
    requests = [request(text, i) for i, text in enumerate(TEXTS[:5])]
    begun = []
    files = [image.jpeg for image in generator.generate_encoded(requests, begun.append)]
    assert begun == [0, 3]
    pixels = np.concatenate([generator.generate(requests[:3]), generator.generate(requests[3:])])
    assert len(files) == 5
    assert JPEG == {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}  # what dataset.json records
    for file, image in zip(files, pixels, strict=True):
        opened = Image.open(io.BytesIO(file))
        assert opened.format == "JPEG" and opened.size == (32, 32)
        assert {table[0] for table in opened.quantization.values()} == {2}  # quality 95 halves the 16s of Annex K ... 2
        assert opened.layer[0][1:3] == (1, 1)  # no chroma subsampling
        assert np.abs(np.asarray(opened).astype(int) - image).mean() < 3


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "not numbers"), (0.3, "one single colour")])
def test_a_spoilt_image_is_refused_by_its_id(pipeline, monkeypatch: pytest.MonkeyPatch, value: float, message: str):
    generator = generator_for(pipeline)
    decode = pipeline.vae.decode

    def spoilt(latents, return_dict=False):
        images = decode(latents, return_dict=False)[0]
        images[1] = value
        return (images,)

    monkeypatch.setattr(pipeline.vae, "decode", spoilt)
    with pytest.raises(GenerationError, match=f"w_000008 .*{message}"):
        generator.generate([request(text, 7 + i) for i, text in enumerate(TEXTS[:3])])


def test_spoilt_padding_harms_nobody(pipeline, monkeypatch: pytest.MonkeyPatch):
    generator = generator_for(pipeline)
    decode = pipeline.vae.decode

    def spoilt(latents, return_dict=False):
        images = decode(latents, return_dict=False)[0]
        images[2] = float("nan")
        return (images,)

    monkeypatch.setattr(pipeline.vae, "decode", spoilt)
    assert generator.generate([request("one", 0), request("two", 1)]).shape == (2, 32, 32, 3)


def test_embeddings_are_kept_up_to_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batches, "_CACHED_BYTES", 3 * 40)
    encoded: list[str] = []

    def encode(text: str) -> dict[str, torch.Tensor]:
        encoded.append(text)
        return {"embeds": torch.full((8,), float(text)), "mask": torch.ones(8, dtype=torch.uint8)}  # 40 bytes

    store: dict[str, dict[str, torch.Tensor]] = {}
    for texts in (["1", "2"], ["3", "4"], ["1", "4"], ["1", "2", "3", "4"]):
        assert [float(embeds["embeds"][0]) for embeds in batches.cached(store, texts, encode)] == [*map(float, texts)]
        assert len(store) <= 3
    assert encoded == ["1", "2", "3", "4", "1", "2"]  # the oldest goes
