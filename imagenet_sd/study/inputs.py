"""What a study needs from outside: the local files and folders that its recipe names, looked for before any work."""

from pathlib import Path

from imagenet_sd.core.specs import DataSpec, EncoderSpec
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
        for key, text in (("train.data", recipe.train.data), ("train.validation", recipe.train.validation)):
            needs += [(key, path) for path in DataSpec.parse(text).paths] if text else []
    else:
        needs += [("encoder", Path(spec.path)) for spec in EncoderSpec.parse_ensemble(recipe.encoder) if spec.path]
    for number, section in enumerate(recipe.evaluate):
        for name, text in section.data.items():
            needs += [(f"evaluate[{number}].data.{name}", path) for path in DataSpec.parse(text).paths]
    return needs
