"""Convolutions for encoders that train on a CPU, where PyTorch's own choice is slow for small images."""

import torch
import torch.nn.functional as F
from torch import nn

_SMALL_MAP = 4
"""Pixels of an output map, 2 x 2, up to which a product of matrices is faster (measured: 4 x 4 is slower)."""


class CPUConv2d(nn.Conv2d):
    """`nn.Conv2d` up to rounding; on a CPU in the layout and by the method that is faster there.

    In bfloat16, channels last is faster, which the layers behind keep. On maps of very few pixels, the last stage for
    images of 32, the gradients of the weights take a third of a training step; there the convolution is a product of
    patches and weights.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Maps float [N, C, H, W] to [N, C', H', W']."""
        if (
            input.device.type != "cpu"
            or self.groups > 1
            or self.padding_mode != "zeros"
            or isinstance(self.padding, str)
        ):
            return super().forward(input)
        size = [
            (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for length, padding, dilation, kernel, stride in zip(
                input.shape[2:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        ]
        if size[0] * size[1] > _SMALL_MAP or self.kernel_size == (1, 1):
            if torch.is_autocast_enabled("cpu"):
                input = input.contiguous(memory_format=torch.channels_last)
            return super().forward(input)
        if size == [1, 1] and self.dilation == (1, 1):  # the rest of the kernel lies on the padding, or on nothing
            (top, left), (height, width) = self.padding, input.shape[2:]
            kernel = self.weight[:, :, top : top + height, left : left + width]
            seen = input[:, :, : kernel.shape[2], : kernel.shape[3]]
            return F.linear(seen.flatten(1), kernel.flatten(1), self.bias)[:, :, None, None]
        patches = F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)  # [N, C k k, H' W']
        maps = F.linear(patches.transpose(1, 2).flatten(0, 1), self.weight.flatten(1), self.bias)
        return maps.view(len(input), *size, -1).permute(0, 3, 1, 2)


def use_cpu_convolutions(module: nn.Module) -> nn.Module:
    """The module, with each plain `nn.Conv2d` in it a `CPUConv2d` of the same weights."""
    for each in module.modules():
        if type(each) is nn.Conv2d:
            each.__class__ = CPUConv2d
    return module
