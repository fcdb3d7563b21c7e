"""Convolutions on a CPU: nn.Conv2d's numbers and gradients, in whichever way they are computed."""

import pytest
import timm
import torch
from torch import nn

from imagenet_sd.training.config import ModelConfig
from imagenet_sd.training.cpu_convolutions import CPUConv2d, use_cpu_convolutions
from imagenet_sd.training.model import make_encoder


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((2, 2), {"kernel_size": 3, "padding": 1}),
        ((4, 4), {"kernel_size": 3, "padding": 1, "stride": 2}),
        ((4, 3), {"kernel_size": (3, 2), "padding": (1, 0), "stride": (3, 1)}),
        ((5, 6), {"kernel_size": 3, "dilation": 2}),
        ((1, 1), {"kernel_size": 3, "padding": 1}),
        ((2, 2), {"kernel_size": 3, "padding": 1, "stride": 2}),
        ((4, 3), {"kernel_size": (4, 2), "padding": (1, 0), "stride": 3}),
        ((3, 3), {"kernel_size": 3, "stride": 2, "bias": False}),
        ((2, 2), {"kernel_size": 3, "padding": 1, "groups": 2}),
        ((2, 2), {"kernel_size": 3, "padding": "same"}),
        ((2, 2), {"kernel_size": 2, "padding": "valid"}),
        ((2, 2), {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
        ((2, 2), {"kernel_size": 1, "bias": False}),
        ((9, 8), {"kernel_size": 3, "padding": 1, "bias": False}),
    ],
)
def test_numbers_and_gradients_are_those_of_conv2d(size, options):
    torch.manual_seed(0)
    expected = nn.Conv2d(4, 6, dtype=torch.float64, **options)
    ours = CPUConv2d(4, 6, dtype=torch.float64, **options)
    ours.load_state_dict(expected.state_dict())
    results = []
    for layer in (expected, ours):
        x = torch.linspace(-1, 1, 3 * 4 * size[0] * size[1], dtype=torch.float64).view(3, 4, *size).requires_grad_()
        y = layer(x)
        y.sin().sum().backward()
        results.append([y, x.grad, *(weight.grad for weight in layer.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


def test_an_encoder_under_training_is_timms_up_to_rounding():
    torch.manual_seed(0)
    encoder = make_encoder(ModelConfig(backbone="resnet10t"))
    expected = timm.create_model("resnet10t", num_classes=0)
    expected.load_state_dict(encoder.state_dict())
    assert {type(each) for each in encoder.modules() if isinstance(each, nn.Conv2d)} == {CPUConv2d}
    x = torch.randn(4, 3, 64, 64)  # the last maps have 2 x 2 pixels
    torch.testing.assert_close(encoder.eval()(x), expected.eval()(x), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (encoder(x) - expected(x)).abs().max() < 0.05 * expected(x).abs().max()


def test_other_kinds_of_convolution_stay():
    class Other(nn.Conv2d):
        pass

    layers = [Other(1, 1, 1), nn.ConvTranspose2d(1, 1, 1), nn.Conv2d(1, 1, 1)]
    use_cpu_convolutions(nn.Sequential(*layers))
    assert [type(each) for each in layers] == [Other, nn.ConvTranspose2d, CPUConv2d]
