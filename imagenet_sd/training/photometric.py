"""Photometric operations on whole batches, with parameters per image, on the training device.

Each operation equals its counterpart in torchvision (float tensors) or Pillow; the tests compare them. Images are float
[N, 3, H, W] in [0, 1]; parameters are float [N].
"""

import torch
import torch.nn.functional as F

from imagenet_sd.data.preprocess import MEAN, STD

_LUMA = (0.2989, 0.587, 0.114)


def to_gray(images: torch.Tensor) -> torch.Tensor:
    """ITU-R 601 luma, [N, 1, H, W]."""
    r, g, b = images.unbind(1)
    return (_LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b)[:, None]


def _blend(images: torch.Tensor, others: torch.Tensor | float, factor: torch.Tensor) -> torch.Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * others).clamp(0, 1)


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with black; factor 1 changes nothing."""
    return _blend(images, 0.0, factor)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the mean luma of the image."""
    return _blend(images, to_gray(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the image's luma."""
    return _blend(images, to_gray(images), factor)


def adjust_hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue circle by `shift` in [-0.5, 0.5] of a full turn."""
    r, g, b = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    chroma = high - low
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(high == r, ((g - b) / safe) % 6, torch.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
    hue = (hue / 6 + shift.view(-1, 1, 1)) % 1.0
    saturation = torch.where(high == 0, torch.zeros_like(high), chroma / torch.where(high == 0, safe, high))
    channels = []
    for n in (5.0, 3.0, 1.0):  # HSV to RGB: f(n) = v - v s max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6
        k = (n + hue * 6) % 6
        channels.append(high - high * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1).clamp(0, 1)


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with a standard deviation per image, in pixels; edges are reflected.

    All kernels span 3 of the largest sigma. An image thus depends on those beside it by the weights of its own kernel
    beyond 3 sigma, less than 0.25% of them per axis: about one level of 255 at most, where black meets white.
    """
    n, c, h, w = images.shape
    reach = min(int(3 * float(sigma.max()) + 0.5), h - 1, w - 1)
    if reach < 1:
        return images
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
    planes = images.reshape(1, n * c, h, w)
    planes = F.conv2d(F.pad(planes, (0, 0, reach, reach), "reflect"), kernel[:, None, :, None], groups=n * c)
    planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), "reflect"), kernel[:, None, None, :], groups=n * c)
    return planes.view(n, c, h, w)


SOLARIZE_THRESHOLD = 128 / 255


def solarize(images: torch.Tensor, threshold: float = SOLARIZE_THRESHOLD) -> torch.Tensor:
    """Invert the values from `threshold` up."""
    return torch.where(images >= threshold, 1 - images, images)


_JITTER = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
_IDENTITY = (1.0, 1.0, 1.0, 0.0)


def apply_photometric(images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Colour jitter in each image's own order, then grayscale, blur and solarization.

    Args:
        images: float [N, 3, H, W] in [0, 1].
        parameters: float [N, 11], columns as in `crops.PARAMETERS`; [N, 0] changes nothing.

    Returns:
        A new tensor of the same shape.
    """
    if parameters.shape[1] == 0:
        return images
    images = images.clone()
    host = parameters.cpu()  # which images take part is decided on the host: no wait for the device per operation
    for slot in range(4):
        for operation in range(4):
            takes_part = (host[:, 4 + slot] == operation) & (host[:, operation] != _IDENTITY[operation])
            _update(images, takes_part, lambda x, p, o=operation: _JITTER[o](x, p[:, o]), parameters)
    _update(images, host[:, 8] > 0, lambda x, p: to_gray(x).expand_as(x), parameters)
    _update(images, host[:, 9] > 0, lambda x, p: gaussian_blur(x, p[:, 9]), parameters)
    _update(images, host[:, 10] > 0, lambda x, p: solarize(x), parameters)
    return images


def _update(images: torch.Tensor, takes_part: torch.Tensor, operation, parameters: torch.Tensor) -> None:
    rows = takes_part.nonzero()[:, 0].to(images.device)
    if len(rows):
        images[rows] = operation(images[rows], parameters[rows])


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [..., 3, H, W] to float32 in [0, 1]."""
    return images.float().div_(255)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Subtract ImageNet's channel means and divide by its standard deviations."""
    mean = torch.tensor(MEAN, device=images.device, dtype=images.dtype).view(3, 1, 1)
    std = torch.tensor(STD, device=images.device, dtype=images.dtype).view(3, 1, 1)
    return (images - mean) / std
