"""Every format that the package reads from a user's disk: sound files of it, how they are mutated, and the readers.

Left out: files that are compared with a known SHA-256 before they are read (WordNet, the photographs, their cache), and
the shipped data.
"""

import io
import json
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from imagenet_sd.core.errors import ImagenetSDError, ModelError
from imagenet_sd.core.specs import DataSpec, EncoderSpec
from imagenet_sd.core.typed import read_setting, to_mapping
from imagenet_sd.data import transfer
from imagenet_sd.data.cog import read_counts
from imagenet_sd.data.cog_lists import open_level
from imagenet_sd.data.images import ImageSet, LabelledImage
from imagenet_sd.data.matfile import mat_json, parse_output
from imagenet_sd.data.open import open_images
from imagenet_sd.data.transfer import open_transfer
from imagenet_sd.evaluation.encoders import load_checkpoint as load_encoder
from imagenet_sd.evaluation.features import _read_part
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.schedulers import scheduler_class, steps_warning
from imagenet_sd.generation.estimate import estimate_time
from imagenet_sd.generation.models import EMBEDDED_FOLDER, ModelIdentity, offline_identity, scheduler_config
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.generation.tokenizers import model_tokenizers
from imagenet_sd.generation.workers.status import status
from imagenet_sd.pipeline import train
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.lint import lint_classes
from imagenet_sd.prompts.templates import load_templates
from imagenet_sd.prompts.tokens import folder_tokenizer
from imagenet_sd.report.collect import collect
from imagenet_sd.report.gallery import write_gallery
from imagenet_sd.storage.card import dataset_card
from imagenet_sd.storage.dataset import Dataset, fingerprint
from imagenet_sd.storage.export import ExportTarget
from imagenet_sd.storage.schema import Row, planned_columns
from imagenet_sd.storage.verify import verify_dataset
from imagenet_sd.storage.writer import write_shard
from imagenet_sd.study import expand, load_study
from imagenet_sd.study.planner import read_stamp
from imagenet_sd.training.checkpoint import load_checkpoint, save_checkpoint
from imagenet_sd.training.export import load_run
from imagenet_sd.training.recipes import load_train_config, read_description
from imagenet_sd.training.run import _agree, read_result
from imagenet_sd.training.runlog import read_metrics
from tests.data import test_transfer as layouts
from tests.fuzz.mutate import _VALUES, mutate_bytes, mutate_json, mutate_safetensors, mutate_value, mutate_yaml
from tests.fuzz.run import Format
from tests.prompts.samples import save_t5

ROOT = Path(__file__).resolve().parents[2]


def encoded(kind: str, **options: Any) -> bytes:
    """A small image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Makes one file."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def each(*reads: Callable[[], object]) -> None:
    """Call all; the first refusal is raised at the end."""
    refusals = []
    for read in reads:
        try:
            read()
        except ImagenetSDError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _count_tokens(folder: Path) -> None:
    tokenizer = folder_tokenizer(folder, "T5", 12)
    for text in ("", "a dog", "Ünknown wörds 日本", "a dog on a lawn " * 5):
        tokenizer.count(text)
        tokenizer.lost(text)


def read_all(images: ImageSet, groups: int = 3) -> None:
    """Decode the first groups of a set, as training and evaluation do: what cannot be decoded is counted there."""
    for group in range(min(groups, len(images.group_sizes))):
        for record in images.read_group(group):
            assert 0 <= record.label < len(images.classes)
            try:
                record.decode()
            except OSError:
                continue


# Datasets


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    config = GenerationConfig(model="embedded", images_per_class=2, shard_size=12, num_inference_steps=5)
    return make_plan(config, offline_identity(config))[1]


def make_dataset(folder: Path) -> None:
    """A dataset of two shards and ten classes, with what its workers leave."""
    dataset = Dataset.from_document(folder, _document())
    dataset.write_description()
    for shard in dataset.plan.shards():
        rows = [
            Row(
                jpeg=encoded("JPEG"),
                guidance_scale=2.0,
                num_inference_steps=5,
                model_id="embedded",
                **planned_columns(r),
            )
            for r in dataset.plan.requests(shard)
        ]
        write_shard(dataset, shard, rows, {"seconds": 1.0})
    for name, value in {
        "events/w.jsonl": {"time": 1.5, "event": "start", "worker": "w", "pid": 1},
        "failed/000-00001.json": {"error": "no memory"},
        "leases/000-00001.lease": {"machine": "m", "pid": 1},
    }.items():
        (folder / ".work" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / ".work" / name).write_text(json.dumps(value))


def read_dataset(folder: Path) -> None:
    """Status, verification, card, report, and the images."""
    dataset = Dataset.open(folder)
    status(dataset)
    dataset_card(dataset.document)
    [dataset.is_done(dataset.plan.shard(i)) for i in range(min(3, dataset.plan.num_shards))]
    collect([folder])
    read_all(open_images(str(folder)))


def mutate_signed(data: bytes, rng: random.Random) -> bytes:
    """Other settings and classes with a fingerprint that fits: what a stranger's dataset.json may hold."""
    document = json.loads(data)
    key = rng.choice(["settings", "classes"])
    document[key] = mutate_value(document[key], rng)
    return json.dumps(document | {"fingerprint": fingerprint(document)}).encode()


