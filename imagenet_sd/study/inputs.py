"""What a study needs from outside: the local files and folders that its recipe names, looked for before any work."""

from pathlib import Path

from imagenet_sd.data.images import split_limit
from imagenet_sd.study import Cell, Recipe


def missing(cells: list[Cell]) -> dict[str, str]:
    """The files and folders that cells name and that are not there.

    Returns:
        Path of the key, such as "evaluate[0].data.val" -> the missing path, in the order of the recipe.
    """
    found: dict[str, str] = {}
    for cell in cells:
        for key, place in _needs(cell.recipe):
            if key not in found and not place.exists():
                found[key] = str(place)
    return found


def _needs(recipe: Recipe) -> list[tuple[str, Path]]:
    generate, needs = recipe.generate, []
    if not recipe.encoder:
        if not recipe.train.data:
            lists = generate.classes if generate.classes.endswith((".txt", ".tsv")) else ""
            values = {"templates": generate.templates, "match": generate.match, "classes": lists}
            needs += [(f"generate.{key}", Path(value)) for key, value in values.items() if value]
        needs += [("train.data", path) for path in places(recipe.train.data)]
        needs += [("train.validation", path) for path in places(recipe.train.validation)]
    for encoder in filter(None, recipe.encoder.split("+")):
        name, _, checkpoint = encoder.partition("@")
        given = checkpoint if name.startswith("timm:") else encoder
        needs += [("encoder", Path(given))] if given not in ("", "random") else []
    for number, section in enumerate(recipe.evaluate):
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
