"""The projector between encoder and loss, thrown away after training."""

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import ModelConfig


class Projector(nn.Module):
    """The expendable projector g of thesis 4.3, Fig. 4.2: x [N, d] to z [N, d_b], of unit length.

    L hidden layers (linear, batch norm, GeLU) of width d_h, then a linear bottleneck without bias to d_b dimensions;
    l2-normalised at the output and, on request, at the input. L = 0 means no projector (Base and Base+Mc of thesis
    Tab. 4.1): z is the l2-normalised x, and d_b is d.

    Attributes:
        dimension: d_b.
    """

    def __init__(self, width: int, config: ModelConfig):
        super().__init__()
        self.input_l2 = config.projector_input_l2
        self.dimension = config.projector_bottleneck if config.projector_layers else width
        layers: list[nn.Module] = []
        for _ in range(config.projector_layers):
            layers += [nn.Linear(width, config.projector_hidden), nn.BatchNorm1d(config.projector_hidden), nn.GELU()]
            width = config.projector_hidden
        if config.projector_layers:
            layers.append(nn.Linear(width, self.dimension, bias=False))
        self.layers = nn.Sequential(*layers)
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor, normalized: bool = True) -> torch.Tensor:
        """Embeddings [N, d_b]; of unit length unless `normalized` is off."""
        z = self.layers(F.normalize(x, dim=1) if self.input_l2 else x)
        return F.normalize(z, dim=1) if normalized else z