def read_unbegun(folder: Path) -> None:
    """What is done before there are shards: status, card, prompts, the start of an export, the gallery."""
    shutil.rmtree(folder / "target", ignore_errors=True)
    dataset = Dataset.open(folder)
    status(dataset)
    dataset_card(dataset.document)
    [request.prompt.text for request in dataset.plan.requests(dataset.plan.shard(0))]
    with ExportTarget(dataset, "imagefolder", folder / "target").claimed():
        pass
    write_gallery(dataset, folder / "g.html", folder / "g.png", 2)


MODEL_FILES = ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json")


def make_model(folder: Path) -> None:
    """The configuration of a pipeline without its weights."""
    for name in MODEL_FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(EMBEDDED_FOLDER / name, folder / name)


def read_model(folder: Path) -> None:
    """What a dry run works out of it."""
    config = GenerationConfig(model=str(folder), classes="digits-10", num_inference_steps=7)
    plan, document = make_plan(config, ModelIdentity(model_id="x"))
    scheduler = scheduler_config(config)
    steps_warning(scheduler, "", 7, 7.5)
    estimate_time(plan, document["settings"], str(folder), scheduler_class(scheduler, ""))
    with suppress(ModelError):  # it has no tokenizer
        model_tokenizers(config)


def read_shards(folder: Path) -> None:
    """Verification, gallery and images."""
    dataset = Dataset.open(folder)
    verify_dataset(dataset)
    read_all(open_images(f"parquet:{folder / 'data'}"))
    write_gallery(dataset, folder / "g.html", folder / "g.png", 2)


def export_dataset(folder: Path, kind: str) -> None:
    """Export, or look at what is exported."""
    target = ExportTarget(Dataset.open(folder / "dataset"), kind, folder / "target")
    with target.claimed():
        for shard in target.survey()["todo"]:
            target.export(shard)
        target.finish()


def make_export(folder: Path) -> None:
    """A dataset and its export to tars."""
    make_dataset(folder / "dataset")
    export_dataset(folder, "webdataset")


def parquet(folder: Path) -> None:
    """A Parquet file with Hugging Face's features."""
    (folder / "x.parquet").write_bytes(_parquet_bytes(random.Random(0), sound=True))


