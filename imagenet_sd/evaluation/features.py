"""Features of frozen encoders, extracted once: cached under all that they depend on, resumable part by part."""

import hashlib
import json
from collections.abc import Iterable
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
from imagenet_sd.core.progress import Progress, note
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.data.images import ArraySet, ImageSet
from imagenet_sd.data.parquet import ParquetSet
from imagenet_sd.data.preprocess import Preprocessing
from imagenet_sd.evaluation.analysis import unit
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError, Fusion
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.probes.rows import LARGE

_PART = 2048
_PART_NAME = "part-{:05d}.safetensors"
_WHOLE, _WHOLE_LABELS = "features.npy", "labels.safetensors"
_TENSORS = ("features", "labels", "digests")
_Stored = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
"""Features (an array, or a memory map where they are large), labels, digests, unreadable images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """Features of one image set under one encoder.

    Attributes:
        data: features and labels of the readable images, in the order of the set; features of more than
            `rows.LARGE` bytes are a memory map of the cache.
        classes: class ids of the labels.
        unreadable: names of images that could not be read.
        cache_key: names the cache entry.
        from_cache: whether nothing had to be computed.
        concatenations: with how many other encoders' raw features they stand side by side.
        digests: uint64 [N], a hash of the content of each image: of its file, or of its pixels where those are given.
    """

    data: FeatureSet
    classes: tuple[str, ...]
    unreadable: tuple[str, ...]
    cache_key: str
    from_cache: bool
    digests: np.ndarray
    concatenations: int = 0


def versions() -> dict[str, str]:
    """Versions of the libraries that features depend on."""
    modules = {"torch": torch, "torchvision": torchvision, "timm": timm, "pillow": PIL}
    return {name: module.__version__ for name, module in modules.items()}


def dataset_fingerprint(images: ImageSet) -> str:
    """Hash of what a set holds: of pixels in memory, else of names, sizes and times (on the Hub blobs) of its files."""
    digest = hashlib.sha256(json.dumps(list(images.classes)).encode())
    if isinstance(images, ArraySet):
        digest.update(images.images.tobytes() + images.labels.tobytes())
    elif isinstance(images, ParquetSet) and images.versions:
        digest.update(json.dumps([images.files, images.versions]).encode())
    elif isinstance(images, ParquetSet):
        digest.update(images.image_column.encode() if images.image_column != "image" else b"")
        for name in images.files:
            path = Path(name)
            stamp = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ()
            digest.update(f"{path.name}{stamp}".encode(errors="surrogatepass"))
    else:
        for group in range(len(images.group_sizes)):
            for record in images.read_group(group):
                digest.update(f"{record.image_id} {record.label} ".encode(errors="surrogatepass"))
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
    preprocessing = encoder.preprocessing(config)
    facts = {
        "encoder": encoder.fingerprint,
        "dataset": dataset_fingerprint(images),
        "preprocessing": _key(preprocessing),
        "dtype": "amp" if config.amp else "float32",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "versions": versions(),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True)
    stored = _read_stored(folder)
    all_cached = True
    if stored is None:
        all_cached = _compute_parts(encoder, images, folder, preprocessing, config)
        try:
            stored = _gather(folder, images)
        except _PartGone:  # another process has put them together
            stored = _read_stored(folder)
        if stored is None:
            raise EvaluationError(f"{folder} was changed while it was read", "run the same command again")
    features, labels, digests, unreadable = stored
    for name in unreadable:
        note(f"warning: {images.name}: {name} cannot be read and is left out")
    data = FeatureSet(features=features, labels=labels)
    return Extracted(
        data=data,
        classes=images.classes,
        unreadable=unreadable,
        cache_key=key,
        from_cache=all_cached,
        digests=digests,
    )


def _compute_parts(
    encoder: Encoder, images: ImageSet, folder: Path, preprocessing: Preprocessing, config: EvalConfig
) -> bool:
    """Write the parts that are missing or damaged; whether there were none."""
    all_cached = True
    with Progress("images", sum(images.group_sizes)) as progress:
        for number, members in enumerate(_parts(images)):
            path = folder / _PART_NAME.format(number)
            cached = _is_whole(path)
            if not cached:
                part = _compute(encoder, images, members, preprocessing, config)
                atomic_write(path, lambda temporary, part=part: _write_part(temporary, part))
            all_cached &= cached
            progress.advance(sum(images.group_sizes[g] for g in members), cached=cached)
    return all_cached


class _PartGone(Exception):
    """A part is not there any more."""


def _there(path: Path, *names: str) -> dict[str, Any]:
    """See `_read_part`; raises _PartGone."""
    if (part := _read_part(path, *names)) is None:
        raise _PartGone
    return part


def _gather(folder: Path, images: ImageSet) -> _Stored:
    """The parts as one: in memory, or where they are large in one file, which then replaces them."""
    paths = [folder / _PART_NAME.format(number) for number in range(len(_parts(images)))]
    parts = [_there(path, "labels", "digests") for path in paths]
    labels, digests = (np.concatenate([part[name] for part in parts]) for name in ("labels", "digests"))
    if not len(labels):
        total = sum(images.group_sizes)
        raise EvaluationError(f"{images.name}: none of its {total:,} images can be read", "check the data")
    unreadable = tuple(name for part in parts for name in part["unreadable"])
    shape = len(labels), max(part["dimension"] for part in parts)
    blocks = (_there(path, "features")["features"] for path in paths)
    if 4 * shape[0] * shape[1] <= LARGE:
        return np.concatenate([block.reshape(-1, shape[1]) for block in blocks]), labels, digests, unreadable
    features = write_rows(folder / _WHOLE, blocks, shape)
    whole = {"labels": labels, "digests": digests, "unreadable": unreadable}
    atomic_write(folder / _WHOLE_LABELS, lambda temporary: _write_part(temporary, whole))
    for path in paths:
        path.unlink(missing_ok=True)
    return features, labels, digests, unreadable


def write_rows(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Write blocks of rows one after the other to a NumPy file, which is there as a whole or not at all.

    Args:
        path: the file.
        blocks: float [n_i, D].
        shape: (N, D), with N the sum of n_i.

    Returns:
        A read-only memory map float32 [N, D].
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(np.ascontiguousarray(block, np.float32).data)

    atomic_write(path, write)
    return np.load(path, mmap_mode="r")


def _read_stored(folder: Path) -> _Stored | None:
    """What `_gather` put into one file; None where there is none, or it is damaged."""
    part = _read_part(folder / _WHOLE_LABELS, "labels", "digests")
    if part is None:
        return None
    try:
        features = np.load(folder / _WHOLE, mmap_mode="r")
    except (OSError, ValueError):
        return None
    if len(features) != len(part["labels"]):
        return None
    return features, part["labels"], part["digests"], tuple(part["unreadable"])


def _key(p: Preprocessing) -> list[Any]:
    """What stands for a preprocessing in the cache's key; margins came later, and older keys stay valid."""
    key = [p.crop_size, p.interpolation, list(p.mean), list(p.std)]
    return key if (p.resize_size, p.crop_mode) == (p.crop_size, "center") else [*key, p.resize_size, p.crop_mode]


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
    encoder: Encoder, images: ImageSet, groups: list[int], preprocessing: Preprocessing, config: EvalConfig
) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = encoder.module.to(device)
    mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)
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
                pixels.append(preprocessing.crop(loaded.decode()))
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
    tensors = {name: part[name] for name in _TENSORS if name in part}
    save_file(tensors, path, {"unreadable": json.dumps(part["unreadable"])})


