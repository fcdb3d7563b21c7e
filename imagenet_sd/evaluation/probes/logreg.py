"""Multinomial logistic regression solved to a certified gap, for a whole path of regularisations at once.

Minimises scikit-learn's objective, C sum_i CE(W^T x_i + b, y_i) + ||W||^2 / 2 (the intercept b is free), for K values
of C side by side. Two exact changes of variables make it fast: features are centred (only b changes) and rotated onto
their principal axes (||W|| does not change). In that basis the Hessian's bound of Boehning (1992),
I + C Lambda / 2, is diagonal; its inverse square root is the metric that L-BFGS starts from (the inverse itself trusts
the bound too far where classes separate: measured, it needs 2 to 5 times the iterations).

Everything is float64, on the accelerator where there is one. Rotated features that do not fit there stay in memory and
pass through it in chunks, logits exist for one chunk of rows at a time, and values of C are solved in groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imagenet_sd.evaluation.probes.rows import fits, forget, probe_device

_MEMORY = 10
COPIES = 2 * _MEMORY + 10
"""Tensors of the size of the solution that L-BFGS holds at once."""
_ROWS = 8192
LOGITS = 1 << 27
"""Bytes of the logits of a chunk of rows."""
STATE = 1 << 32
"""Bytes of L-BFGS state up to which values of C are solved together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogisticPath:
    """Solutions for K regularisations.

    Attributes:
        cs: the K values of C, increasing.
        weights: float64 [K, D, classes].
        intercepts: float64 [K, classes].
        objectives: float64 [K].
        gaps: float64 [K], bounds of (objective - optimum) / objective; the intercept's share is an estimate.
        iterations: number of L-BFGS iterations.
    """

    cs: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    objectives: np.ndarray
    gaps: np.ndarray
    iterations: int

    def scores(self, features: np.ndarray, k: int) -> np.ndarray:
        """Logits float64 [N, classes] of solution k."""
        scores = np.empty((len(features), self.weights.shape[2]))
        for start in range(0, len(features), _ROWS):
            part = slice(start, start + _ROWS)
            scores[part] = np.asarray(features[part], np.float64) @ self.weights[k] + self.intercepts[k]
        forget(features)
        return scores


