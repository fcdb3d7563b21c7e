"""SGD, its parameter groups, and the learning rate in closed form."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from imagenet_sd.training.config import OptimizerConfig


def learning_rate(step: int, steps_per_epoch: int, config: OptimizerConfig) -> float:
    """Learning rate at a step: linear from 0 to the peak over the warm-up, then half a cosine down to `min_lr`.

    peak = base_lr * batch_size / 256 (Tab. C.1). With warm-up W and total T steps, at s >= W:
    min_lr + (peak - min_lr) (1 + cos(pi (s - W) / (T - W))) / 2.
    """
    peak = peak_rate(config)
    total, warmup = config.epochs * steps_per_epoch, round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return config.min_lr + (peak - config.min_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def make_optimizer(model: nn.Module, config: OptimizerConfig, constant: Iterable[nn.Parameter] = ()) -> torch.optim.SGD:
    """SGD with momentum; biases and one-dimensional parameters (norms) are not decayed.

    Args:
        model: whose parameters are trained.
        config: settings.
        constant: those of them whose learning rate is always the peak; in groups that say `constant`.
    """
    held = {id(p) for p in constant}
    groups = []
    for is_held in (False, True) if held else (False,):
        parameters = [p for p in model.parameters() if p.requires_grad and (id(p) in held) == is_held]
        groups += [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay, "constant": is_held},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "constant": is_held},
        ]
    return torch.optim.SGD(groups, lr=config.base_lr, momentum=config.momentum, nesterov=config.nesterov)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, steps_per_epoch: int, config: OptimizerConfig
) -> float:
    """Give every group its `learning_rate` at a step, or its constant one; returns the former."""
    rate = learning_rate(step, steps_per_epoch, config)
    for group in optimizer.param_groups:
        group["lr"] = peak_rate(config) if group["constant"] else rate
    return rate


def peak_rate(config: OptimizerConfig) -> float:
    """base_lr * batch_size / 256 (Tab. C.1)."""
    return config.base_lr * config.batch_size / 256


@torch.no_grad()
def ema_update(ema_model: nn.Module, model: nn.Module, momentum: float) -> None:
    """ema_model = momentum * ema_model + (1 - momentum) * model, over parameters only, not batch-norm buffers."""
    for average, current in zip(ema_model.parameters(), model.parameters(), strict=True):
        average.lerp_(current.detach().to(average.dtype), 1 - momentum)
