"""Encoders, features and whole evaluations, on random-weight models of true architectures and real small images."""

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from imagenet_sd.core.results import EvaluationResults
from imagenet_sd.core.specs import DataSpec, EncoderSpec
from imagenet_sd.data.images import ArraySet, FolderSet
from imagenet_sd.data.open import open_images
from imagenet_sd.data.preprocess import MEAN, STD
from imagenet_sd.evaluation import encoders as E
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.features import concatenate, extract
from imagenet_sd.evaluation.suites.imagenet import classify, mean_of
from imagenet_sd.evaluation.suites.probing import aligned
from imagenet_sd.pipeline import evaluate
from tests.conftest import ROOT, CliRun

SCHEMA = EvaluationResults.model_json_schema()
MEASURED = {"dataset", "split", "probe", "num_test", "num_classes", "cache_keys", "unreadable"}
SCORED = MEASURED | {"top1", "top1_sd", "top1_interval", "seeds", "hyper_parameters"}
DIGITS = "builtin:digits@per_class=30"
TINY = EvalConfig(crop_size=32, seeds=(0, 1), trials=2, shots=(1, 4), episodes=3)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder() -> E.Encoder:
    return timm_encoder("timm:resnet10t@random")


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return timm.create_model("resnet18", num_classes=10).state_dict()


def timm_encoder(text: str) -> E.Encoder:
    return E.timm_encoder(EncoderSpec.parse(text))


