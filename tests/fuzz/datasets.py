"""Datasets, their shards and exports, and the folders of generators: how they are made, mutated and read."""

import io
import json
import random
import shutil
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagenet_sd.core.errors import ModelError
from imagenet_sd.data.open import open_images
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.schedulers import scheduler_class, steps_warning
from imagenet_sd.generation.estimate import estimate_time
from imagenet_sd.generation.models import EMBEDDED_FOLDER, ModelIdentity, offline_identity, scheduler_config
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.generation.tokenizers import model_tokenizers
from imagenet_sd.generation.workers.status import status
from imagenet_sd.report.collect import collect
from imagenet_sd.report.gallery import write_gallery
from imagenet_sd.storage.card import dataset_card
from imagenet_sd.storage.dataset import Dataset, fingerprint
from imagenet_sd.storage.export import ExportTarget
from imagenet_sd.storage.schema import Row, planned_columns
from imagenet_sd.storage.verify import verify_dataset
from imagenet_sd.storage.writer import write_shard
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_value
from tests.fuzz.run import Format
from tests.fuzz.samples import encoded, read_all


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


DATASETS: dict[str, Format] = {
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
    "pipeline folder": Format(make=make_model, files=dict.fromkeys(MODEL_FILES, mutate_json), read=read_model),
}  # fmt: skip
