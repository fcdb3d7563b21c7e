"""Real images and their lists: how they are made, mutated and read."""

import os
import random
import resource
import tempfile
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from imagenet_sd.data import transfer
from imagenet_sd.data.cog import read_counts
from imagenet_sd.data.cog_lists import open_level
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.data.matfile import _BYTES, mat_json, parse_output
from imagenet_sd.data.open import open_images
from imagenet_sd.data.transfer import open_transfer
from tests.data import test_transfer as layouts
from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.run import Format
from tests.fuzz.samples import each, encoded, read_all, write


def read_mat_forked(path: Path) -> dict[str, Any]:
    """`read_mat` with a fork in the place of a new process, a hundred times as fast; as much memory may be added."""
    if not path.is_file():
        raise FileNotFoundError(2, "missing", str(path))
    reading, writing = os.pipe()
    if not (child := os.fork()):
        code, pages = 1, int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with suppress(BaseException), os.fdopen(writing, "wb") as pipe:
            try:
                text, code = mat_json(str(path)), 0
            except Exception as error:
                text = str(error)
            pipe.write(text.encode(errors="replace"))
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        output = pipe.read()
    return parse_output(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output)


def transfer_format(name: str) -> Format:
    """A transfer set in its published layout; its annotation files are mutated."""
    kinds = {".mat": mutate_bytes, ".json": mutate_json, ".txt": mutate_bytes, ".bin": mutate_bytes}

    def make(folder: Path) -> None:
        layouts.BUILDERS[name](folder)

    def read(folder: Path) -> None:
        transfer.read_mat = read_mat_forked  # pyright: ignore[reportPrivateImportUsage]
        each(
            lambda: read_all(open_transfer(name, folder, "train"), 1),
            lambda: read_all(open_transfer(name, folder, "test"), 1),
        )

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        paths = sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.suffix in kinds)
    return Format(make=make, read=read, files={path: kinds[Path(path).suffix] for path in paths})


def make_levels(folder: Path) -> None:
    """The image lists of a CoG level, and its images."""
    for wnid in ("n00000001", "n00000002"):
        (folder / "root" / wnid).mkdir(parents=True)
        (folder / "root" / wnid / "x.png").write_bytes(encoded("PNG"))
    (folder / "levels.json").write_text("{}")
    (folder / "L1-test.txt").write_text("n00000001/x.png\nn00000002/x.png\n")


def make_targets(folder: Path) -> None:
    """A table of targets, and its images."""
    lines = [f"{split}.png\t{number}.5\t{split}\n" for number, split in enumerate(("train", "test"))]
    (folder / "t.tsv").write_text("path\tx\tsplit\n" + "".join(lines))
    for split in ("train", "test"):
        (folder / f"{split}.png").write_bytes(encoded("PNG"))


def mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Half of the time the content of a chunk, with its check sum put right; else the bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    content = (
        zlib.compress(mutate_bytes(zlib.decompress(content), rng)) if kind == b"IDAT" else mutate_bytes(content, rng)
    )
    chunks[number] = (rng.choice([kind, kind, kind, b"iCCP", b"zTXt", b"acTL"]), content)
    parts = [len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in chunks]
    return data[:8] + b"".join(parts)


def read_image(folder: Path, suffix: str) -> None:
    """Decode a file."""
    record = LabelledImage(image_id="x", label=0, data=folder / f"x.{suffix}")
    record.digest()
    assert record.decode().mode == "RGB"


IMAGES = {
    "jpeg": encoded("JPEG"), "png": encoded("PNG"), "webp": encoded("WEBP"), "bmp": encoded("BMP"),
    "tiff": encoded("TIFF", compression="tiff_lzw"), "ppm": encoded("PPM"), "gif": encoded("GIF"),
}  # fmt: skip


REAL_DATA: dict[str, Format] = {
    "image counts": Format(
        make=write("c.tsv", "wnid\tnum_images\nn00000001\t10\nn00000002\t20\n"), files={"c.tsv": mutate_bytes},
        read=lambda f: read_counts(f / "c.tsv"),
    ),
    "CoG list": Format(
        make=make_levels, files={"L1-test.txt": mutate_bytes},
        read=lambda f: read_all(open_level(f, "L1", f / "root", "test")),
    ),
    "targets": Format(
        make=make_targets, files={"t.tsv": mutate_bytes},
        read=lambda f: each(
            lambda: read_all(open_images(f"targets:{f}/t.tsv", "train")),
            lambda: read_all(open_images(f"targets:{f}/t.tsv", "test")),
        ),
    ),
}  # fmt: skip
REAL_DATA |= {
    f"image, {suffix}": Format(
        make=write(f"x.{suffix}", content),
        files={f"x.{suffix}": mutate_png if suffix == "png" else mutate_bytes},
        read=partial(read_image, suffix=suffix),
    )
    for suffix, content in IMAGES.items()
}
REAL_DATA |= {
    f"transfer, {name}": transfer_format(name)
    for name in ("aircraft", "cars196", "cub", "dtd", "flowers", "food101", "inat18", "pets", "sun397", "cifar10")
}