class LogisticProblem:
    """Features and labels, prepared once for any number of fits.

    Args:
        features: float [N, D].
        labels: int64 [N] in 0 .. num_classes - 1.
        num_classes: number of classes.
        rows: int64, the images that count; None: all.
        device: where to compute; None: the accelerator where there is one that knows float64.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        rows: np.ndarray | None = None,
        device: torch.device | None = None,
    ):
        self.device, self.num_classes = device or probe_device(double=True), num_classes
        rows = np.arange(len(features)) if rows is None else rows
        n, d = len(rows), features.shape[1]
        self.mean = torch.zeros(d, dtype=torch.float64, device=self.device)
        self.mean = sum((x.sum(0) for x in self._centred(features, rows)), self.mean) / n
        if d <= n:
            gram = sum((x.T @ x for x in self._centred(features, rows)), torch.zeros((), device=self.device))
        else:
            x = torch.cat(list(self._centred(features, rows)))
            gram = x @ x.T
        values, vectors = torch.linalg.eigh(gram)
        kept = values > values[-1].clamp(min=1e-300) * 1e-13
        values, vectors = values[kept], vectors[:, kept]
        self.axes = vectors if d <= n else x.T @ vectors / values.sqrt()  # pyright: ignore[reportPossiblyUnboundVariable]
        store = self.device if fits(8 * n * (len(values) + 1), self.device) else torch.device("cpu")
        self.x = torch.ones(n, len(values) + 1, dtype=torch.float64, device=store)
        for first, x in enumerate(self._centred(features, rows)):
            self.x[first * _ROWS : first * _ROWS + len(x), :-1] = x @ self.axes
        ones = torch.ones(1, dtype=torch.float64, device=self.device)
        self.curvature = torch.cat([values, n * ones])
        self.penalty = torch.cat([torch.ones_like(values), 0 * ones])
        self.y = torch.as_tensor(labels[rows], device=self.device)

    def _centred(self, features: np.ndarray, rows: np.ndarray) -> Iterator[torch.Tensor]:
        """Chunks float64 of the features, less the mean."""
        for start in range(0, len(rows), _ROWS):
            x = torch.from_numpy(np.asarray(features[rows[start : start + _ROWS]], np.float64)).to(self.device)
            forget(features)
            yield x - self.mean

    def _evaluate(self, w: torch.Tensor, cs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Objectives [K] and gradients [K, R, classes] at w."""
        k, r, c = w.shape
        flat = w.permute(1, 0, 2).reshape(r, k * c)
        losses = torch.zeros(k, dtype=w.dtype, device=w.device)
        gradient = torch.zeros_like(flat)
        step = max(1, LOGITS // (8 * k * c))
        for start in range(0, len(self.x), step):
            x = self.x[start : start + step].to(w.device)
            rows = self.y[start : start + step].view(-1, 1, 1).expand(-1, k, 1)
            logits = (x @ flat).view(-1, k, c)
            log_z = torch.logsumexp(logits, 2)
            losses += (log_z - logits.gather(2, rows)[:, :, 0]).sum(0)
            p = torch.exp_(logits.sub_(log_z[:, :, None]))
            p.scatter_add_(2, rows, torch.full_like(rows, -1, dtype=p.dtype))
            gradient += x.T @ p.view(-1, k * c)
        penalised = w * self.penalty[:, None]
        values = cs * losses + 0.5 * (penalised**2).sum((1, 2))
        return values, cs[:, None, None] * gradient.view(r, k, c).permute(1, 0, 2) + penalised

    @torch.no_grad()
    def solve(self, cs: Sequence[float], tolerance: float = 1e-7, max_iterations: int = 2000) -> LogisticPath:
        """Fit every C of `cs` until the bound ||g||^2 / 2 of the gap is below `tolerance` times the objective.

        The objective is 1-strongly convex in W, so f - f* <= ||g||^2 / 2.

        Args:
            cs: positive values.
            tolerance: relative gap.
            max_iterations: of L-BFGS.
        """
        order = np.sort(np.asarray(cs, float))
        group = max(1, STATE // (8 * COPIES * self.x.shape[1] * self.num_classes))
        return _joined(
            [
                self._solve(order[start : start + group], tolerance, max_iterations)
                for start in range(0, len(order), group)
            ]
        )

    def _solve(self, order: np.ndarray, tolerance: float, max_iterations: int) -> LogisticPath:
        c = torch.as_tensor(order, dtype=torch.float64, device=self.device)
        w = torch.zeros(len(c), self.x.shape[1], self.num_classes, dtype=torch.float64, device=self.device)
        value, gradient = self._evaluate(w, c)
        solution, values, gaps = w.clone(), value.clone(), torch.full_like(value, float("inf"))
        active = torch.arange(len(c), device=c.device)
        state = _Lbfgs((self.penalty + 0.5 * c[:, None] * self.curvature) ** -0.5)
        iteration = 0
        while len(active) and iteration < max_iterations:
            gap = 0.5 * (gradient**2 / self._strength(c)).sum((1, 2)) / value.clamp(min=1e-300)
            solution[active], values[active], gaps[active] = w, value, gap
            going = gap > tolerance
            if not bool(going.all()):
                active, w, value, gradient, c = (t[going] for t in (active, w, value, gradient, c))
                state.keep(going)
                if not len(active):
                    break
            direction = state.direction(gradient)
            w_new, value_new, gradient_new = self._search(w, value, gradient, direction, c)
            state.remember(w_new - w, gradient_new - gradient)
            stuck = (value_new >= value).all()
            w, value, gradient = w_new, value_new, gradient_new
            iteration += 1
            if bool(stuck):
                break
        rotated = solution[:, :-1]
        weights = torch.einsum("dr,krc->kdc", self.axes, rotated)
        intercepts = solution[:, -1] - torch.einsum("d,kdc->kc", self.mean, weights)
        return LogisticPath(
            cs=order,
            weights=weights.cpu().numpy(),
            intercepts=intercepts.cpu().numpy(),
            objectives=values.cpu().numpy(),
            gaps=gaps.cpu().numpy(),
            iterations=iteration,
        )

    def _strength(self, c: torch.Tensor) -> torch.Tensor:
        """Curvature that the gap is judged by, [K, R, 1]: 1 for the weights, an estimate (C N / 4 classes) for b."""
        strength = torch.ones(len(c), len(self.penalty), 1, dtype=torch.float64, device=c.device)
        strength[:, -1, 0] = c * len(self.y) / (4 * self.num_classes)
        return strength

    def _search(
        self, w: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor, direction: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Backtracking per problem until the objective falls enough (Armijo); convexity gives the curvature."""
        slope = (gradient * direction).sum((1, 2))
        step = torch.ones_like(value)
        w_new, value_new, gradient_new = w.clone(), value.clone(), gradient.clone()
        todo = torch.arange(len(value), device=value.device)
        for _ in range(30):
            trial = w[todo] + step[todo, None, None] * direction[todo]
            f, g = self._evaluate(trial, c[todo])
            good = f <= value[todo] + 1e-4 * step[todo] * slope[todo] + 1e-14 * value[todo].abs()
            done = todo[good]
            w_new[done], value_new[done], gradient_new[done] = trial[good], f[good], g[good]
            todo = todo[~good]
            if not len(todo):
                break
            step[todo] *= 0.5
        return w_new, value_new, gradient_new


def _joined(paths: list[LogisticPath]) -> LogisticPath:
    """Solutions of groups of values as one."""
    if len(paths) == 1:
        return paths[0]
    arrays = ("cs", "weights", "intercepts", "objectives", "gaps")
    joined = {name: np.concatenate([getattr(path, name) for path in paths]) for name in arrays}
    return LogisticPath(**joined, iterations=max(path.iterations for path in paths))


class _Lbfgs:
    """Inverse-Hessian estimates of K problems: two-loop recursion over the last pairs and a diagonal metric [K, R]."""

    def __init__(self, metric: torch.Tensor):
        self.metric = metric[:, :, None]
        self.pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        q, alphas = gradient.clone(), []
        for s, y, rho in reversed(self.pairs):
            alpha = rho * (s * q).sum((1, 2))
            q -= alpha[:, None, None] * y
            alphas.append(alpha)
        q = q * self.metric
        if self.pairs:
            s, y, rho = self.pairs[-1]
            scale = (s * y).sum((1, 2)) / (y * y * self.metric).sum((1, 2)).clamp(min=1e-300)
            q *= torch.where(rho > 0, scale, torch.ones_like(scale))[:, None, None]
        for (s, y, rho), alpha in zip(self.pairs, reversed(alphas), strict=True):
            beta = rho * (y * q).sum((1, 2))
            q += (alpha - beta)[:, None, None] * s
        return -q

    def remember(self, s: torch.Tensor, y: torch.Tensor) -> None:
        curvature = (s * y).sum((1, 2))
        usable = curvature > 1e-300
        rho = torch.where(
            usable, 1 / curvature.clamp(min=1e-300), torch.zeros_like(curvature)
        )  # 0: the pair is ignored
        self.pairs = [*self.pairs[-(_MEMORY - 1) :], (s, y, rho)]

    def keep(self, which: torch.Tensor) -> None:
        self.metric = self.metric[which]
        self.pairs = [(s[which], y[which], rho[which]) for s, y, rho in self.pairs]


def lambda_path(concatenations: int = 0) -> np.ndarray:
    """The 45 log-spaced values of lambda from 1e-6 to 1e5 (Kornblith et al., 2019); C = 1 / lambda.

    Args:
        concatenations: each lets the range end 100 times higher, at the same spacing (Ericsson et al., 2022): features
            side by side have larger norms, and more of them can overfit.
    """
    return np.logspace(-6, 5 + 2 * concatenations, 45 + 8 * concatenations)
