"""Flagging: a real safety checker of random weights, its thresholds set so that some images pass and some do not."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from imagenet_sd.core.errors import ModelError, PlanError
from imagenet_sd.core.files import read_json
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.diffusion.safety import SafetyChecker
from imagenet_sd.generation.models import EMBEDDED_FOLDER, folder_hash, identify
from imagenet_sd.generation.plan import difference, make_plan
from imagenet_sd.generation.weights import fetch
from imagenet_sd.generation.worker import make_worker
from imagenet_sd.pipeline import export_dataset, open_dataset
from imagenet_sd.storage.schema import COLUMNS, Row, to_table
from imagenet_sd.storage.verify import verify_dataset
from tests.conftest import SMALL, CliRun

CPU = torch.device("cpu")


def embed(model: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, images: list[Image.Image]):
    seen = processor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        embedded = model.visual_projection(model.vision_model(seen)[1])
    return torch.nn.functional.normalize(embedded)


def small(folder: Path) -> list[object]:
    """The small dataset's arguments, for a model of this folder."""
    return [*(folder if word == "embedded" else word for word in SMALL), "--size", "32x32"]


@pytest.fixture(scope="module")
def generated_rows(small_dataset: Path) -> list[dict]:
    paths = sorted(small_dataset.glob("data/*/*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def model_folder(generated_rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a safety checker, laid out as in Stable Diffusion's own repository."""
    import io

    folder = Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path_factory.mktemp("models") / "checked"))
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16)).eval()
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    embedded = embed(checker, processor, [Image.open(io.BytesIO(row["image"]["bytes"])) for row in generated_rows])
    with torch.no_grad():
        for weights in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
            weights.fill_(2.0)  # no cosine reaches it
        # A concept that tells these images apart: their main direction, with a threshold in their midst.
        direction = torch.linalg.svd(embedded - embedded.mean(0)).Vh[0]
        checker.concept_embeds[0] = direction
        checker.concept_embeds_weights[0] = (embedded @ direction).quantile(0.6)
    checker.save_pretrained(folder / "safety_checker")
    processor.save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def runs(model_folder: Path, cli: CliRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(flagged, unflagged): the same plan, once with --flag-nsfw."""
    base = tmp_path_factory.mktemp("runs")
    arguments = small(model_folder)
    for name, options in (("flagged", ["--flag-nsfw"]), ("plain", [])):
        done = cli(*arguments, *options, "--out", base / name)
        assert done.returncode == 0, done.stderr
        assert "black image" not in done.stderr
    return base / "flagged", base / "plain"


def rows_of(out: Path) -> list[dict]:
    return [row for path in sorted(out.glob("data/*/*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
def test_an_export_keeps_the_flags(runs: tuple[Path, Path], tmp_path: Path, kind: str):
    export_dataset(runs[0], kind, tmp_path)
    if kind == "imagefolder":
        exported = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    else:
        exported = []
        for path in sorted(tmp_path.glob("*.tar")):
            with tarfile.open(path) as tar:
                exported += [json.load(tar.extractfile(m)) for m in tar.getmembers() if m.name.endswith(".json")]
    assert [(row["image_id"], row["nsfw"]) for row in exported] == [
        (r["image_id"], r["nsfw"]) for r in rows_of(runs[0])
    ]


def test_flags_are_those_of_the_checker_and_no_image_is_touched(runs: tuple[Path, Path], model_folder: Path):
    flagged, plain = map(rows_of, runs)
    assert tuple(flagged[0]) == (*COLUMNS, "nsfw")
    assert tuple(plain[0]) == COLUMNS
    assert [{k: v for k, v in row.items() if k != "nsfw"} for row in flagged] == plain  # JPEG bytes among them

    checker = StableDiffusionSafetyChecker.from_pretrained(model_folder / "safety_checker")
    processor = CLIPImageProcessor.from_pretrained(model_folder / "feature_extractor")
    dataset = open_dataset(runs[0])
    plan, generator = dataset.plan, make_worker(dataset).generator
    expected = []
    for shard in plan.shards():
        requests = plan.requests(shard)
        for start in range(0, len(requests), 4):
            pixels = generator.generate(requests[start : start + 4])
            seen = processor([Image.fromarray(image) for image in pixels], return_tensors="pt").pixel_values
            expected += checker(clip_input=seen, images=pixels.copy())[1]
    assert [row["nsfw"] for row in flagged] == expected
    assert 3 <= sum(expected) <= 17


def test_the_checker_leaves_the_pixels_alone(model_folder: Path):
    checker = SafetyChecker.load(model_folder, CPU)
    with torch.no_grad():
        checker.model.concept_embeds_weights.fill_(-2.0)  # everything is unsafe
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    before = pixels.copy()
    assert checker.flags(pixels) == [True, True, True]
    assert np.array_equal(pixels, before)


def test_the_checker_is_part_of_the_plan(runs: tuple[Path, Path], model_folder: Path, cli: CliRun):
    flagged, plain = (read_json(out / "dataset.json") for out in runs)
    checker = {"model_id": "checked", "revision": "", "weights_sha256": folder_hash(model_folder / "safety_checker")}
    assert flagged["settings"] == plain["settings"] | {"nsfw_checker": checker}
    assert flagged["fingerprint"] != plain["fingerprint"]
    assert difference(plain, flagged) == [f"nsfw_checker: None there, {checker} asked for"]
    arguments = small(model_folder)
    refused = cli(*arguments, "--out", runs[0])
    assert refused.returncode == 1
    assert "nsfw_checker: {'model_id': 'checked'" in refused.stderr and "there, None asked for" in refused.stderr


def test_datasets_reads_the_column_as_a_truth_value(runs: tuple[Path, Path], tmp_path: Path):
    from datasets import Value, load_dataset

    loaded = load_dataset(str(runs[0]), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["nsfw"] == Value("bool")
    assert loaded["nsfw"][:] == [row["nsfw"] for row in rows_of(runs[0])]


def test_verify_accepts_the_column_and_finds_a_gap_in_it(runs: tuple[Path, Path], tmp_path: Path, cli: CliRun):
    done = cli("verify", runs[0])
    assert done.returncode == 0, done.stdout
    out = Path(shutil.copytree(runs[0], tmp_path / "copy"))
    path = min(out.glob("data/*/*.parquet"))
    table = pq.read_table(path)
    gap = pa.array([None, *table["nsfw"].to_pylist()[1:]], pa.bool_())
    pq.write_table(table.set_column(len(COLUMNS), "nsfw", gap), path)
    faults = [fault.message for fault in verify_dataset(open_dataset(out))]
    assert len(faults) == 1 and "row 0: nsfw is None" in faults[0]
    pq.write_table(table.append_column("more", gap), path)
    faults = [fault.message for fault in verify_dataset(open_dataset(out))]
    assert len(faults) == 1 and "columns are" in faults[0]


def test_a_shard_is_flagged_whole_or_not_at_all():
    values = dict.fromkeys(["wnid", "image_id", "prompt", "template", "background", "model_id"], "x")
    rows = [
        Row(jpeg=b"", label=0, seed=0, guidance_scale=2.0, num_inference_steps=5, nsfw=flag, **values)
        for flag in (True, None)
    ]
    with pytest.raises(AssertionError, match="flagged whole"):
        to_table(rows, ["x"])


def test_a_model_without_a_checker_is_refused_at_planning(tmp_path: Path, cli: CliRun):
    for dry in ([], ["--dry-run"]):
        done = cli(*SMALL, "--flag-nsfw", "--out", tmp_path / "out", *dry)
        assert done.returncode == 1
        error, hint = done.stderr.splitlines()
        assert error == "error: model 'embedded' has no safety checker that --flag-nsfw could ask"
        assert "leave out --flag-nsfw" in hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lost", ["safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json"])
def test_half_a_checker_is_none(model_folder: Path, tmp_path: Path, lost: str):
    folder = Path(shutil.copytree(model_folder, tmp_path / "half"))
    (folder / lost).rename(folder / lost.replace("model.safetensors", "pytorch_model.bin").replace(".json", ".txt"))
    config = GenerationConfig(model=str(folder), flag_nsfw=True, classes="digits-10")
    with pytest.raises(PlanError, match="has no safety checker"):
        identify(config)
    with pytest.raises(PlanError, match="has no safety checker"):
        make_plan(config, identify(GenerationConfig(model=str(folder))))


def test_without_flags_the_weights_of_the_checker_are_not_needed(model_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "light"))
    (folder / "safety_checker" / "model.safetensors").unlink()
    pipeline = load_pipeline(fetch(str(folder), identify(GenerationConfig(model=str(folder)))), torch.float32, CPU)
    assert pipeline.safety_checker is None


def test_a_checker_with_weights_missing_is_refused(model_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "holes"))
    path = folder / "safety_checker" / "model.safetensors"
    weights = load_file(path)
    del weights["concept_embeds_weights"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights, such as concept_embeds_weights"):
        SafetyChecker.load(folder, CPU)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelError, match="has no usable safety checker"):
        SafetyChecker.load(folder, CPU)
