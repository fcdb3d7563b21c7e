"""Backgrounds: the 365 scenes of Places365 as phrases, or a template's own, dealt out evenly to a class's images."""

from functools import lru_cache

from imagenet_sd.core.files import data_path
from imagenet_sd.core.seeds import Permutation


@lru_cache(maxsize=1)
def load_places() -> tuple[tuple[str, str], ...]:
    """The scenes as (category path as published, phrase), e.g. ("/a/arena/hockey", "hockey arena"); 365 of them."""
    lines = data_path("prompts", "places365.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return tuple((path, phrase) for path, phrase in (line.split("\t") for line in lines))


@lru_cache(maxsize=4096)
def _scene_order(count: int, dataset_seed: int, wnid: str) -> Permutation:
    return Permutation(count, "backgrounds", dataset_seed, wnid)


def background_of(dataset_seed: int, wnid: str, index: int, own: tuple[str, ...] = ()) -> tuple[str, str]:
    """The scene of image `index` of a class.

    Every run of 365 images of a class meets every scene once, in a seeded order of that class.

    Args:
        dataset_seed: seed of the dataset.
        wnid: class id.
        index: number of the image within its class.
        own: backgrounds that stand in for the 365 scenes.

    Returns:
        (category path, phrase); of own backgrounds the path is made from the phrase.
    """
    order = _scene_order(len(own) or len(load_places()), dataset_seed, wnid)
    place = order[index % order.size]
    return ("/" + own[place].replace(" ", "_"), own[place]) if own else load_places()[place]
