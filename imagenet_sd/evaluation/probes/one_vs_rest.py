"""One-vs-rest logistic regression on a handful of images, for many tasks at once (the episodes of AugSelf)."""

import torch


@torch.no_grad()
def one_vs_rest(support: torch.Tensor, labels: torch.Tensor, query: torch.Tensor, c: float = 1.0) -> torch.Tensor:
    """Scores of the binary classifier of every class, in each of T tasks.

    Minimises ||w||^2 / 2 + b^2 / 2 + C sum_i log(1 + exp(-y_i (w^T x_i + b))) for y_i = +1 in the class and -1 outside:
    the objective of liblinear, whose intercept is penalised. The optimum is w = X^T a with a = C y / (1 + exp(y f)),
    f = K a and K = X X^T + 1, so Newton's method works on n numbers, whatever the dimension.

    Args:
        support: training features float [T, n, D].
        labels: int64 [n], 0 .. ways - 1, the same in every task.
        query: test features float [T, m, D].
        c: inverse strength of the penalty.

    Returns:
        float64 [T, m, ways].
    """
    x, z = support.double(), query.double()
    k = (x @ x.transpose(1, 2) + 1).unsqueeze(1)  # [T, 1, n, n]
    ways = int(labels.max()) + 1
    y = torch.where(labels == torch.arange(ways, device=labels.device)[:, None], 1.0, -1.0).to(x)  # [ways, n]
    a = torch.zeros(len(x), ways, len(labels)).to(x)

    def times_k(v: torch.Tensor) -> torch.Tensor:
        return (k @ v[..., None])[..., 0]

    def objective(v: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return 0.5 * (v * f).sum(2) + c * torch.nn.functional.softplus(-y * f).sum(2)

    identity, f = torch.eye(len(labels)).to(x), times_k(a)
    for _ in range(100):
        p = torch.sigmoid(-y * f)
        residual = a - c * y * p
        gradient_norm = (residual * times_k(residual)).sum(2)  # squared norm of the gradient with respect to (w, b)
        if bool((gradient_norm <= 1e-16 * (1 + c * len(labels)) ** 2 * k.diagonal(dim1=2, dim2=3).amax(2)).all()):
            break
        step = torch.linalg.solve(identity + c * (p * (1 - p))[..., None] * k, residual)
        slope = -(times_k(residual) * step).sum(2)
        value, size = objective(a, f), torch.ones_like(gradient_norm)
        f_step = times_k(step)
        for _ in range(40):  # halve the step where the objective does not fall enough
            short = objective(a - size[..., None] * step, f - size[..., None] * f_step) > value + 1e-4 * size * slope
            short &= slope.abs() > 1e-13 * value
            if not bool(short.any()):
                break
            size = torch.where(short, size / 2, size)
        a, f = a - size[..., None] * step, f - size[..., None] * f_step
    return (z @ x.transpose(1, 2) + 1) @ a.transpose(1, 2)
