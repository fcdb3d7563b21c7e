"""Exports: the very bytes of the shards, read back by torchvision, webdataset, datasets, tarfile; resumed; guarded."""

import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagenet_sd.core.errors import DatasetError, ImagenetSDError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.data.builtin import DIGIT_WNIDS
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import offline_identity
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.pipeline import export_dataset, open_dataset
from imagenet_sd.storage.dataset import Dataset, fingerprint
from imagenet_sd.storage.schema import COLUMNS, Row
from imagenet_sd.storage.writer import write_shard
from tests.conftest import CliRun

KINDS = ("imagefolder", "webdataset")


def make_dataset(out: Path, classes: str = "digits-10", pixels: int = 8, **options: int) -> Dataset:
    """A dataset of noise, whose shards hold what its plan says: quick to make with any classes and any size."""
    config = GenerationConfig(classes=classes, model="embedded", **options)
    out.mkdir()
    (out / "dataset.json").write_text(json.dumps(make_plan(config, offline_identity(config))[1]))
    dataset = Dataset.open(out)
    for i in range(dataset.plan.num_shards):
        write_noise(dataset, i, pixels)
    return dataset


def write_noise(dataset: Dataset, i: int, pixels: int = 8, **changes: object) -> None:
    """Publish shard `i`; `changes` are put into its first row."""
    rows, shard = [], dataset.plan.shard(i)
    for request in dataset.plan.requests(shard):
        noise = np.random.default_rng(request.seed).integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
        jpeg = io.BytesIO()
        Image.fromarray(noise).save(jpeg, "JPEG", quality=95)
        values = {
            "jpeg": jpeg.getvalue(),
            "label": request.prompt.class_index,
            "wnid": request.prompt.wnid,
            "image_id": request.image_id,
            "prompt": request.prompt.text,
            "template": request.prompt.template,
            "background": request.prompt.background,
            "seed": request.seed,
            "guidance_scale": 2.0,
            "num_inference_steps": 5,
            "model_id": "embedded",
        }
        rows.append(Row(**(values | (changes if not rows else {}))))
    write_shard(dataset, shard, rows, {})


def parquet_rows(out: Path) -> dict[str, dict]:
    """All rows by image id, read without this project's reader."""
    rows = [row for path in sorted(out.glob("data/*/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["image_id"]: row for row in rows}


def other_columns(row: dict) -> dict:
    return {name: row[name] for name in COLUMNS if name != "image"}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: path, time of the last write, bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in snapshot(folder).items()}


def rewrite_manifest(dataset: Dataset, i: int) -> None:
    """Let the manifest of a shard agree with the file, whatever it holds."""
    shard = dataset.plan.shard(i)
    path, file = dataset.manifest_path(shard), dataset.shard_path(shard)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": sha256_file(file)}))


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_dataset, tmp_path / "copy"))


def test_image_folder_opens_in_torchvision_with_the_same_labels_and_bytes(
    small_dataset: Path, tmp_path: Path, cli: CliRun
):
    from torchvision.datasets import ImageFolder

    done = cli("export", small_dataset, "--format", "imagefolder", "--out", tmp_path / "images")
    assert done.returncode == 0, done.stderr
    assert "20 images, 4 shards written, 0 there before, 0 missing" in done.stdout
    rows = parquet_rows(small_dataset)
    folder = ImageFolder(str(tmp_path / "images"))
    assert folder.classes == list(DIGIT_WNIDS)
    assert {Path(path).stem: label for path, label in folder.samples} == {k: row["label"] for k, row in rows.items()}
    for path, _ in folder.samples:
        row = rows[Path(path).stem]
        assert Path(path).read_bytes() == row["image"]["bytes"]
        assert Path(path).parent.name == row["wnid"]
    lines = [json.loads(line) for line in (tmp_path / "images/metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"file_name": f"{row['wnid']}/{key}.jpg", **other_columns(row)} for key, row in rows.items()
    ]  # in the order of the plan


def test_image_folder_opens_in_datasets_with_every_column(small_dataset: Path, tmp_path: Path):
    from datasets import load_dataset

    export_dataset(small_dataset, "imagefolder", tmp_path / "images")
    folder = str(tmp_path / "images")
    loaded = load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=str(tmp_path / "cache"))
    assert set(loaded.column_names) == set(COLUMNS)
    rows = parquet_rows(small_dataset)
    assert len(loaded) == len(rows)
    for row in loaded:
        expected = rows[row["image_id"]]
        assert other_columns(row) == other_columns(expected)
        assert np.array_equal(row["image"], Image.open(io.BytesIO(expected["image"]["bytes"])))


