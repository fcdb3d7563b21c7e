"""Images and shards made to harm: huge, small but huge when read, mislabelled, of another format than their name."""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagenet_sd.core import files
from imagenet_sd.core.errors import DatasetError
from imagenet_sd.data import images as images_module
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.data.open import open_images
from imagenet_sd.storage import schema


def png(width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (9, 8, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(folder: Path, images: list[Any], labels: Any = None, names: Any = ("a", "b"), **options: Any) -> str:
    """A folder with one Parquet file; the spec that names it."""
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    labels = labels if labels is not None else [0] * len(images)
    if not isinstance(images, pa.Array):
        images = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # pyright: ignore[reportArgumentType]
    table = pa.table({"image": images, "label": labels})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "x.parquet", **options)
    return f"parquet:{folder}"


def cell(data: bytes | None) -> dict[str, Any]:
    return {"bytes": data, "path": "x.png"}


@pytest.mark.parametrize("label", [-1, 2, 10**15, None])
def test_labels_outside_of_the_classes_are_one_line(label: int | None, tmp_path: Path):
    images = open_images(shard(tmp_path, [cell(png())] * 2, pa.array([1, label], pa.int64())))
    with pytest.raises(DatasetError, match=f"x.parquet: image '0/0/1' has label {label}, and there are 2 classes") as e:
        images.read_group(0)
    assert e.value.hint


@pytest.mark.parametrize(
    ("column", "labels", "names", "said"),
    [
        ([cell(None)], [0], ["a"], "image '0/0/0' has no bytes"),
        ([None], [0], ["a"], "image '0/0/0' has no bytes"),
        (pa.array(["path.png"]), [0], ["a"], "its column 'image' is string, no struct"),
        (pa.array([[1, 2]]), [0], ["a"], r"its column 'image' is list<\w+: int64>, no struct"),
        ([cell(png())], ["a"], ["a"], "its column 'label' is string, no integers"),
        ([cell(png())], [0], ["a", "a"], "no class-label feature"),
        ([cell(png())], [0], [], "no class-label feature"),
        ([cell(png())], [0], [["a"]], "no class-label feature"),
    ],
)
def test_columns_of_another_kind_are_one_line(column: Any, labels: Any, names: Any, said: str, tmp_path: Path):
    with pytest.raises(DatasetError, match=said) as caught:
        open_images(shard(tmp_path, column, labels, names)).read_group(0)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_columns_of_any_name_as_datasets_writes_them(tmp_path: Path):
    """CIFAR-10 on the Hub calls its columns so; the description of the columns tells, not their names."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"fine": ClassLabel(names=["cat", "dog"]), "img": ImageFeature()})
    Dataset.from_dict({"fine": [1], "img": [cell(png())]}, features).to_parquet(tmp_path / "train.parquet")
    images = open_images(f"parquet:{tmp_path}")
    (record,) = images.read_group(0)
    assert images.classes == ("cat", "dog") and record.label == 1 and record.data == png()


def test_a_sound_shard_is_read_as_it_was_written(tmp_path: Path):
    rows = [cell(png(8 + i, 8)) for i in range(250)]
    images = open_images(shard(tmp_path, rows, [i % 2 for i in range(250)], row_group_size=130))
    records = [record for group in range(2) for record in images.read_group(group)]
    assert [(r.label, r.data) for r in records] == [(i % 2, row["bytes"]) for i, row in enumerate(rows)]


BOMBS = {
    "one huge image": "[{'bytes': bytes(700 << 20), 'path': 'x'}], 1",
    "one image many times": "[{'bytes': bytes(1 << 20), 'path': 'x'}] * 3000, 3000",
}
READ = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from imagenet_sd.core.errors import DatasetError
from imagenet_sd.data.open import open_images
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_images("parquet:{folder}").read_group(0)
except DatasetError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""
WRITE = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.data.test_hostile_images import shard
images, count = {bomb}
shard(Path({folder!r}), images, [0] * count, compression="zstd", row_group_size=10**6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_shard_does_not_fill_the_memory(name: str, tmp_path: Path):
    """In processes of their own: the first may use the memory that the second must not."""
    root = str(Path(files.__file__).parents[2])
    write = WRITE.format(root=root, bomb=BOMBS[name], folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", write], check=True, timeout=120)
    assert (tmp_path / "x.parquet").stat().st_size < 200_000
    read = READ.format(root=root, folder=tmp_path)
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True, timeout=120)
    kilobytes, said = done.stdout.split(" ", 1)
    assert "bytes or more; up to 536,870,912 bytes are read" in said
    assert int(kilobytes) < 1_500_000


def test_the_limit_of_a_row_group_holds_for_what_is_read_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same with small numbers: compressed, said by repetition, and just below the limit."""
    monkeypatch.setattr(schema, "ROW_GROUP_LIMIT", 1 << 20)
    noise = np.random.default_rng(0)
    for rows in ([cell(bytes(2 << 20))], [cell(bytes(20_000))] * 100, [cell(noise.bytes(20_000)) for _ in range(60)]):
        spec = shard(tmp_path, rows, compression="zstd")
        with pytest.raises(DatasetError, match=r"row group 0 has .* bytes or more") as caught:
            open_images(spec).read_group(0)
        assert "row group" in caught.value.hint
    assert len(open_images(shard(tmp_path, [cell(bytes(20_000))] * 50)).read_group(0)) == 50


def test_verification_and_the_gallery_keep_to_the_limit(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from imagenet_sd.storage.dataset import Dataset
    from imagenet_sd.storage.verify import verify_dataset

    monkeypatch.setattr(schema, "ROW_GROUP_LIMIT", 1000)
    dataset = Dataset.open(small_dataset)
    assert all("row group 0 has" in fault.message for fault in verify_dataset(dataset)) and verify_dataset(dataset)
    with pytest.raises(DatasetError, match="row group 0 has"):
        list(dataset.row_groups(["image"]))


def decode(data: Any) -> Image.Image:
    return LabelledImage(image_id="x", label=0, data=data).decode()


def test_images_of_too_many_bytes_are_not_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images_module, "IMAGE_BYTES_LIMIT", 1000)
    path = tmp_path / "x.png"
    with open(path, "wb") as file:
        file.write(png())
        file.truncate(50 << 30)  # a sparse file of 50 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (path, png() + bytes(1000)):
        with pytest.raises(OSError, match="x: more than 1,000 bytes"):
            decode(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert decode(png()).size == (8, 8)


def test_images_of_too_many_pixels_are_not_decoded(monkeypatch: pytest.MonkeyPatch):
    """A PNG whose header alone says 20,000 x 20,000: nothing is allocated for it, whatever Pillow's own limit is."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    data = bytearray(png())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(OSError, match="x: 20000 x 20000 pixels are too many"):
        decode(bytes(data))
    monkeypatch.setattr(images_module, "IMAGE_PIXELS_LIMIT", 64)
    assert decode(png(8, 8)).size == (8, 8)
    with pytest.raises(OSError, match="too many"):
        decode(png(9, 8))


def test_the_format_is_that_of_the_content_and_one_of_pictures(tmp_path: Path):
    """A PNG called .jpg is read, as ImageNet has one; PostScript, for which Pillow starts another program, is not."""
    (tmp_path / "x.jpg").write_bytes(png())
    assert decode(tmp_path / "x.jpg").mode == "RGB"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    with pytest.raises(OSError, match="cannot identify"):
        decode(buffer.getvalue())


def test_json_that_is_too_deep_or_too_large_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "dataset.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="is not readable as JSON"):
        open_images(str(tmp_path))
    monkeypatch.setattr(files, "JSON_LIMIT", 1000)
    path.write_text(json.dumps({"a": "x" * 2000}))
    with pytest.raises(DatasetError, match="files over 1,000 are not read"):
        open_images(str(tmp_path))
