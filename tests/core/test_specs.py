"""Specs are read once: what each text means, and what it gives back."""

from pathlib import Path

import pytest

from imagenet_sd.core.errors import DatasetError, ImagenetSDError
from imagenet_sd.core.specs import DataSpec, EncoderSpec

DATA = {  # text -> kind, name, root, level, limit, number, the folders it needs
    "imagefolder:/a/b@per_class=3": ("imagefolder", "", "/a/b", "", "per_class", 3, ["/a/b"]),
    "parquet:./a@rounds=2": ("parquet", "", "./a", "", "rounds", 2, ["a"]),
    "torchvision:dtd@/t": ("torchvision", "dtd", "/t", "", "", 0, ["/t"]),
    "torchvision:dtd@/t@here@per_class=9": ("torchvision", "dtd", "/t@here", "", "per_class", 9, ["/t@here"]),
    "imagenet:v2-top-images@/i": ("imagenet", "v2-top-images", "/i", "", "", 0, ["/i"]),
    "builtin:mnist@per_class=3": ("builtin", "mnist", "", "", "per_class", 3, []),
    "targets:/a/t.tsv": ("targets", "", "/a/t.tsv", "", "", 0, ["/a/t.tsv"]),
    "hf:me/data": ("hf", "me/data", "", "", "", 0, []),
    "/a/dataset@rounds=2": ("dataset", "", "/a/dataset", "", "rounds", 2, ["/a/dataset"]),
    "digits-sd": ("dataset", "", "digits-sd", "", "", 0, ["digits-sd"]),
    "cog@/data/21k": ("cog", "cog", "/data/21k", "", "", 0, ["cog", "/data/21k"]),
    "cog@/data/21k@L3": ("cog", "cog", "/data/21k", "L3", "", 0, ["cog", "/data/21k"]),
}


@pytest.mark.parametrize("text", DATA)
def test_a_data_spec_is_read_and_written(text: str):
    spec = DataSpec.parse(text)
    *fields, paths = DATA[text]
    assert [spec.kind, spec.name, spec.root, spec.level, spec.limit, spec.number] == fields
    assert [str(path) for path in spec.paths] == paths
    assert str(spec) == text and DataSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no data ''"),
        ("imagefolder:", "no data 'imagefolder:'"),
        ("builtin:", "no data 'builtin:'"),
        ("torchvision:pets", "no data 'torchvision:pets'"),
        ("imagenet:@/i", "no data 'imagenet:@/i'"),
        ("builtin:mnist@per_class=0", "keeps nothing"),
        ("imagefolder:/a@rounds=1", "has no rounds"),
    ],
)
def test_a_text_that_is_no_data_spec_is_one_line_with_a_hint(text: str, message: str):
    with pytest.raises(DatasetError, match=message) as caught:
        DataSpec.parse(text)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_a_dataset_may_have_an_at_sign_in_its_path(tmp_path: Path):
    folder = tmp_path / "me@home"
    assert DataSpec.parse(str(folder)).kind == "cog"
    folder.mkdir()
    (folder / "dataset.json").touch()
    assert DataSpec.parse(f"{folder}@rounds=1") == DataSpec(kind="dataset", root=str(folder), limit="rounds", number=1)


def test_levels_of_cog():
    levels = DataSpec.parse("cog@/data/21k").levels()
    assert [str(spec) for spec in levels.values()] == [f"cog@/data/21k@{name}" for name in levels]
    assert list(levels) == ["L1", "L2", "L3", "L4", "L5"]
    for text in ("builtin:mnist", "cog@/data/21k@L1"):
        with pytest.raises(DatasetError, match="no ImageNet-CoG levels"):
            DataSpec.parse(text).levels()


@pytest.mark.parametrize(
    ("text", "spec", "weights"),
    [
        ("runs/a", EncoderSpec(path="runs/a"), "runs/a/encoder.safetensors"),
        ("timm:resnet50.tv_in1k", EncoderSpec(model="resnet50.tv_in1k"), None),
        ("timm:resnet18@random", EncoderSpec(model="resnet18", random=True), None),
        ("timm:resnet18@/w/c@1.pth", EncoderSpec(model="resnet18", path="/w/c@1.pth"), "/w/c@1.pth"),
    ],
)
def test_an_encoder_spec_is_read_and_written(text: str, spec: EncoderSpec, weights: str | None):
    assert EncoderSpec.parse(text) == spec and str(spec) == text
    assert spec.weights == (Path(weights) if weights else None)
    assert EncoderSpec.parse_ensemble(f"{text}+timm:resnet10t") == (spec, EncoderSpec(model="resnet10t"))


def test_a_plus_in_a_path_that_exists_is_part_of_the_path(tmp_path: Path):
    (tmp_path / "a+b").mkdir()
    (tmp_path / "c+d.pth").touch()
    texts = ["timm:resnet18", str(tmp_path / "a+b"), f"timm:resnet10t@{tmp_path / 'c+d.pth'}", str(tmp_path / "e")]
    specs = EncoderSpec.parse_ensemble("+".join([*texts, str(tmp_path / "f")]))
    assert [str(spec) for spec in specs] == [*texts, str(tmp_path / "f")]
    for text in ("", "timm:", "timm:@random", "runs/a+"):
        with pytest.raises(ImagenetSDError, match="no encoder"):
            EncoderSpec.parse_ensemble(text)
