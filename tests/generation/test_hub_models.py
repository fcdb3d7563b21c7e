"""Models of the Hub that are not in the cache: a server on loopback has their configuration for the stock client."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import close_session

from imagenet_sd import pipeline
from imagenet_sd.core.errors import ModelError
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.hub import ask_hub
from imagenet_sd.generation.models import ModelIdentity, identify, model_kind, offline_identity, resolve
from imagenet_sd.pipeline.dataset import _plan_dataset, _warnings
from imagenet_sd.study import dry_run_study, expand, load_study
from imagenet_sd.study.planner import Planner
from tests.conftest import CliRun
from tests.hubserver import Hub
from tests.prompts.samples import save_flux

XL = {
    "model_index.json": {
        "_class_name": "StableDiffusionXLPipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler"},
    "unet/config.json": {"sample_size": 128},
    "vae/config.json": {"block_out_channels": [128, 256, 512, 512]},
    "vae_1_0/config.json": {},  # as in the published one: of no part of the pipeline
}
CONFIG = GenerationConfig(model="me/xl", classes="digits-10", images_per_class=2)
OWN = (5.0, 50, (1024, 1024))  # guidance scale, steps and size of SDXL


def publish(hub: Hub, name: str, files: dict[str, Any]) -> str:
    """Commit files to a model's repository, which is made if need be; returns the commit. Older ones stay there."""
    if hub.store.repo(name) is None:
        hub.store.create(name, False)
    branches = hub.store.repos[name]["branches"]
    branches[branches["main"]["sha"]] = branches["main"]
    contents = {path: json.dumps(content).encode() for path, content in files.items()}
    return hub.store.commit(name, "main", {path: hub.store.keep_bytes(data) for path, data in contents.items()})


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that has the model `me/xl`; the cache is empty."""
    hub = Hub(tmp_path / "hub", "open-sesame")
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    use_cache(monkeypatch, tmp_path / "cache")
    publish(hub, "me/xl", XL)
    yield hub
    close_session()
    hub.shutdown()
    hub.server_close()
    hub.log.close()


def defaults(config: GenerationConfig, revision: str = "") -> tuple[float, int, tuple[int, int]]:
    resolved = resolve(config, revision)
    return resolved.scale, resolved.steps, resolved.size


def test_a_model_has_its_own_defaults_once_it_is_identified(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    assert model_kind(CONFIG) is None and resolve(CONFIG) == CONFIG  # nobody takes it for Stable Diffusion 1
    identity = identify(CONFIG)
    assert defaults(CONFIG, identity.revision) == OWN
    go_offline(monkeypatch)
    assert defaults(CONFIG) == OWN, "the cache knows the commit of the branch"
    assert identify(CONFIG) == identity
    pinned = GenerationConfig(model="me/xl", revision=identity.revision)
    assert identify(pinned) == identity and defaults(pinned) == OWN


def test_the_name_of_a_branch_that_moves_on_in_between_misleads_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    old = identify(CONFIG)
    assert publish(hub, "me/xl", {"unet/config.json": {"sample_size": 64}}) != old.revision
    monkeypatch.setattr("imagenet_sd.generation.models.ask_hub", lambda *asked: (old.revision, set()))
    assert identify(CONFIG) == old and defaults(CONFIG, old.revision) == OWN


def test_a_configuration_that_the_hub_withholds_ends_the_run(hub: Hub, tmp_path: Path):
    hub.faults = [{"match": "/resolve/", "count": 99, "status": 403, "body": "Access to model me/xl is restricted"}]
    with pytest.raises(ModelError, match=r"^the configuration of model 'me/xl' cannot be downloaded: ") as e:
        pipeline.generate(CONFIG, tmp_path / "out")
    assert e.value.hint and "\n" not in str(e.value) and not (tmp_path / "out").exists()
    hub.faults = []
    with pytest.MonkeyPatch.context() as patch:  # a download that is broken off after its first file
        patch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: 1 / 0)
        with pytest.raises(ModelError, match="division by zero"):
            identify(CONFIG)
    assert model_kind(CONFIG) is None
    publish(hub, "me/half", {"model_index.json": XL["model_index.json"]})
    with pytest.raises(ModelError, match="'me/half' lacks a configuration"):
        identify(GenerationConfig(model="me/half"))
    publish(hub, "me/bare", {"config.json": {}})
    with pytest.raises(ModelError, match="'me/bare' cannot be downloaded"):
        identify(GenerationConfig(model="me/bare"))


def test_what_the_client_says_is_shown_without_secrets(hub: Hub):
    body = "no, hf_abcdefghij, Authorization: Bearer open-sesame, see https://someone:word@example.org/?token=4711"
    hub.faults = [{"match": "/api/models", "count": 1, "status": 400, "body": body}]
    with pytest.raises(ModelError, match="available from the Hugging Face Hub") as e:
        ask_hub("me/xl", "", "model 'me/xl' is neither", "hint")
    assert "[secret]" in str(e.value)
    assert not re.search(r"abcdefghij|open-sesame|someone:word|4711", str(e.value))


def test_a_dataset_goes_on_with_an_empty_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its commit is pinned, so its configuration is fetched for that commit; the default folder is its own again."""
    monkeypatch.chdir(tmp_path)
    dataset, config = _plan_dataset(None, CONFIG)
    assert dataset.folder == Path("digits-10-sd_c_scale5_seed0") and config.size == (1024, 1024)
    dataset.write_description()
    assert publish(hub, "me/xl", {"unet/config.json": {"sample_size": 64}}) != dataset.settings["revision"]
    for number, out in enumerate((None, dataset.folder)):
        use_cache(monkeypatch, tmp_path / f"cache{number}")
        again, config = _plan_dataset(out, CONFIG)
        assert again.document == dataset.document and config.size == (1024, 1024)
    go_offline(monkeypatch)
    assert _plan_dataset(dataset.folder, CONFIG)[0].document == dataset.document
    use_cache(monkeypatch, tmp_path / "empty")
    with pytest.raises(ModelError, match="the configuration of model 'me/xl' cannot be downloaded"):
        _plan_dataset(dataset.folder, CONFIG)


