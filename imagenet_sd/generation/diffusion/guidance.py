"""Classifier-free guidance, at every denoising step or in an interval of them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierFreeGuidance:
    """Extrapolates from the unconditional to the conditional noise prediction (Ho & Salimans, 2021).

    noise_pred = noise_pred_uncond + scale * (noise_pred_text - noise_pred_uncond), in the parametrisation of the papers
    on ImageNet-SD: a scale of 1 is no guidance. Steps outside of the interval run the conditional branch alone, at half
    the cost (Kynkäänniemi et al., "Applying guidance in a limited interval improves sample and distribution quality in
    diffusion models", 2024).

    Attributes:
        scale: guidance scale, >= 1.
        interval: (start, end) in [0, 1] as fractions of the schedule from noise (0) to image (1); start is inside, end
            is not.
    """

    scale: float
    interval: tuple[float, float] = (0.0, 1.0)

    def is_active(self, step: int, num_steps: int) -> bool:
        """Whether step number `step` (0-based) of `num_steps` is guided."""
        start, end = self.interval
        return self.scale > 1 and start <= step / num_steps < end

    def unet_batch_sizes(self, batch_size: int) -> list[int]:
        """The batch sizes that the UNet meets: a guided step runs both branches in one batch of twice the size."""
        unguided = self.scale <= 1 or self.interval != (0, 1)
        return [batch_size] * unguided + [2 * batch_size] * (self.scale > 1)

    def combine(self, noise_pred: torch.Tensor) -> torch.Tensor:
        """The guided prediction [batch, ...] from those of both branches, [2 * batch, ...], the unconditional first."""
        noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
        return noise_pred_uncond + self.scale * (noise_pred_text - noise_pred_uncond)
