"""LoRAs: the fused weights against the closed form, the images against the stock pipeline, and what is refused."""

import json
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagenet_sd.core.errors import DatasetError, ModelError, PlanError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.generation import lora as lora_module
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.adapter import PipelineGenerator
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.kinds import _KINDS, STABLE_DIFFUSION, find_kind
from imagenet_sd.generation.lora import LoraIdentity, fetch_lora, identify_lora, offline_lora, parse_lora
from imagenet_sd.generation.models import EMBEDDED_FOLDER, ModelIdentity, identify, offline_identity
from imagenet_sd.generation.plan import difference, make_plan
from imagenet_sd.storage.card import dataset_card
from imagenet_sd.storage.upload import published_document
from tests.conftest import SMALL, CliRun
from tests.generation.loras import ALPHA, RANK, UNET, changes, original, tensors, write_kohya, write_lora
from tests.generation.test_generator import TEXTS, request
from tests.generation.tiny_pipelines import build

CPU = torch.device("cpu")
REQUESTS = [request(text, 100 + i) for i, text in enumerate(TEXTS[:2])]
SAMPLING: dict[str, Any] = {"guidance_scale": 2.0, "num_inference_steps": 4, "width": 32, "height": 32, "batch_size": 2}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_lora(tmp_path / "style.safetensors")


def load(lora: tuple[Path, float] | None = None):
    return load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU, lora=lora)


def images(lora: tuple[Path, float] | None = None) -> np.ndarray:
    return ImageGenerator(load(lora), **SAMPLING).generate(REQUESTS)


@pytest.mark.parametrize("weight", [0.7, -1.5])
def test_fused_weights_are_the_closed_form(lora: Path, weight: float):
    pipeline = load((lora, weight))
    changed = changes(weight)
    for part in ("unet", "text_encoder"):
        before, after = original(part), getattr(pipeline, part).state_dict()
        assert set(after) == set(load().components[part].state_dict())  # no layer of peft is left
        for key, value in before.items():
            expected = value + changed.get((part, key.removesuffix(".weight")), 0)
            assert torch.allclose(after[key], expected, rtol=0, atol=1e-6), key
    assert min(change.abs().max() for change in changed.values()) > 0.1


def test_alphas_in_the_file_count(tmp_path: Path):
    after, before = load((write_kohya(tmp_path / "k.safetensors"), 0.5)).unet.state_dict(), original("unet")
    for (part, name), change in changes(0.5 * ALPHA / RANK).items():
        if part == "unet":
            assert torch.allclose(after[f"{name}.weight"], before[f"{name}.weight"] + change, rtol=0, atol=1e-6)


