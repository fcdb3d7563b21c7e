"""From an encoder to numbers: evaluate, extract features, build ImageNet-CoG.

The heavy rooms (torch, timm) are imported inside the functions that need them.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagenet_sd.core.files import cache_dir
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from imagenet_sd.data.images import ImageSet
    from imagenet_sd.evaluation.encoders import Encoder


def evaluate(
    encoder: str,
    data: dict[str, str],
    config: EvalConfig,
    *,
    out: Path | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure how well an encoder works on real images.

    Args:
        encoder: run folder, `timm:NAME`, `timm:NAME@CHECKPOINT`, `timm:NAME@random`; several joined by `+`.
        data: name -> data spec. For the suite `cog`: name -> `LEVELS@IMAGENET21K`, the folder that `cog` wrote and the
            folder of images; it becomes five data sets.
        config: what to measure.
        out: file for the results.
        cache: folder of the feature cache; None: in the user's cache.

    Returns:
        The content of `results.json`, and `features_from_cache`.

    Raises:
        ImagenetSDError: no such encoder or data, or the two do not fit.
    """
    from imagenet_sd.evaluation.evaluate import evaluate as run_evaluation

    encoders = [_open_encoder(name, config) for name in encoder.split("+")]
    config = _at_own_size(config, encoders)
    if config.suite == "cog":
        data = {f"{name}-L{k}": f"{spec}@L{k}" for name, spec in data.items() for k in range(1, 6)}
    return run_evaluation(encoders, data, config, _open_data, cache or cache_dir() / "features", out)


def extract_features(
    encoder: str, data: str, split: str = "train", config: EvalConfig | None = None, *, cache: Path | None = None
) -> FeatureSet:
    """The features that the probes of `evaluate` see, for a probe of one's own.

    Args:
        encoder: one encoder, as in `evaluate`.
        data: data spec.
        split: "train" or "test".
        config: crop, preprocessing, batch size and precision; None: the papers' protocol.
        cache: see `evaluate`.

    Returns:
        Unit-length float32 features [N, D] and int64 labels [N], in the order of the set.

    Raises:
        ImagenetSDError: no such encoder or data.
    """
    from imagenet_sd.evaluation.analysis import unit
    from imagenet_sd.evaluation.features import extract

    config = config or EvalConfig()
    handle = _open_encoder(encoder, config)
    config = _at_own_size(config, [handle])
    found = extract(handle, _open_data(data, split), config, cache or cache_dir() / "features").data
    return replace(found, features=unit(found.features).astype("float32"))


def _at_own_size(config: EvalConfig, encoders: "list[Encoder]") -> EvalConfig:
    """The settings with the image size that the encoders were trained for, where a run folder names one."""
    sides = {handle.side for handle in encoders if handle.side}
    if sides and config.side == EvalConfig().side and config.preprocessing == "protocol":
        return replace(config, side=max(sides))
    return config


def _open_encoder(name: str, config: EvalConfig) -> "Encoder":
    from imagenet_sd.evaluation.encoders import Encoder, timm_encoder, weights_hash

    if name.startswith("timm:"):
        return timm_encoder(name, config.preprocessing == "model")
    from imagenet_sd.training.export import load_run

    module, head, classes, side = load_run(Path(name))
    return Encoder(name=name, module=module, fingerprint=weights_hash(module), head=head, classes=classes, side=side)


def _open_data(spec: str, split: str) -> "ImageSet":
    from imagenet_sd.data.cog_lists import open_level
    from imagenet_sd.data.transfer import open_data
    from imagenet_sd.prompts.classes import load_classes

    folder, _, rest = spec.partition("@")
    if (Path(folder) / "levels.json").is_file():
        root, _, level = rest.rpartition("@")
        return open_level(Path(folder), level, Path(root), split)
    numbered = spec.startswith("imagenet:")
    return open_data(spec, split, [c.wnid for c in load_classes("imagenet-1k")] if numbered else None)


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
    """
    from imagenet_sd.data.cog import build_levels, count_images, read_counts
    from imagenet_sd.data.cog_lists import write_levels
    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.wordnet import open_wordnet

    numbers = read_counts(Path(counts)) if counts else count_images(Path(images))
    levels = build_levels(open_wordnet(), numbers, [spec.wnid for spec in load_classes("imagenet-1k")])
    write_levels(levels, out, Path(images) if images else None)
    return levels.to_json()
