"""Backgrounds: the 365 scenes of Places365 as natural phrases, dealt out evenly to the images of a class."""

from functools import lru_cache

from imagenet_sd.core.files import data_path
from imagenet_sd.core.seeds import Permutation


@lru_cache(maxsize=1)
def load_places() -> tuple[tuple[str, str], ...]:
    """The scenes as (category path as published, phrase), e.g. ("/a/arena/hockey", "hockey arena"); 365 of them."""
    lines = data_path("prompts", "places365.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return tuple((path, phrase) for path, phrase in (line.split("\t") for line in lines))


@lru_cache(maxsize=4096)
def _scene_order(dataset_seed: int, wnid: str) -> Permutation:
    return Permutation(len(load_places()), "backgrounds", dataset_seed, wnid)


def background_of(dataset_seed: int, wnid: str, index: int) -> tuple[str, str]:
    """The scene of image `index` of a class.

    Every run of 365 images of a class meets every scene once, in a seeded order of that class.

    Returns:
        (category path, phrase).
    """
    order = _scene_order(dataset_seed, wnid)
    return load_places()[order[index % order.size]]
