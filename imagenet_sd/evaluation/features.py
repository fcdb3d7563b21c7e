"""Features of frozen encoders, extracted once: cached under all that they depend on, resumable part by part."""

import hashlib
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import timm
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from imagenet_sd.core.errors import one_line
from imagenet_sd.core.files import atomic_write
from imagenet_sd.core.progress import Progress
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.data.images import ArraySet, ImageSet
from imagenet_sd.data.parquet import ParquetSet
from imagenet_sd.data.preprocess import center_crop
from imagenet_sd.evaluation.analysis import unit
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder

_PART = 2048
_TENSORS = ("features", "labels", "digests")


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """Features of one image set under one encoder.

    Attributes:
        data: features and labels of the readable images, in the order of the set.
        classes: class ids of the labels.
        unreadable: names of images that could not be read.
        cache_key: names the cache entry.
        from_cache: whether nothing had to be computed.
        digests: uint64 [N], a hash of the pixels that the encoder sees of each image.
    """

    data: FeatureSet
    classes: tuple[str, ...]
    unreadable: tuple[str, ...]
    cache_key: str
    from_cache: bool
    digests: np.ndarray


def versions() -> dict[str, str]:
    """Versions of the libraries that features depend on."""
    modules = {"torch": torch, "torchvision": torchvision, "timm": timm, "pillow": PIL}
    return {name: module.__version__ for name, module in modules.items()}


def dataset_fingerprint(images: ImageSet) -> str:
    """Hash of what a set holds: of pixels in memory, else of names, sizes and times of its files."""
    digest = hashlib.sha256(json.dumps(list(images.classes)).encode())
    if isinstance(images, ArraySet):
        digest.update(images.images.tobytes() + images.labels.tobytes())
    elif isinstance(images, ParquetSet):
        for name in images.files:
            path = Path(name)
            stamp = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ()
            digest.update(f"{path.name}{stamp}".encode())
    else:
        for group in range(len(images.group_sizes)):
            for record in images.read_group(group):
                digest.update(f"{record.image_id} {record.label} ".encode())
                if isinstance(record.data, Path):
                    try:
                        stat = record.data.stat()
                        digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
                    except OSError:
                        digest.update(b"missing")
                else:
                    digest.update(bytes(record.data))
    return digest.hexdigest()


def extract(encoder: Encoder, images: ImageSet, config: EvalConfig, cache: Path) -> Extracted:
    """Features of all images of a set, from the cache where it has them.

    Args:
        encoder: the encoder.
        images: the images.
        config: crop, batch size, precision.
        cache: folder of the cache.

    Returns:
        See `Extracted`. Unreadable images are named on standard error and in the result, never dropped in silence.

    Raises:
        EvaluationError: the encoder does not take images of this size, a feature is not finite (the image is named), or
            no image can be read.
    """
    crop_size = encoder.crop_size if encoder.crop_size and config.preprocessing == "model" else config.crop_size
    facts = {
        "encoder": encoder.fingerprint,
        "dataset": dataset_fingerprint(images),
        "preprocessing": [crop_size, "bicubic", list(encoder.mean), list(encoder.std)],
        "dtype": "amp" if config.amp else "float32",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "versions": versions(),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True)
    groups, parts = _parts(images), []
    total = sum(images.group_sizes)
    all_cached = True
    with Progress("images", total) as progress:
        for number, members in enumerate(groups):
            path = folder / f"part-{number:05d}.safetensors"
            part = _read_part(path)
            cached = part is not None
            if part is None:
                part = _compute(encoder, images, members, crop_size, config)
                atomic_write(path, lambda temporary, part=part: _write_part(temporary, part))
            parts.append(part)
            all_cached &= cached
            progress.advance(sum(images.group_sizes[g] for g in members), cached=cached)
    unreadable = tuple(name for part in parts for name in part["unreadable"])
    for name in unreadable:
        print(f"warning: {images.name}: {name} cannot be read and is left out", file=sys.stderr)
    if not sum(len(part["labels"]) for part in parts):
        raise EvaluationError(f"{images.name}: none of its {total:,} images can be read", "check the data")
    data = FeatureSet(
        features=np.concatenate([part["features"] for part in parts]),
        labels=np.concatenate([part["labels"] for part in parts]),
    )
    return Extracted(
        data=data,
        classes=images.classes,
        unreadable=unreadable,
        cache_key=key,
        from_cache=all_cached,
        digests=np.concatenate([part["digests"] for part in parts]),
    )