def test_webdataset_reads_images_labels_and_columns(small_dataset: Path, tmp_path: Path, cli: CliRun):
    import webdataset

    done = cli("export", small_dataset, "--format", "webdataset", "--out", tmp_path / "tars", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["shards_written"], summary["shards_missing"]) == (20, 4, 0)
    assert sorted(p.name for p in (tmp_path / "tars").glob("*.tar")) == [f"train-r000-0000{i}.tar" for i in range(4)]
    urls = str(tmp_path / "tars/train-r000-{00000..00003}.tar")
    rows = parquet_rows(small_dataset)
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == list(rows)
    for sample, row in zip(samples, rows.values(), strict=True):
        assert sample["jpg"] == row["image"]["bytes"]
        assert json.loads(sample["json"]) == other_columns(row)
    decoded = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil").to_tuple("jpg", "cls")
    for (image, label), row in zip(decoded, rows.values(), strict=True):
        assert label == row["label"] and image.size == (32, 32)


def test_two_exports_are_the_same_bytes_and_tars_tell_no_time_or_user(small_dataset: Path, tmp_path: Path):
    export_dataset(small_dataset, "webdataset", tmp_path / "a")
    mask = os.umask(0o077)
    try:
        export_dataset(small_dataset, "webdataset", tmp_path / "b")
    finally:
        os.umask(mask)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    with tarfile.open(tmp_path / "a/train-r000-00000.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 18
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_class_ids_with_dots_keep_their_keys_apart(tmp_path: Path):
    import webdataset

    wnids = ["a", "a-b", "a.b", "a.b.", "a.jpg", "a_b", "x" * 100]
    lines = "".join(f"{wnid}\tthing {i}\t\t\n" for i, wnid in enumerate(wnids))
    (tmp_path / "own.tsv").write_text("id\tname\tdefinition\thypernym\n" + lines)
    make_dataset(tmp_path / "ds", str(tmp_path / "own.tsv"), images_per_class=3, shard_size=4)
    export_dataset(tmp_path / "ds", "webdataset", tmp_path / "tars")
    urls = sorted(map(str, (tmp_path / "tars").glob("*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    rows = parquet_rows(tmp_path / "ds")
    assert len(samples) == len({sample["__key__"] for sample in samples}) == 21
    for sample in samples:
        row = rows[unquote(sample["__key__"])]
        assert sample["jpg"] == row["image"]["bytes"] and int(sample["cls"]) == row["label"]
        assert json.loads(sample["json"])["image_id"] == row["image_id"]


def test_a_class_without_images_does_not_shift_the_labels(tmp_path: Path):
    from torchvision.datasets import ImageFolder

    dataset = make_dataset(tmp_path / "ds", images_per_class=1, shard_size=2)
    for shard in list(dataset.plan.shards())[1:]:
        dataset.manifest_path(shard).unlink()
        dataset.shard_path(shard).unlink()
    export_dataset(tmp_path / "ds", "imagefolder", tmp_path / "images")
    folder = ImageFolder(str(tmp_path / "images"), allow_empty=True)
    expected = {key: row["label"] for key, row in parquet_rows(tmp_path / "ds").items()}
    assert {Path(path).stem: label for path, label in folder.samples} == expected and len(expected) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_that_is_killed_goes_on_and_touches_nothing_that_is_done(tmp_path: Path, kind: str):
    plan = make_dataset(tmp_path / "ds", images_per_class=30, shard_size=3).plan
    target = tmp_path / "out"
    command = [sys.executable, "-m", "imagenet_sd", "export", tmp_path / "ds", "--format", kind, "--out", target]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(target.glob(".export-*"))) < 5:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (target / "..metadata.jsonl.0123.tmp").touch()  # what a kill in the middle of publishing leaves
    before = snapshot(target)
    markers = {name for name in before if name.startswith(".export-")}
    assert 5 <= len(markers) < plan.num_shards

    summary = export_dataset(tmp_path / "ds", kind, target)
    assert (summary["shards_skipped"], summary["shards_written"]) == (len(markers), plan.num_shards - len(markers))
    after = snapshot(target)
    rows = parquet_rows(tmp_path / "ds")
    finished = [
        request for i in range(plan.num_shards) for request in plan.requests(plan.shard(i))
        if f".export-r000-{i:05d}.jsonl" in markers
    ]  # fmt: skip
    kept = set(markers)
    if kind == "imagefolder":
        kept |= {f"{request.prompt.wnid}/{request.image_id}.jpg" for request in finished}
    else:
        kept |= {name.replace(".export", "train").replace("jsonl", "tar") for name in markers}
    assert len(kept) == len(markers) * (4 if kind == "imagefolder" else 2)
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}

    export_dataset(tmp_path / "ds", kind, tmp_path / "fresh")
    assert contents(target) == contents(tmp_path / "fresh")
    if kind == "imagefolder":
        images = {Path(name).stem: content for name, content in contents(target).items() if name.endswith(".jpg")}
        assert images == {key: row["image"]["bytes"] for key, row in rows.items()}
    again = export_dataset(tmp_path / "ds", kind, target)
    assert again["shards_written"] == 0 and snapshot(target) == after


def test_an_image_folder_killed_before_its_metadata_gets_it_next_time(small_dataset: Path, tmp_path: Path):
    export_dataset(small_dataset, "imagefolder", tmp_path / "images")
    whole = contents(tmp_path / "images")
    (tmp_path / "images/metadata.jsonl").unlink()
    assert export_dataset(small_dataset, "imagefolder", tmp_path / "images")["shards_written"] == 0
    assert contents(tmp_path / "images") == whole


@pytest.mark.parametrize("kind", KINDS)
def test_an_unfinished_dataset_is_exported_as_far_as_it_goes(dataset: Path, tmp_path: Path, cli: CliRun, kind: str):
    handle = open_dataset(dataset)
    later = [handle.manifest_path(handle.plan.shard(i)) for i in (0, 2)]
    for path in later:
        path.rename(path.with_suffix(".later"))
    done = cli("export", dataset, "--format", kind, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "warning: 2 of 4 shards are not generated yet" in done.stderr
    assert "8 images, 2 shards written, 0 there before, 2 missing" in done.stdout
    before = snapshot(tmp_path / "out")
    for path in later:
        path.with_suffix(".later").rename(path)
    done = cli("export", dataset, "--format", kind, "--out", tmp_path / "out")
    assert "20 images, 2 shards written, 2 there before, 0 missing" in done.stdout and "warning" not in done.stderr
    after = snapshot(tmp_path / "out")
    assert {name for name in before if before[name] != after.get(name)} <= {"metadata.jsonl"}
    export_dataset(dataset, kind, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_that_was_generated_again_with_other_bytes_replaces_its_export(tmp_path: Path, kind: str):
    noise = make_dataset(tmp_path / "ds", images_per_class=1, shard_size=4)
    export_dataset(tmp_path / "ds", kind, tmp_path / "out")
    write_noise(noise, 1, pixels=16)
    assert export_dataset(tmp_path / "ds", kind, tmp_path / "out")["shards_written"] == 1
    export_dataset(tmp_path / "ds", kind, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_tar_that_was_deleted_or_cut_short_is_written_again(small_dataset: Path, tmp_path: Path):
    export_dataset(small_dataset, "webdataset", tmp_path / "tars")
    whole = contents(tmp_path / "tars")
    (tmp_path / "tars/train-r000-00001.tar").unlink()
    os.truncate(tmp_path / "tars/train-r000-00002.tar", 1000)
    (tmp_path / "tars/.export-r000-00003.jsonl").write_text("{")
    assert export_dataset(small_dataset, "webdataset", tmp_path / "tars")["shards_written"] == 3
    assert contents(tmp_path / "tars") == whole


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_were_deleted_or_overwritten_are_written_again(
    small_dataset: Path, tmp_path: Path, cli: CliRun, kind: str
):
    """Run again after losses, an export once said "4 there before, 0 missing"."""
    target = tmp_path / "out"
    export_dataset(small_dataset, kind, target)
    whole = snapshot(target)
    files = [target / name for name in whole if name.endswith((".jpg", ".tar"))]
    first, second = files[0], files[-1]
    first.unlink()
    second.write_bytes(b"short")
    done = cli("export", small_dataset, "--format", kind, "--out", target)
    assert done.returncode == 0, done.stderr
    assert "2 shards written (2 of them again: files were gone or changed), 2 there before, 0 missing" in done.stdout
    assert contents(target) == {name: content for name, (_, content) in whole.items()}
    assert "4 there before" in cli("export", small_dataset, "--format", kind, "--out", target).stdout

    size = second.stat().st_size
    second.write_bytes(bytes(size))  # same size, other content: only reading tells
    assert export_dataset(small_dataset, kind, target)["shards_written"] == 0
    summary = export_dataset(small_dataset, kind, target, verify=True)
    assert (summary["shards_written"], summary["shards_restored"], summary["shards_skipped"]) == (1, 1, 3)
    assert contents(target) == {name: content for name, (_, content) in whole.items()}
    before = snapshot(target)
    assert export_dataset(small_dataset, kind, target, verify=True)["shards_skipped"] == 4
    assert snapshot(target) == before


def test_metadata_that_was_cut_short_is_written_again(small_dataset: Path, tmp_path: Path):
    export_dataset(small_dataset, "imagefolder", tmp_path / "images")
    whole = contents(tmp_path / "images")
    os.truncate(tmp_path / "images/metadata.jsonl", 100)
    assert export_dataset(small_dataset, "imagefolder", tmp_path / "images")["shards_skipped"] == 4
    assert contents(tmp_path / "images") == whole


@pytest.mark.parametrize("file", ["metadata.jsonl", ".export-r000-00001.jsonl"])
def test_metadata_of_the_right_size_is_compared_when_asked_for(small_dataset: Path, tmp_path: Path, file: str):
    export_dataset(small_dataset, "imagefolder", tmp_path / "images")
    path = tmp_path / "images" / file
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"embedded"', b'"imbedded"'))
    changed = path.read_bytes()
    assert changed != good
    export_dataset(small_dataset, "imagefolder", tmp_path / "images")
    assert path.read_bytes() == changed
    summary = export_dataset(small_dataset, "imagefolder", tmp_path / "images", verify=True)
    assert path.read_bytes() == good
    assert summary["shards_restored"] == (file != "metadata.jsonl")


def test_an_image_folder_of_before_its_sizes_were_kept_is_written_once_more(small_dataset: Path, tmp_path: Path):
    export_dataset(small_dataset, "imagefolder", tmp_path / "images")
    whole = contents(tmp_path / "images")
    for marker in (tmp_path / "images").glob(".export-*"):
        first, rest = marker.read_text().split("\n", 1)
        said = {key: value for key, value in json.loads(first).items() if key != "sizes"}
        marker.write_text(json.dumps(said) + "\n" + rest)
    summary = export_dataset(small_dataset, "imagefolder", tmp_path / "images")
    assert (summary["shards_written"], summary["shards_restored"]) == (4, 0)
    assert contents(tmp_path / "images") == whole


@pytest.mark.parametrize("other", ["dataset", "format", "files", "file"])
def test_a_target_that_holds_something_else_is_refused_and_left_alone(
    small_dataset: Path, tmp_path: Path, cli: CliRun, other: str
):
    target = tmp_path / "out"
    if other == "dataset":
        make_dataset(tmp_path / "ds", images_per_class=1, shard_size=4, seed=7)
        export_dataset(tmp_path / "ds", "imagefolder", target)
        expected = ["scale 7.5, seed 7 as imagefolder", "scale 2, seed 0 as imagefolder"]
    elif other == "format":
        export_dataset(small_dataset, "webdataset", target)
        expected = ["as webdataset", "as imagefolder"]
    elif other == "files":
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
        expected = ["thesis.txt", "new or an empty folder"]
    else:
        target.write_text("years of work")
        expected = ["is no folder"]
    before = snapshot(tmp_path)
    done = cli("export", small_dataset, "--format", "imagefolder", "--out", target)
    assert done.returncode == 1 and "Traceback" not in done.stderr and str(target) in done.stderr
    for text in expected:
        assert text in done.stderr
    assert snapshot(tmp_path) == before


def test_two_exports_do_not_write_to_one_folder_at_a_time(small_dataset: Path, tmp_path: Path):
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(ImagenetSDError, match="another export is writing"):
        export_dataset(small_dataset, "webdataset", tmp_path)
    os.close(folder)
    assert export_dataset(small_dataset, "webdataset", tmp_path)["shards_written"] == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"image_id": "../../evil"},
        {"wnid": "../.."},
        {"wnid": "/tmp"},
        {"image_id": "n13742358_000001\n"},
        {"label": 99},
        {"jpeg": b"<html>"},
        {"jpeg": None},
        {"guidance_scale": float("nan")},
    ],
    ids=repr,
)
def test_rows_that_are_not_the_plans_never_reach_the_disk(tmp_path: Path, kind: str, changes: dict):
    write_noise(make_dataset(tmp_path / "ds", images_per_class=1, shard_size=5), 1, **changes)
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"train-00001-of-00002\.parquet: row 0: "):
        export_dataset(tmp_path / "ds", kind, tmp_path / "a/b/out")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["out"]
    written = contents(tmp_path / "a/b/out")
    assert not [name for name in written if "evil" in name or name.endswith(".tmp")]
    assert ".export-r000-00000.jsonl" in written and ".export-r000-00001.jsonl" not in written


@pytest.mark.parametrize("wnid", ["../../n0", "/n0", ".n0", "n0\n", ""])
def test_class_ids_of_the_plan_that_are_paths_are_refused(tmp_path: Path, wnid: str):
    make_dataset(tmp_path / "ds", images_per_class=1, shard_size=5)
    document = json.loads((tmp_path / "ds/dataset.json").read_text())
    document["classes"][0]["wnid"] = wnid
    document["fingerprint"] = fingerprint(document)
    (tmp_path / "ds/dataset.json").write_text(json.dumps(document))
    with pytest.raises(ImagenetSDError, match=r"class id|lists a class"):
        export_dataset(tmp_path / "ds", "imagefolder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_shard_is_one_line_that_names_it(dataset: Path, tmp_path: Path, cli: CliRun, kind: str):
    handle = open_dataset(dataset)
    path = handle.shard_path(handle.plan.shard(2))
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
    done = cli("export", dataset, "--format", kind, "--out", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: {path}: is damaged" in done.stderr and "hint: run `imagenet-sd verify --repair`" in done.stderr
    path.write_bytes(good)
    done = cli("export", dataset, "--format", kind, "--out", tmp_path / "out")
    assert done.returncode == 0 and "2 shards written, 2 there before" in done.stdout


def test_damage_that_the_manifest_does_not_know_is_found_by_reading(dataset: Path, tmp_path: Path):
    """Page checksums, the columns' types, the number of rows: with a manifest that fits the bytes."""
    handle = open_dataset(dataset)
    path = handle.shard_path(handle.plan.shard(1))
    good, table = path.read_bytes(), pq.read_table(path)

    def refused() -> str:
        rewrite_manifest(handle, 1)
        with pytest.raises(DatasetError, match=r"train-00001-of-00004\.parquet") as error:
            export_dataset(dataset, "webdataset", tmp_path / "out")
        assert not (tmp_path / "out/train-r000-00001.tar").exists()
        return str(error.value)

    chunk = pq.read_metadata(path).row_group(0).column(0)
    at = chunk.data_page_offset + chunk.total_compressed_size - 8
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    assert "unreadable after row 0" in refused()
    path.write_bytes(good[:500])
    assert "unreadable after row 0" in refused()
    pq.write_table(table.slice(0, 4), path)
    assert "4 rows instead of 6" in refused()
    pq.write_table(pa.concat_tables([table, table]), path)
    assert "more rows than the 6" in refused()
    pq.write_table(table.set_column(4, "prompt", table["prompt"].cast(pa.binary())), path)
    assert "of another type" in refused()
    pq.write_table(table.drop_columns(["seed"]), path)
    assert "columns are" in refused()
    path.unlink()
    with pytest.raises(DatasetError, match=r"train-00001-of-00004\.parquet: unreadable"):
        export_dataset(dataset, "webdataset", tmp_path / "out")


def test_a_shard_of_another_plan_is_refused_by_name(dataset: Path, tmp_path: Path):
    handle = open_dataset(dataset)
    path = handle.manifest_path(handle.plan.shard(3))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 32}))
    with pytest.raises(DatasetError, match=r"train-00003-of-00004\.parquet: belongs to another plan"):
        export_dataset(dataset, "webdataset", tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_memory_holds_one_row_group_at_a_time(tmp_path: Path, kind: str):
    """Arrow's own count of its peak: of ten row groups of 100 images, fewer than three."""
    make_dataset(tmp_path / "ds", pixels=64, images_per_class=100, shard_size=1000)
    size = sum(len(row["image"]["bytes"]) for row in parquet_rows(tmp_path / "ds").values())
    program = (
        "import sys, pathlib, pyarrow, imagenet_sd.pipeline as pipeline;"
        "pipeline.export_dataset(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]));"
        "print(pyarrow.default_memory_pool().max_memory())"
    )
    command = [sys.executable, "-c", program, tmp_path / "ds", kind, tmp_path / "out"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0 < peak < 0.3 * size