def test_the_text_encoder_of_flux_is_fused_too(tmp_path: Path):
    """By default diffusers fuses FLUX's transformer alone."""
    folder, kind = build("flux-dev", tmp_path / "flux-dev"), find_kind("FluxPipeline")
    layers = {
        "transformer.transformer_blocks.0.attn.to_q": (32, 32),
        "text_encoder.encoder.layers.0.self_attn.q_proj": (16, 16),
    }
    generator, made = torch.Generator().manual_seed(0), {}
    for name, (out, into) in layers.items():
        made[f"{name}.lora_A.weight"] = torch.randn(RANK, into, generator=generator)
        made[f"{name}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    path = write_lora(tmp_path / "x.safetensors", made)
    plain, fused = (load_pipeline(folder, torch.float32, CPU, kind, lora=lora) for lora in (None, (path, 0.5)))
    for name in layers:
        part, _, layer = name.partition(".")
        before, after = (pipeline.components[part].get_submodule(layer).weight for pipeline in (plain, fused))
        change = 0.5 * made[f"{name}.lora_B.weight"] @ made[f"{name}.lora_A.weight"]
        assert torch.allclose(after, before + change, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_images_are_those_of_the_stock_pipeline(lora: Path, weight: float):
    ours = images((lora, weight))
    stock: Any = diffusers.StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(str(lora.parent), weight_name=lora.name)
    stock.fuse_lora(lora_scale=weight)
    noise = [torch.Generator().manual_seed(r.seed) for r in REQUESTS]
    texts = [r.prompt.text for r in REQUESTS]
    theirs = stock(texts, num_inference_steps=4, guidance_scale=2.0, width=32, height=32, generator=noise).images
    assert np.array_equal(ours, np.stack([np.asarray(image) for image in theirs]))
    assert not np.array_equal(ours, images())
    adapted = PipelineGenerator(load((lora, weight)), replace(STABLE_DIFFUSION), **SAMPLING)
    assert np.array_equal(ours, adapted.generate(REQUESTS))


def test_another_weight_is_another_dataset_with_other_pixels(lora: Path):
    def document(text: str) -> dict:
        config = GenerationConfig(model="embedded", lora=text)
        return make_plan(config, identify(config))[1]

    one, half, none = document(str(lora)), document(f"{lora}:0.5"), document("")
    assert one["settings"]["lora"] == {
        "name": "style.safetensors", "revision": "", "sha256": sha256_file(lora), "weight": 1.0,
    }  # fmt: skip
    assert one["lora_source"] == half["lora_source"] == str(lora)
    assert "lora" not in none["settings"] and "lora_source" not in none
    assert len({d["fingerprint"] for d in (one, half, none)}) == 3
    (line,) = difference(one, half)
    assert line.startswith("lora: ") and "'weight': 1.0" in line and "'weight': 0.5" in line
    assert difference(none, one)[0].startswith("lora: None there")
    assert ModelIdentity.recorded(half["settings"]) == identify(GenerationConfig(model="embedded", lora=f"{lora}:0.5"))
    assert not np.array_equal(images((lora, 1.0)), images((lora, 0.5)))


def test_from_the_command_line_to_the_folder_and_back(tmp_path: Path, lora: Path, cli: CliRun):
    out, command = tmp_path / "out", [*SMALL, "--steps", 3, "--lora", f"{lora}:0.8"]
    assert cli(*command, "--out", out).returncode == 0
    document = json.loads((out / "dataset.json").read_text())
    assert document["settings"]["lora"]["weight"] == 0.8 and document["lora_source"] == str(lora)
    card = (out / "README.md").read_text()
    assert "The LoRA style.safetensors is fused into the model, with weight 0.8." in card
    assert "license: other" in card and "of the LoRA (style.safetensors) apply" in card
    assert json.loads(cli("status", out, "--format", "json").stdout)["complete"]
    manifest = json.loads((out / "data/round-000/.manifests/train-00001.json").read_text())
    assert manifest["generator"]["versions"]["peft"] == version("peft")
    (shard,) = out.glob("data/*/train-00001-*.parquet")
    image_id = f"{document['classes'][0]['wnid']}_000000"
    assert cli("regenerate", out, "--id", image_id).returncode == 0
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    done = cli("verify", out, "--repair", "--format", "json")
    assert json.loads(done.stdout)["repaired"][0]["identical"] is True
    assert shard.read_bytes() == whole
    write_lora(lora, tensors(seed=1))  # another file under the same name
    resumed = cli(*command, "--out", out)
    assert resumed.returncode == 1 and "holds another dataset: lora: {" in resumed.stderr
    refused = cli("regenerate", out, "--id", image_id)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[0] == f"error: the LoRA in {lora} is not that of the plan: its hash differs"
    lora.unlink()
    refused = cli("regenerate", out, "--id", image_id)
    assert refused.stderr.startswith(f"error: there is no LoRA {str(lora)!r}\nhint: restore")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)),
        ("C:\\a.safetensors:-2", ("C:\\a.safetensors", -2.0)),
        ("x:1/y:2:.5", ("x:1/y:2", 0.5)),
        ("owner/name:1e-1", ("owner/name", 0.1)),
        ("owner/name:strong", ("owner/name:strong", 1.0)),
    ],
)
def test_the_last_number_after_a_colon_is_the_weight(text: str, parsed: tuple[str, float]):
    assert parse_lora(text) == parsed