def _read_part(path: Path, *tensors: str) -> dict[str, Any] | None:
    """Some tensors of a part, `unreadable`, and `dimension` of its features.

    None where it is missing, damaged, or of an older version without one of them: it is computed again then.
    """
    try:
        with safe_open(path, "np") as file:
            names = json.loads((file.metadata() or {})["unreadable"])
            dimension = file.get_slice("features").get_shape()[1] if "features" in file.keys() else 0  # noqa: SIM118
            found = {tensor: file.get_tensor(tensor) for tensor in tensors}
            return found | {"unreadable": names, "dimension": dimension}
    except (FileNotFoundError, SafetensorError, KeyError, ValueError, RecursionError):
        return None


def _is_whole(path: Path) -> bool:
    """Whether a part is there with all that it should hold, and its features are finite."""
    part = _read_part(path, *_TENSORS)
    return part is not None and bool(np.isfinite(part["features"]).all())


def concatenate(parts: list[Extracted], fusion: Fusion = "normalised") -> Extracted:
    """Features of several encoders side by side.

    Args:
        parts: of the same images.
        fusion: `normalised`: each of unit length, and the whole of unit length (SeA, eq. 1); `raw`: as they are
            (Ericsson et al., 2022), for probes with a wider range of penalties.
    """
    if len(parts) == 1:
        return parts[0]
    first, features = parts[0], [part.data.features for part in parts]
    shape = len(features[0]), sum(each.shape[1] for each in features)
    starts = range(0, len(features[0]), _PART)
    blocks = (_side_by_side([each[start : start + _PART] for each in features], fusion) for start in starts)
    key = "+".join(part.cache_key for part in parts)
    at = next((each.filename for each in features if isinstance(each, np.memmap)), None)
    if at is None or 4 * shape[0] * shape[1] <= LARGE:
        joined = np.concatenate(list(blocks))
    else:
        path = Path(at).with_name(f"{fusion}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy")
        joined = np.load(path, mmap_mode="r") if path.is_file() else write_rows(path, blocks, shape)
    return Extracted(
        data=FeatureSet(features=joined, labels=first.data.labels),
        classes=first.classes,
        unreadable=first.unreadable,
        cache_key=key,
        from_cache=all(part.from_cache for part in parts),
        digests=first.digests,
        concatenations=len(parts) - 1 if fusion == "raw" else 0,
    )


def _side_by_side(blocks: list[np.ndarray], fusion: Fusion) -> np.ndarray:
    if fusion == "raw":
        return np.concatenate(blocks, axis=1)
    return unit(np.concatenate([unit(block) for block in blocks], axis=1)).astype(np.float32)
