"""What a study needs from outside: the local files and folders that it names, looked for before any work."""

from pathlib import Path

from imagenet_sd.data.images import split_limit
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
        needs += [("train.data", path) for path in places(study.train.data)]
        needs += [("train.validation", path) for path in places(study.train.validation)]
    for encoder in filter(None, study.encoder.split("+")):
        name, _, checkpoint = encoder.partition("@")
        given = checkpoint if name.startswith("timm:") else encoder
        needs += [("encoder", Path(given))] if given not in ("", "random") else []
    for number, section in enumerate(study.evaluate):
        for name, spec in section.data.items():
            key = f"evaluate[{number}].data.{name}"
            needs += [(key, path) for path in places(spec, levels=section.suite == "cog")]
    return needs


def places(spec: str, levels: bool = False) -> list[Path]:
    """The local files and folders that a data spec names; none for `builtin:` and `hf:`.

    Args:
        spec: the data spec.
        levels: whether it is `LEVELS@IMAGENET21K`, as the suite `cog` takes it.
    """
    if levels:
        return [Path(part) for part in spec.split("@") if part]
    spec, _, _ = split_limit(spec)
    kind, _, rest = spec.partition(":")
    if not spec or kind in ("builtin", "hf"):
        return []
    if kind in ("torchvision", "imagenet"):
        return [Path(rest.partition("@")[2]).expanduser()] if "@" in rest else []
    return [Path(rest if kind in ("imagefolder", "parquet") else spec)]