@pytest.mark.parametrize("text", [":1", "a:0", "a:-0.0", "a:101", "a:1e999"])
def test_weights_without_a_meaning_are_refused(text: str):
    with pytest.raises(PlanError, match=r"lora|LoRA") as e:
        GenerationConfig(lora=text)
    assert e.value.hint


def test_a_path_with_colons_and_a_folder(tmp_path: Path):
    folder = tmp_path / "v1:2"
    folder.mkdir()
    file = write_lora(folder / "a.safetensors")
    (folder / "notes.txt").touch()
    expected = LoraIdentity(name="a.safetensors", sha256=sha256_file(file), weight=0.5)
    assert identify_lora(f"{folder}:0.5") == identify_lora(f"{file}:0.5") == expected
    assert fetch_lora(str(folder), expected) == file
    shutil.copy(file, folder / "b.safetensors")
    with pytest.raises(ModelError, match=r"holds several \.safetensors files: a\.safetensors, b\.safetensors") as e:
        identify_lora(f"{folder}:1")
    assert f"{folder}/a.safetensors" in e.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.safetensors", "there is no LoRA"),
        ("sub/missing.bin", "there is no LoRA"),
        ("pickle.bin", r"is no \.safetensors file, and no other format is read"),
        ("empty", r"holds no \.safetensors file"),
    ],
)
def test_what_is_no_lora_is_named(tmp_path: Path, name: str, message: str):
    (tmp_path / "pickle.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "empty").mkdir()
    for look in (identify_lora, offline_lora):
        with pytest.raises(ModelError, match=message) as e:
            look(str(tmp_path / name))
        assert ".safetensors" in e.value.hint and "\n" not in str(e.value)


def test_one_of_the_hub_is_pinned_and_not_asked_for_again(tmp_path: Path, lora: Path, monkeypatch: pytest.MonkeyPatch):
    asked, files = [], {"README.md", "a/style.safetensors"}

    def ask(repository: str, *rest: str) -> tuple[str, set[str]]:
        asked.append(repository)
        return "c0ffee", files

    monkeypatch.setattr(lora_module, "ask_hub", ask)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda repository, file, revision: str(lora) if revision in (None, "c0ffee") and file in files else 1 / 0,
    )
    config = GenerationConfig(model="embedded", lora="me/style:0.5")
    found = identify(config)
    expected = LoraIdentity(
        name="me/style/a/style.safetensors", revision="c0ffee", sha256=sha256_file(lora), weight=0.5
    )
    assert found.lora == expected and asked == ["me/style"]
    assert fetch_lora("me/style", expected) == lora
    for text in ("me/style:0.5", "me/style/a/style.safetensors:0.5"):
        assert identify(replace(config, lora=text), found).lora == expected
    assert asked == ["me/style"]
    assert identify_lora("me/style/a/style.safetensors:0.5") == expected
    assert asked == ["me/style"] * 2
    files.add("b.safetensors")
    with pytest.raises(ModelError, match=r"several \.safetensors files: a/style\.safetensors, b\.safetensors"):
        identify_lora("me/style")
    other = identify_lora("me/style/b.safetensors:0.5", expected)
    assert other == replace(expected, name="me/style/b.safetensors"), "another file of the same repository"
    assert offline_identity(config).lora == LoraIdentity(name="me/style", weight=0.5)
    with pytest.raises(ModelError, match=r"'me/style/c\.safetensors' cannot be downloaded"):
        identify_lora("me/style/c.safetensors")


def test_an_unreachable_one_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="LoRA 'nobody/nothing' is neither a local file nor available from the Hugg"):
        identify_lora("nobody/nothing:0.5")


def _renamed(old: str, new: str) -> dict[str, torch.Tensor]:
    return {key.replace(old, new): value for key, value in tensors().items()}


