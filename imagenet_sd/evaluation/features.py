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

from imagenet_sd.core.files import atomic_write
from imagenet_sd.core.progress import Progress
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.data.images import ArraySet, ImageSet
from imagenet_sd.data.parquet import ParquetSet
from imagenet_sd.data.preprocess import center_crop
from imagenet_sd.evaluation.analysis import unit
from imagenet_sd.evaluation.config import EvalConfig, Fusion
from imagenet_sd.evaluation.encoders import Encoder

_PART = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """Features of one image set under one encoder.

    Attributes:
        data: features and labels of the readable images, in the order of the set.
        classes: class ids of the labels.
        unreadable: names of images that could not be read.
        cache_key: names the cache entry.
        from_cache: whether nothing had to be computed.
        concatenations: with how many other encoders' raw features they stand side by side.
    """

    data: FeatureSet
    classes: tuple[str, ...]
    unreadable: tuple[str, ...]
    cache_key: str
    from_cache: bool
    concatenations: int = 0


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
    data = FeatureSet(
        features=np.concatenate([part["features"] for part in parts]),
        labels=np.concatenate([part["labels"] for part in parts]),
    )
    return Extracted(data=data, classes=images.classes, unreadable=unreadable, cache_key=key, from_cache=all_cached)


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
    features, labels, unreadable, pixels = [], [], [], []

    def flush() -> None:
        if pixels:
            batch = torch.from_numpy(np.stack(pixels)).to(device).float() / 255
            with torch.autocast(device.type) if config.amp else nullcontext():
                features.append(module((batch - mean) / std).float().cpu().numpy())
            pixels.clear()

    for group in groups:
        for record in images.read_group(group):
            try:
                pixels.append(center_crop(record.decode(), crop_size))
            except OSError:
                unreadable.append(record.image_id)
                continue
            labels.append(record.label)
            if len(pixels) == config.batch_size:
                flush()
    flush()
    width = features[0].shape[1] if features else 0
    joined = np.concatenate(features) if features else np.zeros((0, width), np.float32)
    return {"features": joined, "labels": np.array(labels, np.int64), "unreadable": unreadable}


def _write_part(path: Path, part: dict[str, Any]) -> None:
    tensors = {"features": part["features"], "labels": part["labels"]}
    save_file(tensors, path, {"unreadable": json.dumps(part["unreadable"])})


def _read_part(path: Path) -> dict[str, Any] | None:
    try:
        with safe_open(path, "np") as file:
            names = json.loads((file.metadata() or {})["unreadable"])
            return {name: file.get_tensor(name) for name in ("features", "labels")} | {"unreadable": names}
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None  # not there, or damaged: it is computed again


def concatenate(parts: list[Extracted], fusion: Fusion = "normalised") -> Extracted:
    """Features of several encoders side by side.

    Args:
        parts: of the same images.
        fusion: `normalised`: each of unit length, and the whole of unit length (SeA, eq. 1); `raw`: as they are
            (Ericsson et al., 2022), for probes with a wider range of penalties.
    """
    if len(parts) == 1:
        return parts[0]
    features = [part.data.features for part in parts]
    if fusion == "normalised":
        features = [unit(each) for each in features]
    joined = np.concatenate(features, axis=1)
    joined = (unit(joined) if fusion == "normalised" else joined).astype(np.float32)
    first = parts[0]
    return Extracted(
        data=FeatureSet(features=joined, labels=first.data.labels),
        classes=first.classes,
        unreadable=first.unreadable,
        cache_key="+".join(part.cache_key for part in parts),
        from_cache=all(part.from_cache for part in parts),
        concatenations=len(parts) - 1 if fusion == "raw" else 0,
    )
