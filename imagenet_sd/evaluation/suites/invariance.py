"""How invariant features are: how far they move under known transformations (Ericsson et al., 2022).

Mean and covariance come from all clean images of the set, the measure from a seeded sample of them. What was measured
is kept per image and strength, transformation by transformation; a rerun computes what is missing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from imagenet_sd.core import progress
from imagenet_sd.core.errors import one_line
from imagenet_sd.core.files import atomic_write
from imagenet_sd.core.progress import Progress
from imagenet_sd.core.results import InvarianceResult
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.images import ImageSet
from imagenet_sd.data.open import open_images
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import dataset_fingerprint, versions
from imagenet_sd.evaluation.splits import noted, whole_note
from imagenet_sd.evaluation.transformations import TRANSFORMATIONS, VARIANTS, Strength, named, to_network
from imagenet_sd.evaluation.whitening import Moments, Whitening

_VARIANT = re.compile(r"(?P<object>.+)_(?P<variant>[^_]+)")
Tensors = dict[str, torch.Tensor]


def measure_invariance(
    encoders: list[Encoder], name: str, spec: DataSpec, config: EvalConfig, cache: Path
) -> tuple[list[InvarianceResult], bool]:
    """All named transformations on the test images of one set.

    Args:
        encoders: one encoder.
        name: of the data.
        spec: the data.
        config: `transformations`, `strengths`, `measured_images`, crop and batch size.
        cache: folder of the cache.

    Returns:
        One result per transformation, and whether all came from the cache.

    Raises:
        EvaluationError: there are several encoders, or images whose names give no pairs for `variants`.
    """
    if len(encoders) > 1:
        raise EvaluationError("the invariance suite takes one encoder", "measure each on its own")
    names, images = named(config.transformations), open_images(spec, "test")
    probe = _Probe(encoders[0], images, config, cache)
    results = [probe.variants(name) if each == VARIANTS else probe.transformation(name, each) for each in names]
    note = whole_note(spec) or getattr(images, "note", "")
    results = [noted(result, note, said=number > 0) for number, result in enumerate(results)]
    for image in probe.unreadable:
        progress.note(f"warning: {images.name}: {image} cannot be read and is left out")
    return results, probe.from_cache


class _Probe:
    """One encoder on one set of images."""

    def __init__(self, encoder: Encoder, images: ImageSet, config: EvalConfig, cache: Path):
        self.name, self.images, self.config = encoder.name, images, config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = encoder.module.to(self.device)
        self.preprocessing = encoder.preprocessing(config)
        facts = ["invariance", encoder.fingerprint, dataset_fingerprint(images), asdict(self.preprocessing), config.amp,
                 self.device.type, versions()]  # fmt: skip
        self.key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = cache / self.key
        self.folder.mkdir(parents=True, exist_ok=True)
        self.places = [(group, row) for group, size in enumerate(images.group_sizes) for row in range(size)]
        order = np.random.default_rng(stable_hash("invariance", len(self.places))).permutation(len(self.places))
        self.sample = [self.places[i] for i in np.sort(order[: config.measured_images])]
        self.from_cache, self.unreadable, self.whitening = True, (), None

    def transformation(self, name: str, transformation: str) -> InvarianceResult:
        """One transformation over its grid."""
        chosen = TRANSFORMATIONS[transformation]
        grid = chosen.grid(self.config.strengths)
        kept = self._cached(
            f"{transformation}-{len(self.sample)}-{len(grid)}", lambda: self._over(transformation, grid)
        )
        return self._result(name, transformation, chosen.family, grid, kept["cosine"], kept["distance"])

    def variants(self, name: str) -> InvarianceResult:
        """The mean over pairs of images of one object."""
        kept = self._cached("variants", self._pairs)
        return self._result(name, VARIANTS, "real", [], kept["cosine"][None], kept["distance"][None])

    def _result(
        self, name: str, transformation: str, family: str, grid: list[Strength], cosine: torch.Tensor,
        distance: torch.Tensor,
    ) -> InvarianceResult:  # fmt: skip
        """From values [strengths, images]: means over images, then over the grid; deviations over images."""
        return InvarianceResult(
            dataset=name,
            split="test",
            probe="invariance",
            transformation=transformation,
            family=family,  # pyright: ignore[reportArgumentType]
            cosine=float(cosine.mean(1).mean()),
            cosine_sd=float(cosine.mean(0).std(correction=0)),
            distance=float(distance.mean(1).mean()),
            distance_sd=float(distance.mean(0).std(correction=0)),
            strengths=tuple(grid),
            cosines=tuple(cosine.mean(1).tolist()) if grid else (),
            distances=tuple(distance.mean(1).tolist()) if grid else (),
            rank=self._whitening().rank,
            num_test=cosine.shape[1],
            num_classes=len(self.images.classes),
            cache_keys=(self.key,),
            unreadable=self.unreadable,
        )

    def _cached(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        path = self.folder / f"{name}.safetensors"
        try:
            tensors = load_file(path)
            if _finite(tensors):
                return tensors
        except (FileNotFoundError, SafetensorError):
            pass  # not there, or damaged
        self.from_cache, tensors = False, {k: v.cpu().contiguous() for k, v in compute().items()}
        atomic_write(path, lambda temporary: save_file(tensors, temporary))
        return tensors

    def _whitening(self) -> Whitening:
        """Of the features of all clean images."""
        if self.whitening is None:
            kept = self._cached("moments", self._moments)
            lost = [int(i) for i in kept["unreadable"]]
            self.unreadable = tuple(self.images.read_group(g)[r].image_id for g, r in (self.places[i] for i in lost))
            self.whitening = Whitening.of(kept["mean"].to(self.device), kept["covariance"].to(self.device))
        return self.whitening

    def _moments(self) -> Tensors:
        moments, seen = Moments(), set()
        with Progress("clean images", len(self.places)) as progress:
            for places, groups in self._batches(self.places):
                moments.add(self._features(groups))
                seen.update(places)
                progress.advance(len(places))
        if moments.count < 2:
            raise EvaluationError(f"{self.images.name} has {moments.count} readable images", "2 are the least")
        if not bool(torch.isfinite(moments.scatter).all()):
            raise EvaluationError(
                f"{self.name} gives features that are not finite", "its weights are at fault; with --amp, try without"
            )
        lost = [i for i, place in enumerate(self.places) if place not in seen]
        return {"mean": moments.mean, "covariance": moments.covariance, "unreadable": torch.tensor(lost).long()}

    def _over(self, transformation: str, grid: list[Strength]) -> Tensors:
        """Cosines and distances float32 [strengths, images]."""
        whitening, apply = self._whitening(), TRANSFORMATIONS[transformation].apply
        cosines, distances = [], []
        with Progress(transformation, len(self.sample) * len(grid)) as progress:
            for places, groups in self._batches(self.sample):
                clean = self._features(groups)
                moved = [self._features([apply(images, strength) for images in groups]) for strength in grid]
                cosines.append(torch.stack([whitening.cosine(clean, each) for each in moved]).float())
                distances.append(torch.stack([whitening.distance(clean, each) for each in moved]).float())
                progress.advance(len(places) * len(grid))
        return self._checked(transformation, cosine=torch.cat(cosines, 1), distance=torch.cat(distances, 1))

    def _checked(self, transformation: str, **tensors: torch.Tensor) -> Tensors:
        if not _finite(tensors):
            raise EvaluationError(
                f"{self.name} gives features that are not finite for images under {transformation}",
                "its weights are at fault; with --amp, try without",
            )
        return tensors

    def _pairs(self) -> Tensors:
        """Cosines and distances of every pair of images of one object, float32 [pairs]."""
        whitening, features, objects = self._whitening(), [], []
        for places, groups in self._batches(self.places):
            features.append(self._features(groups))
            objects += [self._object(place) for place in places]
        joined = torch.cat(features)
        members: dict[str, list[int]] = {}
        for row, each in enumerate(objects):
            members.setdefault(each, []).append(row)
        pairs = [pair for rows in members.values() for pair in combinations(rows, 2)]
        if not pairs:
            raise EvaluationError(
                f"{self.images.name} has no two images of one object", "name the files OBJECT_VARIANT, as cup_left.png"
            )
        first, second = (joined[list(rows)] for rows in zip(*pairs, strict=True))
        cosine, distance = whitening.cosine(first, second).float(), whitening.distance(first, second).float()
        return self._checked(VARIANTS, cosine=cosine, distance=distance)

    def _object(self, place: tuple[int, int]) -> str:
        image_id = self.images.read_group(place[0])[place[1]].image_id
        path = Path(image_id)
        if not (match := _VARIANT.fullmatch(path.stem)):
            raise EvaluationError(
                f"{self.images.name}: {image_id!r} names no object and variant", "name the files OBJECT_VARIANT"
            )
        return str(path.with_name(match["object"]))

    def _batches(self, places: list[tuple[int, int]]) -> Iterator[tuple[list[tuple[int, int]], list[torch.Tensor]]]:
        """The readable images in batches, by size inside a batch: their places, and one uint8 tensor per size."""
        step = self.config.batch_size
        group, records = -1, []
        for start in range(0, len(places), step):
            by_size: dict[tuple[int, ...], list[tuple[tuple[int, int], torch.Tensor]]] = {}
            for place in places[start : start + step]:
                if place[0] != group:
                    group, records = place[0], self.images.read_group(place[0])
                try:
                    pixels = torch.from_numpy(np.array(records[place[1]].decode())).permute(2, 0, 1)
                except OSError:
                    continue
                by_size.setdefault(tuple(pixels.shape), []).append((place, pixels))
            if by_size:
                found = [place for rows in by_size.values() for place, _ in rows]
                yield found, [torch.stack([x for _, x in rows]).to(self.device) for rows in by_size.values()]

    @torch.inference_mode()
    def _features(self, groups: list[torch.Tensor]) -> torch.Tensor:
        """Features float32 [N, D] of uint8 images, one tensor per size."""
        shown = torch.cat([to_network(images, self.preprocessing) for images in groups])
        try:
            with torch.autocast(self.device.type, enabled=self.config.amp):
                return self.module(shown).float()
        except (AssertionError, RuntimeError, ValueError) as error:
            raise EvaluationError(
                f"{self.name} does not take {len(shown)} images of {shown.shape[-1]} pixels: {one_line(error)}",
                "give --crop-size the size that it was trained for, or lower --batch-size",
            ) from None


def _finite(tensors: Tensors) -> bool:
    return all(bool(each.isfinite().all()) for each in tensors.values())
