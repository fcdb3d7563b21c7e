"""Weights in 8 bits, by torchao: lossy, for less memory."""

from typing import Any

import torch
from torch import nn

from imagenet_sd.core.errors import ModelError, one_line
from imagenet_sd.generation.diffusion.options import Quantize, leave_out


def quantize_linear_layers(module: nn.Module, quantize: Quantize, device: torch.device | None = None) -> None:
    """Store the weights of every linear layer in 8 bits with one scale per row, in place; a second time does nothing.

    int8 is symmetric: a row w becomes round(w / s), s = max |w| / 127.5, so that no weight is off by more than s / 2.
    fp8 is float8_e4m3fn, likewise scaled. Products are computed in the dtype of the module, which stays what it was.

    Args:
        module: the UNet or transformer, wherever it is.
        quantize: "none" changes nothing.
        device: where it will run; None: where it is.

    Raises:
        ModelError: torchao is missing, or cannot do this with the module's dtype on the device.
    """
    if quantize == "none" or not any(map(_is_plain_linear, module.modules())):
        return
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "torchao"
        fault = "is not installed" if missing else f"cannot be imported: {one_line(error)}"
        raise ModelError(
            f"torchao {fault}", f'`pip install "imagenet-sd[quantize]"`, or {leave_out("--quantize")}'
        ) from None
    kind = Int8WeightOnlyConfig if quantize == "int8" else Float8WeightOnlyConfig
    config = kind(set_inductor_config=False)
    dtype: Any = getattr(module, "dtype", torch.float32)
    device = device or next(module.parameters()).device
    try:
        _try(quantize_, config, dtype, device)
    except Exception as error:  # torchao raises many kinds; each means that there is no such kernel here
        raise ModelError(
            f"--quantize {quantize} cannot run in {dtype} on {device.type}: {one_line(error)}", leave_out("--quantize")
        ) from None
    quantize_(module, config, filter_fn=lambda part, name: _is_plain_linear(part))


def _is_plain_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and type(module.weight) is nn.Parameter  # those of torchao have other types


@torch.inference_mode()
def _try(quantize_: Any, config: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Run one small quantized layer."""
    layer = nn.Sequential(nn.Linear(64, 64, dtype=dtype))
    quantize_(layer, config)
    layer.to(device)(torch.zeros(2, 64, dtype=dtype, device=device))
