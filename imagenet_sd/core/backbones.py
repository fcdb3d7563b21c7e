"""Architectures of timm, with the initial weights that the papers mean. Knows nothing of training or evaluation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def create_backbone(name: str, *, zero_init_last: bool = False, **options: Any) -> "nn.Module":
    """A timm model whose residual branches start as torchvision's do.

    timm's ResNets set the weight of the last batch norm of each block to 0, so that at the start every block passes its
    input on and none of its convolutions reaches the features. The papers' encoders, random ones included, are
    torchvision's, where that weight is 1. Other initial weights have the same distribution.

    Args:
        name: of the model in timm.
        zero_init_last: start with these weights at 0; without effect on architectures that have no such choice.
        options: of `timm.create_model`.

    Raises:
        RuntimeError: timm has no model of that name.
    """
    import timm

    try:
        return timm.create_model(name, zero_init_last=zero_init_last, **options)
    except TypeError as error:
        if "zero_init_last" not in str(error):
            raise
        return timm.create_model(name, **options)  # the architecture has no such choice
