"""Which row of a published table a setting answers, and what keeps it from answering.

A setting answers a row when all that is printed about the row holds for it: classes, data, prompt, guidance scale,
size, augmentation, generator, steps, number of images, backbone, epochs and training objective. Otherwise it stands
apart, and says in what it differs from the row that is nearest.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from imagenet_sd.report.measurements import Setting, Summaries, Summary
from imagenet_sd.report.paper import BACKBONE, EPOCHS, GENERATOR, NUM_STEPS, PaperRow

IMAGES_TOLERANCE = 0.01
"""Share by which the number of training images may differ, for images that cannot be read or are no longer there."""
_TITLES = {
    "objective.loss": "loss",
    "model.projector_layers": "projector layers",
    "model.projector_hidden": "d_h",
    "model.projector_bottleneck": "d_b",
    "objective.memory_size": "memory",
    "crops.local_crops_number": "local crops",
    "crops.global_crops_scale": "global crop scale",
    "crops.local_crops_scale": "local crop scale",
}


def answer(
    settings: Iterable[Setting], row: PaperRow, means: Sequence[Summaries], augmentation: str = "strong"
) -> tuple[Setting | None, list[Summary | None]]:
    """The first setting that a row stands for and that was measured, with its means; several are never mixed."""
    for setting in settings:
        if any(setting.number in mean for mean in means) and differences(setting, row, augmentation) == []:
            return setting, [mean.get(setting.number) for mean in means]
    return None, [None] * len(means)


def differences(setting: Setting, row: PaperRow, augmentation: str = "strong") -> list[str] | None:
    """What keeps a setting from answering a row, as short texts.

    Returns:
        [] where it answers the row; None where the two are of another kind: other classes, data, prompt, guidance
        scale, size or augmentation, or weights of others.
    """
    if row.encoder:
        return [] if any(_is_model(encoder.name, row.encoder) for encoder in setting.encoders) else None
    if not row.class_list or _kind(setting) != _kind_of_row(row, augmentation):
        return None
    encoder = setting.encoders[0]
    pairs: list[tuple[str, Any, Any]] = []
    if row.data == "synthetic":
        pairs.append(("generator", encoder.model or None, GENERATOR))
        pairs.append(("steps", setting.factors.get("num_inference_steps"), NUM_STEPS))
    pairs.append(("backbone", encoder.training.get("model.backbone"), BACKBONE))
    pairs.append(("epochs", encoder.training.get("optimizer.epochs"), EPOCHS))
    pairs += [(_TITLES[key], encoder.training.get(key), value) for key, value in row.recipe.items()]
    found = [_told(title, ours, theirs) for title, ours, theirs in pairs if ours != theirs]
    images = setting.num_images
    if images is None or abs(images - row.num_images) > IMAGES_TOLERANCE * row.num_images:
        found.append(_told("images", images, row.num_images))
    return found


def nearest_row(setting: Setting, rows: Sequence[PaperRow], augmentation: str = "strong") -> str:
    """The row of its kind that a setting differs least from, with the differences; "" where there is none."""
    found = [(row, differences(setting, row, augmentation)) for row in rows]
    known = [(len(each), number, row, each) for number, (row, each) in enumerate(found, 1) if each]
    if not known:
        return ""
    _, number, row, each = min(known, key=lambda item: item[:2])
    return f"row {number} ({row.label}) has other {_listed(each)}"


def _kind(setting: Setting) -> tuple[Any, ...]:
    factors = setting.factors
    kind = (setting.class_list, factors.get("data"), factors.get("augmentation"))
    if factors.get("data") != "synthetic":
        return kind
    return (*kind, factors.get("prompt"), factors.get("guidance_scale"), factors.get("multiple"))


def _kind_of_row(row: PaperRow, augmentation: str) -> tuple[Any, ...]:
    kind = (row.class_list, row.data, augmentation)
    return kind if row.data != "synthetic" else (*kind, row.prompt, row.guidance_scale, row.multiple)


def _is_model(name: str, pattern: str) -> bool:
    """Whether an encoder's name is of a pattern; of a checkpoint's path the file name counts alone, in any case."""
    return fnmatchcase(re.sub(r"@.*[/\\]", "@", name).lower(), pattern.lower())


def _told(title: str, ours: Any, theirs: Any) -> str:
    return f"{title} ({_shown(ours)}, not {_shown(theirs)})"


def _shown(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, list | tuple):
        return " to ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