def _parts(images: ImageSet) -> list[list[int]]:
    """Groups in runs of about `_PART` images."""
    runs: list[list[int]] = [[]]
    size = 0
    for group, rows in enumerate(images.group_sizes):
        if size >= _PART:
            runs.append([])
            size = 0
        runs[-1].append(group)
        size += rows
    return runs


@torch.inference_mode()
def _compute(
    encoder: Encoder, images: ImageSet, groups: list[int], crop_size: int, config: EvalConfig
) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = encoder.module.to(device)
    mean = torch.tensor(encoder.mean, device=device).view(3, 1, 1)
    std = torch.tensor(encoder.std, device=device).view(3, 1, 1)
    features, labels, unreadable, digests, pixels, names = [], [], [], [], [], []

    def flush() -> None:
        if pixels:
            batch = torch.from_numpy(np.stack(pixels)).to(device).float() / 255
            with torch.autocast(device.type) if config.amp else nullcontext():
                found = _forward(encoder, module, (batch - mean) / std)
            _check_finite(encoder, images, names, found)
            features.append(found)
            pixels.clear()
            names.clear()

    for group in groups:
        for record in images.read_group(group):
            try:
                loaded = record.loaded()
                pixels.append(center_crop(loaded.decode(), crop_size))
            except OSError:
                unreadable.append(record.image_id)
                continue
            labels.append(record.label)
            names.append(record.image_id)
            digests.append(loaded.digest())
            if len(pixels) == config.batch_size:
                flush()
    flush()
    width = features[0].shape[1] if features else 0
    joined = np.concatenate(features) if features else np.zeros((0, width), np.float32)
    tensors = {"features": joined, "labels": np.array(labels, np.int64), "digests": np.array(digests, np.uint64)}
    return tensors | {"unreadable": unreadable}


def _forward(encoder: Encoder, module: torch.nn.Module, batch: torch.Tensor) -> np.ndarray:
    """Features float32 [N, D] of normalised images [N, 3, S, S]; what the model refuses is one line."""
    try:
        return module(batch).float().cpu().numpy()
    except torch.OutOfMemoryError:
        raise EvaluationError(
            f"{encoder.name}: no memory for {len(batch)} images of {batch.shape[-1]} pixels", "lower --batch-size"
        ) from None
    except (AssertionError, RuntimeError, ValueError) as error:
        raise EvaluationError(
            f"{encoder.name} does not take images of {batch.shape[-1]} pixels: {one_line(error)}",
            "give --crop-size the size that it was trained for, or --preprocessing model",
        ) from None


def _check_finite(encoder: Encoder, images: ImageSet, names: list[str], features: np.ndarray) -> None:
    """Refuse NaN and infinities: a probe would turn them into a number that looks like one."""
    rows = np.isfinite(features).all(axis=1)
    if not rows.all():
        raise EvaluationError(
            f"{encoder.name} gives features that are not finite, first for {names[int(rows.argmin())]} "
            f"of {images.name}",
            "its weights or its training are at fault; with --amp, try without",
        )


def _write_part(path: Path, part: dict[str, Any]) -> None:
    tensors = {name: part[name] for name in _TENSORS}
    save_file(tensors, path, {"unreadable": json.dumps(part["unreadable"])})


def _read_part(path: Path) -> dict[str, Any] | None:
    try:
        with safe_open(path, "np") as file:
            names = json.loads((file.metadata() or {})["unreadable"])
            part = {name: file.get_tensor(name) for name in _TENSORS}
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None  # not there, damaged, or of an older version: it is computed again
    return part | {"unreadable": names} if np.isfinite(part["features"]).all() else None


def concatenate(parts: list[Extracted]) -> Extracted:
    """Features of several encoders side by side: each of unit length, and the whole of unit length (SeA, eq. 1)."""
    if len(parts) == 1:
        return parts[0]
    joined = unit(np.concatenate([unit(part.data.features) for part in parts], axis=1)).astype(np.float32)
    first = parts[0]
    return Extracted(
        data=FeatureSet(features=joined, labels=first.data.labels),
        classes=first.classes,
        unreadable=first.unreadable,
        cache_key="+".join(part.cache_key for part in parts),
        from_cache=all(part.from_cache for part in parts),
        digests=first.digests,
    )
