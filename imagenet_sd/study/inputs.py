"""What a study needs from outside: the local files and folders that it names, looked for before any work."""

from pathlib import Path

from imagenet_sd.core.specs import DataSpec, EncoderSpec
from imagenet_sd.study.grid import GridCell
from imagenet_sd.study.schema import Study


def missing_inputs(cells: list[GridCell]) -> dict[str, str]:
    """The files and folders that cells name and that are not there.

    Returns:
        Path of the key, such as "evaluate[0].data.val" -> the missing path, in the order of the study.
    """
    missing: dict[str, str] = {}
    for cell in cells:
        for key, place in _needs(cell.study):
            if key not in missing and not place.exists():
                missing[key] = str(place)
    return missing


def _needs(study: Study) -> list[tuple[str, Path]]:
    generate, needs = study.generate, []
    if not study.encoder:
        if not study.train.data:
            lists = generate.classes if generate.classes.endswith((".txt", ".tsv")) else ""
            values = {"templates": generate.templates, "match": generate.match, "classes": lists}
            needs += [(f"generate.{key}", Path(value)) for key, value in values.items() if value]
        for key in ("data", "also", "validation"):
            text = getattr(study.train, key)
            needs += [(f"train.{key}", path) for path in DataSpec.parse(text).paths] if text else []
    else:
        needs += [("encoder", Path(spec.path)) for spec in EncoderSpec.parse_ensemble(study.encoder) if spec.path]
    for number, section in enumerate(study.evaluate):
        for name, text in section.data.items():
            needs += [(f"evaluate[{number}].data.{name}", path) for path in DataSpec.parse(text).paths]
    return needs
