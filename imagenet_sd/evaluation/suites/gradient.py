"""The probe `gradient` on one data set, with the controls of the paper's Tab. 1 on request."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from imagenet_sd.core.progress import counted, duration, note, size
from imagenet_sd.core.results import Accuracies, ProbeResult
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.images import ImageSet, LabelledImage
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError, Metric
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted, extract
from imagenet_sd.evaluation.metrics import combine, score
from imagenet_sd.evaluation.probes.gradient import FineTuned, GradientClassifier, GradientTrainer, Start, predict
from imagenet_sd.evaluation.probes.logreg import LogisticProblem
from imagenet_sd.evaluation.probes.rows import LARGE
from imagenet_sd.evaluation.probes.search import SearchSettings, search_c, stratified_split
from imagenet_sd.evaluation.probes.split import SplitEncoder, Trunk, randomised, run_before
from imagenet_sd.evaluation.splits import check_apart, check_classes, noted, open_apart
from imagenet_sd.evaluation.suites.probing import aligned, selection_metric

CONTROLS = ("activations", "random-omega", "random-theta2", "random-theta1", "fine-tuned")
_EXAMPLES = 64
"""Images that the computation is followed on, and that random batch norms are set by."""


def measure_gradient(
    encoders: list[Encoder], name: str, spec: DataSpec, config: EvalConfig, cache: Path
) -> tuple[list[ProbeResult], bool]:
    """Gradient features of one data set, the logistic regression that they start from, and the controls.

    Args:
        encoders: one encoder.
        name: of the data.
        spec: the data.
        config: `blocks`, `gradient_training`, `gradient_steps`, `ntk`, `controls`, seeds, and how C is chosen
            (`trials`, `validation_share`, `selection`).
        cache: folder of the feature cache, where the activations at the cut are kept as well.

    Returns:
        One result per model, and whether all features came from the cache.

    Raises:
        EvaluationError: there are several encoders, one class, or no such block or control.
    """
    if len(encoders) > 1:
        raise EvaluationError("the probe gradient takes one encoder", "give one")
    asked = [part.strip() for part in config.controls.split(",") if part.strip()]
    controls = CONTROLS if asked == ["all"] else tuple(asked)
    if unknown := [each for each in controls if each not in CONTROLS]:
        raise EvaluationError(f"no control {unknown[0]!r}", f"use some of {', '.join(CONTROLS)}, or all")
    task = _Task(encoders[0], name, spec, config, cache)
    return list(task.results(controls)), task.from_cache


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Inputs:
    """Features and activations at the cut of one split (memory maps where they are large), and its labels."""

    features: np.ndarray
    activations: np.ndarray
    labels: np.ndarray


class _Task:
    """One encoder on one data set."""

    def __init__(self, encoder: Encoder, name: str, spec: DataSpec, config: EvalConfig, cache: Path):
        self.encoder, self.name, self.config, self.cache = encoder, name, config, cache
        *self.sets, note = open_apart(name, spec)
        check_classes(self.sets[0])
        self.metric: Metric = selection_metric(spec, "lbfgs", config)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.from_cache = True
        self.train, self.test = (self._extract(encoder, images) for images in self.sets)
        self.note = "; ".join(filter(None, (note, check_apart(self.train, self.test, name))))
        features, labels, self.num_classes = aligned(self.train, self.test, name)
        self.labels = (self.train.data.labels, labels)
        self.features = (self.train.data.features, features)
        self.blocks = tuple(part.strip() for part in config.blocks.split(",") if part.strip())
        self.examples = self._examples()
        self.split = SplitEncoder(encoder.module.to(self.device), self.blocks, self.examples)
        self._state_memory()
        self.inputs = self._inputs(self.split, "")
        self.trainer = GradientTrainer(
            steps=config.gradient_steps, training=config.gradient_training, device=self.device
        )

    def results(self, controls: tuple[str, ...]) -> Iterator[ProbeResult]:
        """One result per model: the start, gradient features, and the controls."""
        scores: dict[str, list[Accuracies]] = {}
        chosen = []
        for number, seed in enumerate(self.config.seeds):
            start, best = self._start(seed)
            chosen.append(best)
            for kind in ("start", "gradient", *controls):
                split, (train, test) = self.split, self.inputs
                if kind == "random-theta1":
                    split = self._random_theta1(seed)
                    train, test = self._inputs(split, f"random below {seed} {self.train.cache_key}")
                model = self._model(kind, start, split, seed).to(self.device)
                if kind != "start":
                    if not number:
                        self._state_time(kind, model, train)
                    self.trainer.train(model, train.features, train.activations, train.labels, seed)
                logits = predict(model, test.features, test.activations, self.device)
                scores.setdefault(kind, []).append(score(logits, test.labels, seed))
        for number, (kind, found) in enumerate(scores.items()):
            yield noted(self._result(kind, found, chosen), self.note, said=number > 0)

    def _model(self, kind: str, start: Start, split: SplitEncoder, seed: int) -> nn.Module:
        ntk = self.config.ntk
        if kind in ("start", "activations"):
            return GradientClassifier(start, None)
        if kind == "fine-tuned":
            return FineTuned(start, split, ntk=ntk and self.config.gradient_training == "paper")
        if kind == "random-theta2":
            return GradientClassifier(start, split, theta2=self._random_theta2(seed).theta2, ntk=ntk)
        omega = None
        if kind == "random-omega":
            noise = torch.randn(start.omega.shape, generator=torch.Generator().manual_seed(seed))
            omega = noise.to(start.omega) * start.omega.std()
        return GradientClassifier(start, split, omega=omega, ntk=ntk)

    def _start(self, seed: int) -> tuple[Start, dict[str, float]]:
        """The logistic regression on the features, C chosen as by the probe lbfgs."""
        x, y = self.train.data.features, self.train.data.labels
        rows = stratified_split(y, self.config.validation_share, self.name, seed)
        settings = SearchSettings(metric=self.metric)
        best = search_c(x, y, self.num_classes, rows, self.config.trials, seed, settings)
        solution = LogisticProblem(x, y, self.num_classes).solve([best["C"]], tolerance=1e-6)
        omega, bias = (
            torch.from_numpy(each[0].astype(np.float32)).to(self.device)
            for each in (solution.weights, solution.intercepts)
        )
        return Start(omega=omega, bias=bias), best

    def _in_blocks(self, submodule: str) -> bool:
        return any(submodule == block or submodule.startswith(f"{block}.") for block in self.blocks)

    def _random_theta2(self, seed: int) -> SplitEncoder:
        module = randomised(self.encoder.module, self._in_blocks, self.examples, seed)
        return SplitEncoder(module, self.blocks, self.examples)

    def _random_theta1(self, seed: int) -> SplitEncoder:
        below = run_before(self.encoder.module, self.blocks, self.examples)
        module = randomised(self.encoder.module, below.__contains__, self.examples, seed)
        return SplitEncoder(module, self.blocks, self.examples)

    def _extract(self, encoder: Encoder, images: ImageSet) -> Extracted:
        found = extract(encoder, images, self.config, self.cache)
        self.from_cache &= found.from_cache
        return found

    def _inputs(self, split: SplitEncoder, variant: str) -> tuple[_Inputs, _Inputs]:
        """Of both splits; the activations come from the feature cache."""
        facts = f"{self.encoder.fingerprint} {self.blocks} {variant}"
        trunk = _as_encoder(self.encoder, Trunk(split), hashlib.sha256(facts.encode()).hexdigest())
        found = [self._extract(trunk, images).data.features for images in self.sets]
        train, test = (
            _Inputs(features=features, activations=flat.reshape(-1, *split.shape), labels=labels)
            for features, flat, labels in zip(self.features, found, self.labels, strict=True)
        )
        return train, test

    def _examples(self) -> torch.Tensor:
        """A few normalised training images float [N, 3, S, S], through the same door as all others."""
        few = _Some(self.sets[0], _EXAMPLES)
        pixels = _as_encoder(self.encoder, nn.Flatten(), "pixels")
        flat = torch.from_numpy(extract(pixels, few, self.config, self.cache).data.features)
        size = round((flat.shape[1] / 3) ** 0.5)
        return flat[:_EXAMPLES].view(-1, 3, size, size).to(self.device)

    def _state_memory(self) -> None:
        """Say what the activations and weights need."""
        images = sum(len(each) for each in self.features)
        needed = 4 * images * int(np.prod(self.split.shape))
        weights = sum(value.numel() for value in self.split.theta2.values())
        shape = "x".join(map(str, self.split.shape))
        note(
            f"{self.name}: activations at {self.blocks[0]} {shape} of {counted(images, 'image')}, {size(needed)} "
            f"{'in files' if needed > LARGE else 'in memory'}; "
            f"theta2 has {weights:,} weights, {size(4 * 4 * weights)} with gradient and optimiser"
        )

    def _state_time(self, kind: str, model: nn.Module, train: _Inputs) -> None:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        seconds = self.trainer.seconds_per_step(model, train.features, train.activations, train.labels)
        model.load_state_dict(before)
        total = seconds * self.trainer.steps
        note(
            f"{self.name}: {kind}, {self.trainer.steps:,} steps of {1000 * seconds:.1f} ms: about {duration(total)} "
            "for each seed"
        )

    def _result(self, kind: str, found: list[Accuracies], chosen: list[dict[str, float]]) -> ProbeResult:
        settings: dict[str, Any] = {"blocks": ",".join(self.blocks)}
        if kind != "start":
            settings |= {"training": self.config.gradient_training, "steps": self.config.gradient_steps}
        if kind not in ("start", "activations"):
            settings["ntk"] = self.config.ntk and (kind != "fine-tuned" or self.config.gradient_training == "paper")
        return ProbeResult(
            dataset=self.name,
            split="test",
            probe=kind if kind == "gradient" else f"gradient-{kind}",
            **combine(found),
            num_train=len(self.labels[0]),
            num_classes=self.num_classes,
            seeds=self.config.seeds,
            hyper_parameters=tuple(best | settings for best in chosen),
            selected_by=self.metric,
            cache_keys=(self.train.cache_key, self.test.cache_key),
            unreadable=(*self.train.unreadable, *self.test.unreadable),
        )


def _as_encoder(like: Encoder, module: nn.Module, fingerprint: str) -> Encoder:
    return Encoder(name=like.name, module=module, fingerprint=fingerprint, crop_size=like.crop_size, own=like.own)


class _Some:
    """The images of evenly spaced groups of a set, at least `count` of them where there are so many."""

    def __init__(self, images: ImageSet, count: int):
        self.images, self.name, self.classes = images, images.name, images.classes
        sizes = images.group_sizes
        number = min(len(sizes), max(1, -(-count * len(sizes) // max(1, sum(sizes)))))
        self.groups = np.unique(np.linspace(0, len(sizes) - 1, number).round().astype(int)).tolist()
        self.group_sizes = [sizes[group] for group in self.groups]

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`."""
        return self.images.read_group(self.groups[group])
