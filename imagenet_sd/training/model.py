"""The network under training: a timm encoder and the head of an objective."""

import torch
from torch import nn

from imagenet_sd.core.backbones import create_backbone
from imagenet_sd.core.errors import one_line
from imagenet_sd.training.config import ModelConfig, TrainConfig, TrainingError
from imagenet_sd.training.cpu_convolutions import use_cpu_convolutions


def make_encoder(config: ModelConfig) -> nn.Module:
    """The encoder f without a classifier: images float [N, 3, H, W] to features [N, d].

    With `small_images` the max pooling of a ResNet's stem is left out; names and shapes of the weights stay timm's.

    Raises:
        TrainingError: timm has no model of that name.
    """
    try:
        encoder = create_backbone(config.backbone, zero_init_last=config.zero_init_last, num_classes=0)
    except RuntimeError as error:
        raise TrainingError(
            f"no backbone {config.backbone!r}: {one_line(error)}", "use a name from timm.list_models()"
        ) from None
    if config.small_images:
        if not hasattr(encoder, "maxpool"):
            raise TrainingError(f"{config.backbone} has no max pooling to leave out", "set model.small_images=false")
        encoder.maxpool = nn.Identity()
    return use_cpu_convolutions(encoder)


@torch.no_grad()
def check_sizes(encoder: nn.Module, config: TrainConfig, *, validated: bool) -> None:
    """See that the encoder takes images of the sizes that a run shows it; leaves it in training mode.

    Raises:
        TrainingError: it does not, such as a ViT that was made for others; the message names the setting.
    """
    sizes = {"crops.global_crop_size": config.crops.global_crop_size}
    sizes |= {"crops.local_crop_size": config.crops.local_crop_size} if config.crops.local_crops_number else {}
    sizes |= {"val_crop_size": config.val_crop_size} if validated else {}
    encoder.eval()
    for name, size in sizes.items():
        try:
            encoder(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{config.model.backbone} does not take images of {size} pixels ({name}): {one_line(error)}",
                f"set {name}, as with --set {name}=224"
                + ("; crops.local_crops_number=0 leaves local crops out" * (name == "crops.local_crop_size")),
            ) from None
    encoder.train()


def share_batch_norm(module: nn.Module) -> None:
    """Make every batch norm inside a module one over all processes.

    By timm's function: the batch norms of many of its models carry their activation, which PyTorch's would drop.
    """
    from timm.layers import convert_sync_batchnorm

    convert_sync_batchnorm(module)


def num_features(encoder: nn.Module) -> int:
    """d, the dimension of a timm encoder's features.

    Where its head has a hidden layer, as MobileNetV3's, that is the width of the layer; timm's `num_features` are those
    of the last stage.
    """
    hidden = getattr(encoder, "head_hidden_size", None)
    return int(hidden or getattr(encoder, "num_features"))  # noqa: B009


class EncoderWithHead(nn.Module):
    """All that gradients train; one forward pass over all crops of a batch."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, crops: list[torch.Tensor]) -> torch.Tensor:
        """What the head makes of all crops, resolution by resolution.

        Args:
            crops: one normalised float tensor [N_i, 3, S_i, S_i] per resolution; N_i = M_i * B, crop-major.

        Returns:
            Logits [sum N_i, C], or whatever else the objective's loss takes.
        """
        return self.head(torch.cat([self.encoder(x) for x in crops]))