def test_four_steps_of_schnell_are_no_reason_to_warn(hub: Hub, tmp_path: Path):
    folder = save_flux(tmp_path / "schnell", guidance=False)
    names = ("model_index.json", "transformer/config.json", "scheduler/scheduler_config.json")
    files = {name: json.loads((folder / name).read_text()) for name in names}
    index = files["model_index.json"]
    index |= {"transformer": ["diffusers", "X"], "scheduler": ["diffusers", "X"]}
    for part in ("tokenizer", "tokenizer_2"):
        del index[part]
    publish(hub, "me/schnell", files)
    dataset, config = _plan_dataset(tmp_path / "out", GenerationConfig(model="me/schnell", classes="digits-10"))
    assert (config.scale, config.steps) == (1.0, 4)
    assert _warnings(config, tmp_path, 0, dataset.settings["revision"]) == []


def test_a_dry_run_says_what_it_does_not_know(hub: Hub, cli: CliRun):
    plan = pipeline.dry_run(CONFIG)
    unknown = ("guidance_scale", "num_inference_steps", "width", "height")
    assert [plan["settings"][name] for name in unknown] == [None] * 4
    assert plan["num_images"] == 20 and plan["estimated_bytes"] is None and plan["estimated_time"] == {}
    assert "me/xl is not here: its defaults are not known before `generate` asks the Hub" in plan["warnings"]
    assert not [text for text in plan["warnings"] if "PNDM" in text]
    done = cli("generate", "--model", "me/xl", "--classes", "digits-10", "--size", "64x64", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"guidance_scale +not known\n", done.stdout) and re.search(r"width +64\n", done.stdout)
    assert (hub.store.root / "log.jsonl").read_text() == "", "no network"


def test_a_study_asks_for_the_defaults_before_it_plans(hub: Hub, tmp_path: Path):
    path = tmp_path / "study.yaml"
    path.write_text("generate: {model: me/xl, images_per_class: 2}\ntrain: {recipe: small}\n")
    study = load_study(path)
    plan = dry_run_study(study)
    assert plan["unknown"] == ["me/xl"] and plan["image_steps"] == 0 and "7.5" not in plan["stages"][0]["folder"]
    planner = Planner(expand(study), tmp_path / "out", str(path))
    (cell,) = planner.plan()
    config = cell.stages[0].study.generate
    assert (config.guidance_scale, config.num_inference_steps, config.size) == OWN
    assert "scale5_steps50" in cell.stages[0].folder.name
    known = dry_run_study(study, out=tmp_path / "out")
    assert known["unknown"] == [] and cell.stages[0].folder.name in known["stages"][0]["folder"]
    assert offline_identity(config) == ModelIdentity(model_id="me/xl"), "folders do not depend on the commit"