_TO_Q = f"unet.{next(iter(UNET))}"
MISFITS = {
    "another kind of model": _renamed("unet.", "transformer."),
    "layers that are not there": tensors() | _renamed("down_blocks.1", "down_blocks.3"),
    "text layers that are not there": _renamed("layers.0", "layers.7"),
    "other widths": {k: v[:, :32].contiguous() if "lora_A" in k else v for k, v in tensors().items()},
    "half a layer": {k: v for k, v in tensors().items() if k != f"{_TO_Q}.lora_B.weight"},
    "half a text layer": {k: v for k, v in tensors().items() if not ("text" in k and "lora_A" in k)},
    "a part too many": tensors() | {k + "x": v.clone() for k, v in _renamed("unet.", "vae.").items()},
    "magnitudes": tensors() | {f"{_TO_Q}.dora_scale": torch.ones(144)},
    "no LoRA at all": {"weight": torch.ones(3)},
    "not a number": {key: value * float("nan") for key, value in tensors().items()},
}


@pytest.mark.parametrize("made", MISFITS.values(), ids=MISFITS)
def test_one_of_another_model_is_refused(tmp_path: Path, made: dict[str, torch.Tensor], capfd: pytest.CaptureFixture):
    path = write_lora(tmp_path / "x.safetensors", made)
    with pytest.raises(ModelError, match=r"^the LoRA x\.safetensors does not fit this StableDiffusionPipeline: .") as e:
        load((path, 1.0))
    assert e.value.hint and "\n" not in str(e.value) and "\x1b" not in str(e.value)
    assert capfd.readouterr().err == ""  # all that there is to say is in the error


def test_a_damaged_one_and_a_pickle_are_refused(tmp_path: Path, lora: Path):
    lora.write_bytes(lora.read_bytes()[:-10])
    (tmp_path / "p.safetensors").write_bytes(b"cos\nabort\n(tR.")  # would end the process
    for path in (lora, tmp_path / "p.safetensors"):
        with pytest.raises(ModelError, match="is damaged"):
            load((path, 1.0))


def test_kinds_know_whether_they_take_one(lora: Path):
    for name, kind in _KINDS.items():
        assert kind.lora == hasattr(getattr(diffusers, name), "load_lora_weights"), name
    assert not find_kind("HunyuanDiTPipeline").lora and find_kind("AuraFlowPipeline").lora  # by signature alone
    with pytest.raises(PlanError, match=r"my/pixart \(PixArtAlphaPipeline\) takes no LoRA"):
        find_kind("PixArtAlphaPipeline").check("my/pixart", 4.5, "", str(lora))


def test_without_peft_the_extra_is_named(lora: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lora_module, "find_spec", lambda name: None)
    for look in (lambda: identify_lora(str(lora)), lambda: fetch_lora(str(lora), LoraIdentity(name="x"))):
        with pytest.raises(ModelError, match="peft, which is not installed") as e:
            look()
        assert 'pip install "imagenet-sd[lora]"' in e.value.hint
    assert offline_lora(str(lora)) is not None  # a dry run needs none


def test_a_document_made_by_hand_is_refused():
    for found in ("style", {"name": "x"}, {"name": "x", "revision": "", "sha256": "", "weight": 1, "more": 1}):
        with pytest.raises(DatasetError, match="garbles its LoRA"):
            LoraIdentity.recorded({"lora": found})


def test_the_path_to_a_local_one_stays_at_home(lora: Path):
    config = GenerationConfig(model="embedded", lora=str(lora))
    document = make_plan(config, identify(config))[1]
    assert published_document(document) == document | {"lora_source": "style.safetensors"}
    on_hub = document | {"lora_source": "me/style"}
    assert published_document(on_hub) == on_hub
    assert "\\|\\_x.safetensors" in dataset_card(
        document
        | {"settings": document["settings"] | {"lora": document["settings"]["lora"] | {"name": "|_x.safetensors"}}}
    )


def test_the_files_here_are_what_they_say(tmp_path: Path):
    """A LoRA of zeros changes nothing, so that what the others change is theirs."""
    save_file({key: torch.zeros_like(value) for key, value in tensors().items()}, tmp_path / "z.safetensors")
    assert np.array_equal(images((tmp_path / "z.safetensors", 1.0)), images())
