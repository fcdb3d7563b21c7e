"""Gradients as features: a linear model on activations and Jacobian-vector products.

g(x) = w1^T f(x) + omega^T J(x) w2 (eq. 2 of "Gradients as features for deep representation learning"): f are the
activations, J their Jacobian with respect to the weights theta2 of the last blocks at their pre-trained values, omega a
logistic regression on f. w1 starts at omega, w2 at 0; only they are trained. It linearises fine-tuning (eq. 3).
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.evaluation.config import GradientTraining
from imagenet_sd.evaluation.probes.split import SplitEncoder, Weights


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Start:
    """The logistic regression that everything starts from: weights float32 [d, C] and biases [C]."""

    omega: torch.Tensor
    bias: torch.Tensor


class GradientClassifier(nn.Module):
    """Eq. 2.

    Args:
        start: w1 starts there.
        split: the encoder; None leaves the gradient term out (activations alone).
        theta2: where J is taken; None: at the pre-trained weights.
        omega: what stands before J; None: that of `start`.
        ntk: parametrise theta2 as W = V / sqrt(out_channels), b = sqrt(0.1) c and take J with respect to V and c.
    """

    omega: torch.Tensor

    def __init__(
        self,
        start: Start,
        split: SplitEncoder | None,
        theta2: Weights | None = None,
        omega: torch.Tensor | None = None,
        ntk: bool = False,
    ):
        super().__init__()
        self.w1, self.bias = nn.Parameter(start.omega.clone()), nn.Parameter(start.bias.clone())
        # A copy: in the memory of w1, training w1 would change the Jacobian's classifier as well.
        self.register_buffer("omega", (start.omega if omega is None else omega).clone())
        self.split, self.ntk = split, ntk
        self.theta2 = {} if split is None else {k: v.detach() for k, v in (theta2 or split.theta2).items()}
        self.scales = {name: _ntk_scale(value) if ntk else 1.0 for name, value in self.theta2.items()}
        self.w2 = nn.ParameterList([torch.zeros_like(value) for value in self.theta2.values()])

    def forward(self, features: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """Logits [N, C] from features [N, d] and activations at the cut [N, ...]."""
        logits = features @ self.w1 + self.bias
        if self.split is None:
            return logits
        w2 = {name: scale * each for (name, scale), each in zip(self.scales.items(), self.w2, strict=True)}
        return logits + self.split.jacobian_product(activations, self.theta2, w2) @ self.omega


def _ntk_scale(value: torch.Tensor) -> float:
    """d(effective)/d(parameter) in the NTK parametrisation of the official code."""
    return math.sqrt(0.1) if value.ndim < 2 else 1 / math.sqrt(value.shape[0])


class FineTuned(nn.Module):
    """The upper bound: theta2 and the classifier themselves are trained, from the same start.

    Args:
        start: w1 starts there.
        split: the encoder.
        ntk: parametrise theta2 as `GradientClassifier` does: V and c are trained.
    """

    def __init__(self, start: Start, split: SplitEncoder, ntk: bool = False):
        super().__init__()
        self.w1, self.bias = nn.Parameter(start.omega.clone()), nn.Parameter(start.bias.clone())
        self.split, self.names = split, list(split.theta2)
        self.scales = [_ntk_scale(value) if ntk else 1.0 for value in split.theta2.values()]
        values = zip(split.theta2.values(), self.scales, strict=True)
        self.theta2 = nn.ParameterList([value / scale for value, scale in values])

    def forward(self, features: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """Logits [N, C]; `features` are not used: they are computed again under the trained weights."""
        values = zip(self.theta2, self.scales, strict=True)
        theta2 = dict(zip(self.names, (scale * value for value, scale in values), strict=True))
        return self.split.features(activations, theta2) @ self.w1 + self.bias


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientTrainer:
    """How these models are trained, with cross-entropy.

    The paper: Adam, learning rate 1e-3, no weight decay, for all models. The official code: SGD with momentum 0.9 and
    gradients clipped to norm 10; gradient features learning rate 0.1, weight decay 5e-5, halved after each fifth of the
    steps; fine-tuning 1e-3, the same otherwise; activations alone 0.01, 1e-6, after each quarter. The rates of gradient
    features belong to the NTK parametrisation, which the code has for w1 and its bias too.
    """

    steps: int
    training: GradientTraining = "paper"
    batch_size: int = 128
    device: str = "cpu"

    def train(
        self, model: nn.Module, features: np.ndarray, activations: np.ndarray, labels: np.ndarray, seed: int
    ) -> None:
        """Train a model in place, over permutations of the images.

        Args:
            model: a classifier of this file.
            features: float32 [N, d].
            activations: float32 [N, ...] at the cut, an array or a memory map.
            labels: int64 [N].
            seed: of the order.
        """
        alone = getattr(model, "split", None) is None
        parameters = list(model.parameters())
        optimizer, every = self.optimizer(model)
        generator, rows = torch.Generator().manual_seed(seed), torch.zeros(0, dtype=torch.int64)
        for step in range(self.steps):
            if len(rows) < min(self.batch_size, len(labels)):
                rows = torch.randperm(len(labels), generator=generator)
            batch, rows = rows[: self.batch_size].numpy(), rows[self.batch_size :]
            if every and step and step % every == 0:
                for group in optimizer.param_groups:
                    group["lr"] /= 2
            shown = (features[batch], features[:0] if alone else activations[batch], labels[batch])
            x, z, y = (_tensor(each, self.device) for each in shown)
            optimizer.zero_grad()
            F.cross_entropy(model(x, z), y).backward()
            if self.training == "code":
                nn.utils.clip_grad_norm_(parameters, 10)
            optimizer.step()

    def optimizer(self, model: nn.Module) -> tuple[torch.optim.Optimizer, int]:
        """The optimiser of a model, and the steps after which its learning rates are halved; 0 for never."""
        parameters = list(model.parameters())
        if self.training == "paper":
            return torch.optim.Adam(parameters, lr=1e-3), 0
        groups: list[dict[str, Any]] = [{"params": parameters}]
        rate, decay, parts = 1e-3, 5e-5, 5
        if isinstance(model, GradientClassifier):
            rate, decay, parts = (0.01, 1e-6, 4) if model.split is None else (0.1, 5e-5, 5)
            if model.ntk:  # w = scale * v: a step of v by rate r moves w by r scale^2
                groups = [{"params": list(model.w2)}]
                for each, squared in ((model.w1, 1 / model.w1.shape[1]), (model.bias, 0.1)):
                    groups.append({"params": [each], "lr": rate * squared, "weight_decay": decay / squared})
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=decay)
        return optimizer, max(1, self.steps // parts)

    def seconds_per_step(
        self, model: nn.Module, features: np.ndarray, activations: np.ndarray, labels: np.ndarray
    ) -> float:
        """Measured on a few steps of a model that is thrown away."""
        few = GradientTrainer(steps=3, training=self.training, batch_size=self.batch_size, device=self.device)
        few.train(model, features, activations, labels, 0)
        start = time.perf_counter()
        few.train(model, features, activations, labels, 0)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / few.steps


@torch.no_grad()
def predict(
    model: nn.Module, features: np.ndarray, activations: np.ndarray, device: str, batch_size: int = 256
) -> np.ndarray:
    """Logits float32 [N, C], from features [N, d] and activations at the cut [N, ...]."""
    parts = [slice(start, start + batch_size) for start in range(0, len(features), batch_size)]
    logits = [model(_tensor(features[part], device), _tensor(activations[part], device)) for part in parts]
    return torch.cat(logits).cpu().numpy()


def _tensor(values: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(np.array(values)).to(device)  # a copy: a memory map cannot be written to
