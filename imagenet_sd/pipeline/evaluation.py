"""From an encoder to numbers: evaluate, extract features, build ImageNet-CoG.

The heavy libraries (torch, timm) are imported inside the functions that need them.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagenet_sd.core.files import cache_dir
from imagenet_sd.core.progress import note
from imagenet_sd.core.specs import DataSpec, EncoderSpec
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from imagenet_sd.evaluation.encoders import Encoder


def evaluate(
    encoder: str,
    data: Mapping[str, str],
    config: EvalConfig,
    *,
    out: Path | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure how well an encoder works on real images.

    Args:
        encoder: an encoder, or several joined by `+`; see `EncoderSpec`.
        data: name -> data spec, see `DataSpec`. For the suite `cog`: name -> `LEVELS@IMAGENET21K`, the folder that
            `cog` wrote and the folder of images; it becomes five data sets. For `imagenet-probe`: the first with
            training images trains the classifier, which scores its test images and those of the others. For
            `label-noise`: two sets without a class in common.
        config: what to measure.
        out: file for the results.
        cache: folder of the feature cache; None: in the user's cache.

    Returns:
        The content of `results.json`, and `features_from_cache`.

    Raises:
        ImagenetSDError: no such encoder or data, or the two do not fit.
    """
    from imagenet_sd.evaluation.evaluate import evaluate as run_evaluation

    specs = {name: DataSpec.parse(text) for name, text in data.items()}
    if config.suite == "cog":
        specs = {f"{name}-{level}": at for name, spec in specs.items() for level, at in spec.levels().items()}
    encoders = [_open_encoder(spec, config) for spec in EncoderSpec.parse_ensemble(encoder)]
    return run_evaluation(encoders, specs, _with_trained_crop(config, encoders), cache or cache_dir() / "features", out)


def extract_features(
    encoder: str, data: str, split: str = "train", config: EvalConfig | None = None, *, cache: Path | None = None
) -> FeatureSet:
    """The features that the probes of `evaluate` see, for a probe of one's own.

    Args:
        encoder: one encoder, as in `evaluate`.
        data: data spec.
        split: "train" or "test"; of a set without a test split, the part that `evaluate` trains on or holds out.
        config: crop, preprocessing, batch size and precision; None: the papers' protocol.
        cache: see `evaluate`.

    Returns:
        Unit-length float32 features [N, D] and int64 labels [N], in the order of the set.

    Raises:
        ImagenetSDError: no such encoder or data.
    """
    from imagenet_sd.data.open import has_test_images, open_images
    from imagenet_sd.evaluation.analysis import unit
    from imagenet_sd.evaluation.features import extract
    from imagenet_sd.evaluation.splits import hold_out

    config, spec = config or EvalConfig(), DataSpec.parse(data)
    images = open_images(spec, split)
    opened = _open_encoder(EncoderSpec.parse(encoder), config)
    extracted = extract(opened, images, _with_trained_crop(config, [opened]), cache or cache_dir() / "features")
    if not has_test_images(spec):
        train, test, _ = hold_out(extracted, data)
        extracted = train if split == "train" else test
    return replace(extracted.data, features=unit(extracted.data.features).astype("float32"))


def _with_trained_crop(config: EvalConfig, encoders: "list[Encoder]") -> EvalConfig:
    """The settings with one crop size for all encoders: where the user names none, the largest that they name."""
    return config if config.crop_size else replace(config, crop_size=max(encoder.crop_size for encoder in encoders))


def _open_encoder(spec: EncoderSpec, config: EvalConfig) -> "Encoder":
    from imagenet_sd.evaluation.encoders import Encoder, timm_encoder, weights_hash

    if spec.model:
        return timm_encoder(spec, config)
    from imagenet_sd.training.export import load_run

    module, head, classes, size = load_run(Path(spec.path))
    return Encoder(
        name=str(spec), module=module, fingerprint=weights_hash(module), head=head, classes=classes, crop_size=size
    )


def cog(out: Path, *, counts: str = "", images: str = "") -> dict[str, Any]:
    """Build the five levels of ImageNet-CoG and write them down.

    Args:
        out: folder for `levels.json`, one wnid list per level, and with `images` its train and test file lists.
        counts: TSV of image counts.
        images: ImageNet-21k folder to count in; one of the two is given.

    Returns:
        The content of `levels.json`.

    Raises:
        ImagenetSDError: counts or WordNet cannot be read, or there are too few concepts.

    Another release of ImageNet-21K than the thesis's is warned of on standard error.
    """
    from imagenet_sd.data.cog import build_levels, count_images, read_counts, release_warning
    from imagenet_sd.data.cog_lists import write_levels
    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.wordnet import open_wordnet

    numbers = read_counts(Path(counts)) if counts else count_images(Path(images))
    if warning := release_warning(numbers):
        note(f"warning: {warning}")
    levels = build_levels(open_wordnet(), numbers, [spec.wnid for spec in load_classes("imagenet-1k")])
    write_levels(levels, out, Path(images) if images else None)
    return levels.to_json()
