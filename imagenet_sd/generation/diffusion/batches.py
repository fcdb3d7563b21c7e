"""Batches of images: requests in, checked images or JPEG files out, whatever the pipeline that samples them.

Knows nothing of shards, folders or other processes.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from imagenet_sd.core.errors import DeviceError, GenerationMemoryError, UnusableImageError, one_line
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.config import JPEG
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.diffusion.safety import SafetyChecker

T = TypeVar("T")
Embeds = dict[str, torch.Tensor]
_ENCODER_THREADS = 2
_CACHED_BYTES = 256 << 20  # of the device; prompts with backgrounds are many, and FLUX takes 4 MB for each


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedImage:
    """An image as it is stored: a JPEG file, and whether the safety checker flagged it (None: it was not asked)."""

    jpeg: bytes
    nsfw: bool | None = None


class BatchGenerator(ABC):
    """Generates images in batches of one fixed size, each image from a CPU generator of its own.

    Attributes:
        pipeline: the pipeline that samples.
        scheduler: the scheduler that samples.
        device: where it runs.
        dtype: compute dtype.
        num_inference_steps: diffusion steps.
        batch_size: images per batch; a smaller last batch is padded to it and the padding dropped.
        options: what trades pixels for speed.
        checker: flags images; None: none is asked.
    """

    pipeline: Any
    scheduler: Any
    device: torch.device
    dtype: torch.dtype
    num_inference_steps: int
    batch_size: int
    options: SamplingOptions
    checker: SafetyChecker | None

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The UNet or transformer of the pipeline, which runs at every step."""

    @abstractmethod
    def _sample(self, requests: Sequence[ImageRequest]) -> torch.Tensor:
        """Images float [batch_size, 3, height, width] in [0, 1] and a little beyond; `batch_size` requests."""

    def generate(self, requests: Sequence[ImageRequest]) -> np.ndarray:
        """Generate one batch.

        Args:
            requests: 1 to `batch_size` images.

        Returns:
            uint8 [len(requests), height, width, 3].

        Raises:
            UnusableImageError: an image came out with a value that is no number, or in one single colour.
            GenerationMemoryError: the batch does not fit into the device's memory.
        """
        return self._check_memory(lambda: self._generate(requests))

    def generate_encoded(
        self, requests: Sequence[ImageRequest], on_batch: Callable[[int], object] = lambda images_done: None
    ) -> Iterator[EncodedImage]:
        """Generate any number of images in fixed batches; yields them in order.

        Args:
            requests: the images.
            on_batch: called before each batch with the number of images generated so far; what it raises ends the work.

        Raises:
            UnusableImageError: see `generate`.
        """
        with ThreadPoolExecutor(_ENCODER_THREADS, thread_name_prefix="jpeg") as pool:
            encoded: Iterable[EncodedImage] = ()
            for start in range(0, len(requests), self.batch_size):
                on_batch(start)
                images = self.generate(requests[start : start + self.batch_size])
                flags = self._flags(images)
                yield from encoded
                encoded = pool.map(_encode_image, images, flags)
            yield from encoded

    @torch.inference_mode()
    def _generate(self, requests: Sequence[ImageRequest]) -> np.ndarray:
        padded = [*requests, *[requests[-1]] * (self.batch_size - len(requests))]
        images = self._sample(padded)[: len(requests)]
        _check_images(images, requests)
        pixels = images.clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return (pixels * 255).round().astype("uint8")

    def _flags(self, images: np.ndarray) -> Sequence[bool | None]:
        if self.checker is None:
            return [None] * len(images)
        checker = self.checker
        return self._check_memory(lambda: checker.flags(images))

    def _check_memory(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                if device_failed(error):
                    raise broken_device(error) from error
                raise
        # Outside of the handler, so that the tensors of the failed call are freed.
        remedy = f"--batch-size {self.batch_size // 2}" if self.batch_size > 1 else "a smaller --size"
        raise GenerationMemoryError(
            f"the {self.device.type} device has too little memory for a batch of {self.batch_size} images",
            "free memory on the device and run the same command again, or begin a new folder with "
            f"{remedy} (or --batch-size auto; it is part of the plan, because another one rounds differently)",
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device has too little memory."""
    texts = ("DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)


def device_failed(error: BaseException) -> bool:
    """Whether an error comes from the GPU itself, after which every call of this process to it fails.

    What this GPU or library cannot do at all is not meant: a new process could not do it either.
    """
    texts, never = ("CUDA error", "HIP error", "CUDNN_STATUS", "CUBLAS_STATUS"), ("no kernel image", "NOT_SUPPORTED")
    accelerator = getattr(torch, "AcceleratorError", ())  # not in older versions
    failed = isinstance(error, accelerator) or any(text in str(error) for text in texts)
    return failed and not out_of_memory(error) and not any(text in str(error) for text in never)


def broken_device(error: BaseException) -> DeviceError:
    """What to tell of such an error."""
    return DeviceError(
        f"the GPU failed: {one_line(error)}",
        "run the same command again, which starts a new process; if it comes back, look at nvidia-smi",
    )


def cached(store: dict[str, Embeds], texts: Sequence[str], encode: Callable[[str], Embeds]) -> list[Embeds]:
    """The embeddings of each text, encoded once: kept in `store`, from which the oldest go when it is full.

    Args:
        store: prompt -> tensors, of the same size for each.
        texts: at least one.
        encode: encodes one of them.
    """
    for text in texts:
        if text not in store:
            store[text] = encode(text)
    embeds = [store[text] for text in texts]
    size = sum(tensor.nbytes for tensor in embeds[0].values())
    while len(store) * size > _CACHED_BYTES:
        store.pop(next(iter(store)))
    return embeds


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """A JPEG file, encoded as `generation.config.JPEG` says, from uint8 [height, width, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **JPEG)
    return buffer.getvalue()


def _encode_image(image: np.ndarray, nsfw: bool | None) -> EncodedImage:
    return EncodedImage(jpeg=encode_jpeg(image), nsfw=nsfw)


def _check_images(images: torch.Tensor, requests: Sequence[ImageRequest]) -> None:
    """Refuse images that are not finite (they would be stored as black) or that show one colour only."""
    flat = images.flatten(2).float()  # [N, 3, pixels]: a colour is constant where each of its channels is
    finite = flat.isfinite().all(2).all(1)
    spread = (flat.amax(2) - flat.amin(2)).amax(1)
    for request, is_finite, value_range in zip(requests, finite.tolist(), spread.tolist(), strict=True):
        if not is_finite or value_range < 1 / 255:
            fault = "has one single colour" if is_finite else "holds values that are not numbers"
            raise UnusableImageError(
                f"image {request.image_id} {fault}", "check the model's weights and --dtype (try --dtype float32)"
            )