def renamed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("kind", ["torchvision", "dino", "t-rex", "moco", "moco-v3", "safetensors"])
def test_checkpoints_of_others_load_strictly(resnet, kind: str, tmp_path: Path):
    backbone = {key: value for key, value in resnet.items() if not key.startswith("fc.")}
    heads = {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_g": torch.zeros(2, 1)}
    path = tmp_path / "c.pth"
    if kind == "torchvision":
        torch.save(resnet, path)
    elif kind == "dino":
        torch.save(
            {"teacher": {**renamed(backbone, "module.backbone."), **renamed(heads, "module.")}, "epoch": 3}, path
        )
    elif kind == "t-rex":
        torch.save(
            {"state_dict": {**renamed(backbone, "module.encoder."), "module.projector.0.weight": torch.ones(1)}}, path
        )
    elif kind == "moco":
        torch.save({"state_dict": renamed(backbone, "module.")}, path)
    elif kind == "moco-v3":
        slow = {key: value + 1 for key, value in backbone.items()}
        heads = {"module.base_encoder.fc.0.weight": torch.ones(1), "module.predictor.0.weight": torch.ones(1)}
        state = renamed(backbone, "module.base_encoder.") | renamed(slow, "module.momentum_encoder.") | heads
        torch.save({"state_dict": state}, path)
    else:
        path = tmp_path / "c.safetensors"
        save_file(backbone, path)
    loaded = timm_encoder(f"timm:resnet18@{path}")
    assert all(torch.equal(value, backbone[key]) for key, value in loaded.module.state_dict().items())
    assert loaded.fingerprint == E.weights_hash(loaded.module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), "lacks layer1.0.conv1.weight"),
        (lambda s: s.update({"conv1.weight": torch.zeros(1)}), "has another shape for conv1.weight"),
        (lambda s: s.update({"mystery.weight": torch.zeros(1)}), "has the unknown mystery.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_key(resnet, change, message: str, tmp_path: Path):
    state = dict(resnet)
    change(state)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(EvaluationError, match=message):
        timm_encoder(f"timm:resnet18@{tmp_path}/c.pth")


def test_a_pickle_with_code_in_it_is_never_run(tmp_path: Path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    (tmp_path / "c.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.warns(UserWarning, match="protocol"), pytest.raises(EvaluationError, match="cannot be read as weights"):
        timm_encoder(f"timm:resnet18@{tmp_path}/c.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("spec", ["timm:no_such_model@random", "timm:resnet18@/nowhere.pth"])
def test_missing_models_are_one_line(spec: str):
    with pytest.raises(EvaluationError) as caught:
        timm_encoder(spec)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_features_equal_a_plain_forward_pass_and_come_from_the_cache(encoder, tmp_path: Path):
    images = open_images("builtin:faces", "test")
    found = extract(encoder, images, TINY, tmp_path)
    assert found.data.features.dtype == np.float32 and found.data.features.shape == (100, 512) and not found.from_cache
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.inference_mode():
        expected = encoder.module((pixels - mean) / std).numpy()
    assert np.allclose(found.data.features, expected, atol=1e-4)
    again = extract(encoder, images, TINY, tmp_path)
    assert again.from_cache and np.array_equal(again.data.features, found.data.features)


def test_the_cache_key_covers_all_that_features_depend_on(encoder, tmp_path: Path):
    images = open_images("builtin:faces", "test")
    other = timm_encoder("timm:test_resnet@random")
    changed = ArraySet(images.name, images.images.copy(), images.labels, images.classes)
    changed.images[0, 0, 0, 0] ^= 1
    keys = {
        extract(encoder, images, TINY, tmp_path).cache_key,
        extract(encoder, images, EvalConfig(crop_size=24), tmp_path).cache_key,
        extract(encoder, images, EvalConfig(crop_size=32, amp=True), tmp_path).cache_key,
        extract(other, images, TINY, tmp_path).cache_key,
        extract(encoder, changed, TINY, tmp_path).cache_key,
        extract(encoder, open_images("builtin:faces", "train"), TINY, tmp_path).cache_key,
    }
    assert len(keys) == 6


def test_a_damaged_cache_is_computed_again(encoder, tmp_path: Path):
    images = open_images("builtin:faces", "test")
    first = extract(encoder, images, TINY, tmp_path)
    (part,) = (tmp_path / first.cache_key).glob("*.safetensors")
    part.write_bytes(part.read_bytes()[:-50])
    again = extract(encoder, images, TINY, tmp_path)
    assert not again.from_cache and np.array_equal(again.data.features, first.data.features)


def test_hostile_file_names_are_read_and_spelt_out(encoder, tmp_path: Path, capsys):
    """Names with control characters, and bytes that are no UTF-8 at all."""
    for name in (b"a\x1b[2J.png", b"\xff.png", b"c.png"):
        (tmp_path / "data" / "a").mkdir(parents=True, exist_ok=True)
        with open(os.fsencode(tmp_path / "data" / "a") + b"/" + name, "wb") as file:
            Image.new("RGB", (40, 50)).save(file, "PNG") if name == b"c.png" else file.write(b"broken")
    for _ in range(2):  # the second time from the cache
        found = extract(encoder, FolderSet(tmp_path / "data"), TINY, tmp_path / "cache")
        assert len(found.unreadable) == 2 and len(found.data.labels) == 1
        said = capsys.readouterr().err
        assert "a/a\\u001b[2J.png cannot be read" in said and "a/\\udcff.png cannot be read" in said


def test_unreadable_images_are_named(encoder, tmp_path: Path, capsys):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 50), (i * 80, 0, 0)).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "a" / "1.png").write_bytes(b"broken")
    found = extract(encoder, FolderSet(tmp_path / "data"), TINY, tmp_path / "cache")
    assert found.unreadable == ("a/1.png",) and found.data.labels.tolist() == [0, 0, 1, 1, 1]
    assert "a/1.png cannot be read" in capsys.readouterr().err


def test_an_ensemble_is_normalised_per_model_and_as_a_whole(encoder, tmp_path: Path):
    images = open_images("builtin:faces", "test")
    other = timm_encoder("timm:test_resnet@random")
    parts = [extract(e, images, TINY, tmp_path) for e in (encoder, other)]
    joined = concatenate(parts).data.features
    width = parts[0].data.features.shape[1]
    assert np.allclose(np.linalg.norm(joined, axis=1), 1, atol=1e-6)
    assert np.allclose(np.linalg.norm(joined[:, :width], axis=1), np.sqrt(0.5), atol=1e-6)


def test_classes_are_matched_by_wnid_and_masked(tmp_path: Path):
    """A classifier of four classes on data of three, one of them unknown; logits of absent classes must not win."""
    pixels = np.zeros((6, 32, 32, 3), np.uint8)
    data = ArraySet("x", pixels, np.array([0, 0, 1, 1, 2, 2]), ("n3", "n9", "n1"))

    class Head(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # columns n0 n1 n2 n3; n0 always wins unless masked
            table = [[9, 0, 0, 1], [9, 2, 0, 1], [9, 3, 8, 1], [9, 1, 8, 2]]
            return torch.tensor(table, dtype=torch.float32)

    encoder = E.Encoder(
        name="e", module=torch.nn.Flatten(), fingerprint="0" * 64, head=Head(), classes=("n0", "n1", "n2", "n3")
    )
    result = classify(encoder, "r", extract(encoder, data, TINY, tmp_path))
    assert result.num_test == 4 and result.num_classes == 2  # rows n3 n3 n1 n1, columns n1 and n3
    assert result.top1 == 0.5 and result.top5 == 1.0
    assert result.to_json()["masked"] == {
        "classifier_classes": 4,
        "data_classes": 3,
        "scored_classes": 2,
        "scored": ["n1", "n3"],
        "images_left_out": 2,
    }
    assert result.per_class == {"n1": 0.5, "n3": 0.5}
    merged = mean_of(
        [
            result.model_copy(update={"top1": 0.2, "per_class": {"n1": 1.0}}),
            result,
            result.model_copy(update={"top1": 0.8, "per_class": {"n3": 0.2}}),
        ],
        "v2",
    )
    assert merged.per_class == {"n1": pytest.approx(0.75), "n3": pytest.approx(0.35)}
    assert merged.top1 == pytest.approx(0.5) and merged.num_test == 12


def test_splits_with_other_class_orders_are_aligned(encoder, tmp_path: Path):
    images = open_images("builtin:faces", "test")
    turned = ArraySet("t", images.images, 1 - images.labels, images.classes[::-1])
    train, test = (extract(encoder, x, TINY, tmp_path) for x in (images, turned))
    assert np.array_equal(aligned(train, test, "x")[1], images.labels)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from imagenet_sd.pipeline import train
    from imagenet_sd.training.recipes import load_train_config

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / "r"
    settings = ["optimizer.epochs=1", "optimizer.warmup_epochs=0", "optimizer.batch_size=20", "objective.loss=ocm"]
    settings += ["model.projector_layers=1", "model.projector_hidden=32", "model.projector_bottleneck=16"]
    train(load_train_config("small", settings), "builtin:digits@per_class=40", folder, validation="builtin:digits")
    return folder


def test_the_imagenet_suite_repeats_the_validation_of_training(run: Path, tmp_path: Path):
    document = evaluate(str(run), {"d": "builtin:digits"}, EvalConfig(suite="imagenet"), cache=tmp_path)
    trained = json.loads((run / "result.json").read_text())
    assert document["results"][0]["top1"] == pytest.approx(trained["val_top1"], abs=2 / 599)
    assert document["results"][0]["num_test"] == trained["val_images"]


def test_the_crop_is_the_users_before_that_of_training(run: Path, tmp_path: Path):
    data, config = {"faces": "builtin:faces@per_class=2"}, EvalConfig(probe="knn", seeds=(0,))
    for asked, used in ((0, 32), (224, 224)):
        document = evaluate(str(run), data, replace(config, crop_size=asked), cache=tmp_path)
        assert document["preprocessing"][0]["crop_size"] == used
    bare = E.Encoder(name="e", module=torch.nn.Identity(), fingerprint="")
    assert [bare.preprocessing(replace(config, crop_size=size)).crop_size for size in (0, 64)] == [224, 64]


@pytest.mark.parametrize("suite", ["transfer", "fewshot", "analysis", "imagenet"])
def test_results_follow_the_schema_and_repeat(run: Path, suite: str, tmp_path: Path):
    config = EvalConfig(suite=suite, seeds=(0, 1), trials=2, shots=(1, 4), episodes=3, probe="auto", ways=2)
    out = [tmp_path / f"{k}.json" for k in range(2)]
    first, second = (evaluate(str(run), {"digits": DIGITS}, config, out=path, cache=tmp_path / "c") for path in out)
    document = json.loads(out[0].read_text())
    jsonschema.validate(document, SCHEMA)
    named = {"encoder", "suite", "results", "data", "encoder_fingerprints", "preprocessing", "versions"}
    assert document.keys() == named and all(str(DataSpec.parse(spec)) == spec for spec in document["data"].values())
    assert {result["dataset"] for result in document["results"]} <= document["data"].keys()
    assert all(result.keys() >= (MEASURED if suite == "analysis" else SCORED) for result in document["results"])
    assert document["encoder_fingerprints"][0].isalnum() and len(document["encoder_fingerprints"][0]) == 64
    assert out[0].read_bytes() == out[1].read_bytes()
    assert not first["features_from_cache"] and second["features_from_cache"]
    if suite == "fewshot":
        probes = [result["probe"] for result in first["results"]]
        assert probes == ["fewshot-1", "fewshot-4", "episodes-2-way-1-shot", "episodes-2-way-5-shot"]
        assert first["results"][1]["top1"] > first["results"][0]["top1"]


@pytest.mark.parametrize("probe", ["path", "sgd", "sea", "knn"])
def test_every_probe_writes_a_valid_result(run: Path, probe: str, tmp_path: Path):
    config = EvalConfig(probe=probe, seeds=(0,), trials=8 if probe == "sea" else 1)
    document = evaluate(f"{run}+timm:resnet10t@random", {"faces": "builtin:faces"}, config, cache=tmp_path)
    document.pop("features_from_cache")
    jsonschema.validate(document, SCHEMA)
    assert document["results"][0].keys() >= SCORED
    assert document["results"][0]["top1"] > 0.8 and document["encoder"] == f"{run}+timm:resnet10t@random"


def test_the_command_line(run: Path, tmp_path: Path, cli: CliRun):
    arguments = ["--probe", "knn", "--cache", tmp_path, "--out", tmp_path / "r.json", "--data"]
    done = cli("evaluate", run, *arguments, "faces=builtin:faces")
    assert done.returncode == 0, done.stderr
    assert "faces" in done.stdout and "top-1" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["suite"] == "transfer"
    for bad, message in (("faces", "--data is 'faces'"), ("x=builtin:no", "no built-in set 'no'")):
        done = cli("evaluate", run, *arguments, bad)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    done = cli("evaluate", run, "--probe", "magic", "--data", "faces=builtin:faces")
    assert done.returncode == 1 and "magic" in done.stderr


def test_cog_from_counts_and_from_a_folder(tmp_path: Path, cli: CliRun):
    done = cli("cog", "--out", tmp_path / "x")
    assert done.returncode == 1 and "either --counts or --images" in done.stderr
    counts = ROOT.parent / "shared" / "data" / "imagenet21k_fall11_image_counts.tsv"
    if not counts.is_file():
        pytest.skip("no image counts on this machine")
    done = cli("cog", "--counts", counts, "--out", tmp_path / "cog", "--format", "json")
    assert done.returncode == 0, done.stderr
    levels = json.loads((tmp_path / "cog" / "levels.json").read_text())
    assert levels == json.loads(done.stdout) and levels["num_eligible"] == 5146
    assert [len(levels[f"L{k}"]) for k in range(1, 6)] == [1000] * 5
    first = (tmp_path / "cog" / "L1.txt").read_text().splitlines()[0].split("\t")
    assert first == [levels["L1"][0], repr(levels["similarity"]["L1"][0])]


def test_a_level_is_read_from_its_lists(tmp_path: Path):
    from imagenet_sd.core.errors import DatasetError
    from imagenet_sd.data.cog import CogLevels
    from imagenet_sd.data.cog_lists import open_level, write_levels

    wnids = ("n00000002", "n00000001")
    for wnid in wnids:
        (tmp_path / "21k" / wnid).mkdir(parents=True)
        for i in range(53):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "21k" / wnid / f"{wnid}_{i}.JPEG")
    levels = CogLevels(num_eligible=2, levels=(wnids,) * 5, similarity=((0.5, 0.4),) * 5)
    write_levels(levels, tmp_path / "cog", tmp_path / "21k")
    train, test = (open_level(tmp_path / "cog", "L1", tmp_path / "21k", split) for split in ("train", "test"))
    assert (len(train.group_sizes), len(test.group_sizes)) == (6, 100) and train.classes == tuple(sorted(wnids))
    (tmp_path / "cog" / "L1-test.txt").write_text("n00000001/../../../etc/passwd\n")
    with pytest.raises(DatasetError, match=r"L1-test\.txt, line 1"):
        open_level(tmp_path / "cog", "L1", tmp_path / "21k", "test")


def test_imagenet_100_has_the_papers_share_of_imagenet_r_and_a():
    """Thesis Tab. 5.2, note: R and A cover some classes of ImageNet-100 only; 19 and 15 of them."""
    from imagenet_sd.prompts.classes import load_classes

    folder = Path(timm.data.__file__).parent / "_info"
    ours = {spec.wnid for spec in load_classes("imagenet-100")}
    for name, count in (("r", 19), ("a", 15)):
        assert len(ours & set((folder / f"imagenet_{name}_synsets.txt").read_text().split())) == count


def test_the_cog_suite_probes_every_level(run: Path, tmp_path: Path):
    """Bright against dark concepts: five levels, each probed on its own lists."""
    from imagenet_sd.data.cog import CogLevels
    from imagenet_sd.data.cog_lists import write_levels

    names = [f"n{k:08d}" for k in range(10)]
    for k, wnid in enumerate(names):
        (tmp_path / "21k" / wnid).mkdir(parents=True)
        for i in range(56):
            colour = (190 + i,) * 3 if k % 2 else (i,) * 3
            Image.new("RGB", (32, 32), colour).save(tmp_path / "21k" / wnid / f"{i}.png")
    levels = CogLevels(
        num_eligible=10, levels=tuple((names[2 * k], names[2 * k + 1]) for k in range(5)), similarity=((0.5, 0.4),) * 5
    )
    write_levels(levels, tmp_path / "cog", tmp_path / "21k")
    config = EvalConfig(suite="cog", probe="knn", seeds=(0,))
    spec = f"{tmp_path}/cog@{tmp_path}/21k"
    document = evaluate(str(run), {"cog": spec}, config, cache=tmp_path / "cache")
    assert [r["dataset"] for r in document["results"]] == [f"cog-L{k}" for k in range(1, 6)]
    assert [(r["num_train"], r["num_test"]) for r in document["results"]] == [(12, 100)] * 5
    assert min(r["top1"] for r in document["results"]) > 0.9, [r["top1"] for r in document["results"]]