def _parquet_bytes(rng: random.Random, sound: bool = False) -> bytes:
    features: Any = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    columns: dict[str, Any] = {
        "image": [{"bytes": encoded("PNG"), "path": "x.png"}] * 4, "label": [0, 1, 0, 1], "image_id": list("abcd"),
    }  # fmt: skip
    if not sound:
        features = mutate_value(features, rng) if rng.random() < 0.5 else features
        cells = [
            None,
            b"",
            b"x",
            "x",
            -1,
            10**15,
            0.5,
            True,
            [1],
            {"bytes": None},
            {"bytes": b"", "path": None},
            {"path": "x"},
        ]
        for _ in range(rng.randint(1, 3)):
            name = rng.choice(list(columns))
            kind = rng.randrange(4)
            if kind == 0:
                columns[name] = [rng.choice(cells)] * 4
            elif kind == 1:
                columns[name] = [rng.choice([columns[name][0], None]) for _ in range(4)]
            elif kind == 2 and len(columns) > 1:
                del columns[name]
            else:
                columns[rng.choice(["x", "label", "image", "image_id"])] = [rng.choice(cells)] * 4
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, row_group_size=rng.choice([1, 2, 100]), compression=rng.choice(["zstd", "none", "snappy"])
    )
    return buffer.getvalue()


def mutate_parquet(data: bytes, rng: random.Random) -> bytes:
    """Half of the time another table, else the bytes, those of the footer more often."""
    kind = rng.randrange(4)
    if kind < 2:
        try:
            return _parquet_bytes(rng)
        except (pa.ArrowException, TypeError, ValueError, UnicodeError):
            kind = 2
    footer = int.from_bytes(data[-8:-4], "little") + 8
    if kind == 2:
        return mutate_bytes(data, rng)
    changed = mutate_bytes(data[-footer:-8], rng)
    return data[:-footer] + changed + len(changed).to_bytes(4, "little") + b"PAR1"


# Runs, encoders, features

TINY_RUN = ["optimizer.epochs=1", "optimizer.warmup_epochs=0", "optimizer.batch_size=20", "model.backbone=test_resnet",
            "model.small_images=false"]  # fmt: skip


def make_run(folder: Path) -> None:
    """A finished run."""
    config = load_train_config("small", TINY_RUN)
    train(config, "builtin:faces@per_class=10", folder, validation="builtin:faces@per_class=5", log_with="none")


def read_run(folder: Path) -> None:
    """As `evaluate`, `report` and a second `train` read it."""
    each(
        lambda: load_run(folder),
        lambda: collect([folder]),
        lambda: read_metrics(folder / "metrics.jsonl"),
        lambda: _agree(folder, read_description(folder)),
        lambda: read_result(folder),
    )


def _model() -> tuple[dict[str, torch.nn.Module], torch.optim.Optimizer]:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"model": module}, optimizer


def make_checkpoint(folder: Path) -> None:
    """A checkpoint of training."""
    save_checkpoint(folder / "c.safetensors", *_model(), {"epoch": 1, "step": 0, "bad_images": 0})


def read_checkpoint(folder: Path) -> None:
    """Put it back, and count on from its counters."""
    counters = load_checkpoint(folder / "c.safetensors", *_model())
    assert all(isinstance(counters[name], int) and counters[name] >= 0 for name in ("epoch", "step", "bad_images"))


def _weights() -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}


def make_pth(folder: Path) -> None:
    """Weights as torch saves them."""
    torch.save({"state_dict": _weights(), "epoch": 1}, folder / "c.pth")


def mutate_pth(data: bytes, rng: random.Random) -> bytes:
    """Half of the time another object, else the bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    leaf = rng.choice([torch.zeros(2, 3), torch.zeros(0), torch.zeros(2, dtype=torch.int8), torch.zeros(2).to_sparse()])
    weights: Any = {rng.choice(["weight", "module.weight", "", 0, None, ("a",)]): leaf, "bias": torch.zeros(2)}
    value = rng.choice([weights, [weights], leaf, {"state_dict": weights}, {"model": {"state_dict": [leaf]}}, *_VALUES])
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    return buffer.getvalue()


def read_features(folder: Path) -> None:
    """A part of the cache: whole, or None."""
    part = _read_part(folder / "part.safetensors", "features", "labels", "digests")
    assert part is None or len(part["features"]) == len(part["labels"]) == len(part["digests"])


def make_features(folder: Path) -> None:
    """A part of the cache."""
    tensors = {"features": torch.zeros(4, 3), "labels": torch.zeros(4, dtype=torch.int64)}
    tensors |= {"digests": torch.zeros(4, dtype=torch.uint64)}
    save_file(tensors, folder / "part.safetensors", {"unreadable": "[]"})


# Real data


def read_mat_forked(path: Path) -> dict[str, Any]:
    """`read_mat` with a fork in the place of a new process, a hundred times as fast."""
    if not path.is_file():
        raise FileNotFoundError(2, "missing", str(path))
    reading, writing = os.pipe()
    if not (child := os.fork()):
        code = 1
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


# Documents

TSV = "id\tname\tdefinition\thypernym\nb2\tnasi goreng\ta dish of fried rice\trice\na1\tred widget\ta thing\twidget\n"
STUDY = {
    "name": "s", "paths": {"x": "/nowhere"}, "generate": {"model": "embedded", "guidance_scale": 2},
    "train": {"recipe": "small", "validation": "builtin:mnist", "optimizer": {"epochs": 1}},
    "evaluate": [{"suite": "transfer", "probe": "knn", "data": {"d": "builtin:digits"}}],
    "grid": [{"generate.guidance_scale": [1, 2], "star": {"train.optimizer.base_lr": [0.1]}}],
}  # fmt: skip
RESULTS = {
    "encoder": "r", "suite": "transfer", "encoder_fingerprints": ["0"], "versions": {"torch": "2"},
    "results": [
        {"dataset": "d", "split": "test", "probe": "knn", "top1": 0.5, "top1_interval": [0.4, 0.6], "num_test": 10,
         "seeds": [0], "hyper_parameters": [{"k": 1}], "per_class": {"a": 0.5}, "unreadable": []},
        {"dataset": "d", "split": "test", "probe": "analysis", "sparsity": 0.1, "intra_class_distance": 1.0,
         "redundancy": 0.1, "coding_length": 3.0, "coding_length_per_sample": 0.1, "singular_values": [1.0]},
    ],
}  # fmt: skip
CELLS = {
    "name": "s", "machine": "m", "cells": [
        {"id": "a", "factors": {"prompt": "c", "guidance_scale": 2.0, "seed": 0}, "images": 10, "epochs": 1,
         "results": ["results.json"], "metrics": {"d/test": {"top1": 0.5}}}
    ],
}  # fmt: skip
LIST = "n01440764\n# a comment\nn02086910  # another\n"


def make_report(folder: Path) -> None:
    """A study and the results that it names."""
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "study.json").write_text(json.dumps(CELLS))


def make_targets(folder: Path) -> None:
    """A table of targets, and its images."""
    lines = [f"{split}.png\t{number}.5\t{split}\n" for number, split in enumerate(("train", "test"))]
    (folder / "t.tsv").write_text("path\tx\tsplit\n" + "".join(lines))
    for split in ("train", "test"):
        (folder / f"{split}.png").write_bytes(encoded("PNG"))


def read_specs(folder: Path) -> None:
    """What a command line takes: data, encoders, settings."""
    text = (folder / "specs.txt").read_bytes().decode(errors="replace")
    for line in text.split("\n")[:20]:
        for parse in (DataSpec.parse, EncoderSpec.parse_ensemble, read_setting):
            with suppress(ImagenetSDError):
                parse(line)


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
FORMATS: dict[str, Format] = {
    "class list": Format(
        make=write("c.txt", LIST), files={"c.txt": mutate_bytes}, read=lambda f: load_classes(str(f / "c.txt"))
    ),
    "class table": Format(
        make=write("c.tsv", TSV), files={"c.tsv": mutate_bytes},
        read=lambda f: lint_classes(load_classes(str(f / "c.tsv"))),
    ),
    "templates": Format(
        make=write("t.yaml", 'sketch: "a sketch of a {name}"\nboth: "{name}, {hypernym} inside {background}"\n'),
        files={"t.yaml": mutate_yaml}, read=lambda f: load_templates(f / "t.yaml"),
    ),
    "tokenizer": Format(
        make=save_t5, files={"tokenizer.json": mutate_json}, read=_count_tokens,
    ),
    "study": Format(
        make=write("s.yaml", yaml.safe_dump(STUDY)), files={"s.yaml": mutate_yaml},
        read=lambda f: expand(load_study(f / "s.yaml")),
    ),
    "training recipe": Format(
        make=write("r.yaml", yaml.safe_dump({"base": "small", **to_mapping(load_train_config("small"))})),
        files={"r.yaml": mutate_yaml}, read=lambda f: load_train_config(str(f / "r.yaml")),
    ),
    "run folder": Format(
        make=make_run,
        files={"recipe.yaml": mutate_yaml, "classes.json": mutate_json, "environment.json": mutate_json,
               "metrics.jsonl": mutate_json, "result.json": mutate_json},
        read=read_run,
    ),
    "run weights": Format(
        make=make_run, read=load_run,
        files={"encoder.safetensors": mutate_safetensors, "classifier.safetensors": mutate_safetensors},
    ),
    "training checkpoint": Format(
        make=make_checkpoint, files={"c.safetensors": mutate_safetensors}, read=read_checkpoint
    ),
    "weights, safetensors": Format(
        make=lambda f: save_file(_weights(), f / "c.safetensors"), files={"c.safetensors": mutate_safetensors},
        read=lambda f: load_encoder(torch.nn.Linear(3, 2), f / "c.safetensors"),
    ),
    "weights, pth": Format(
        make=make_pth, files={"c.pth": mutate_pth}, read=lambda f: load_encoder(torch.nn.Linear(3, 2), f / "c.pth")
    ),
    "feature cache": Format(make=make_features, files={"part.safetensors": mutate_safetensors}, read=read_features),
    "dataset folder": Format(
        make=make_dataset, read=read_dataset,
        files={"dataset.json": mutate_json, "data/round-000/.manifests/train-00000.json": mutate_json,
               ".work/events/w.jsonl": mutate_json, ".work/failed/000-00001.json": mutate_json,
               ".work/leases/000-00001.lease": mutate_json},
    ),
    "signed dataset.json": Format(
        make=make_dataset, files={"dataset.json": mutate_signed}, read=read_unbegun
    ),
    "dataset shard": Format(
        make=make_dataset, files={"data/round-000/train-00000-of-00002.parquet": mutate_parquet}, read=read_shards
    ),
    "Parquet file": Format(
        make=parquet, files={"x.parquet": mutate_parquet}, read=lambda f: read_all(open_images(f"parquet:{f}"))
    ),
    "export": Format(
        make=make_export, files={"target/.export.json": mutate_json, "target/.export-r000-00000.jsonl": mutate_json},
        read=partial(export_dataset, kind="webdataset"),
    ),
    "results and studies": Format(
        make=make_report, files={"results.json": mutate_json, "study.json": mutate_json}, read=lambda f: collect([f])
    ),
    "stage stamp": Format(
        make=write("stage.json", json.dumps({"stage": "train", "inputs": "x", "seconds": 1.0, "num_images": 5})),
        files={"stage.json": mutate_json}, read=lambda f: read_stamp(f, "stage.json"),
    ),
    "pipeline folder": Format(make=make_model, files=dict.fromkeys(MODEL_FILES, mutate_json), read=read_model),
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
    "specs": Format(
        make=write("specs.txt", "builtin:mnist@per_class=3\ntimm:resnet18@x.pth+run\nlevels@root@L1\na.b=[1, 2]\n"),
        files={"specs.txt": mutate_bytes}, read=read_specs,
    ),
}  # fmt: skip
FORMATS |= {
    f"image, {suffix}": Format(
        make=write(f"x.{suffix}", content),
        files={f"x.{suffix}": mutate_png if suffix == "png" else mutate_bytes},
        read=partial(read_image, suffix=suffix),
    )
    for suffix, content in IMAGES.items()
}
FORMATS |= {
    f"transfer, {name}": transfer_format(name)
    for name in ("aircraft", "cars196", "cub", "dtd", "flowers", "food101", "inat18", "pets", "sun397", "cifar10")
}
