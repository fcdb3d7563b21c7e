"""What processes share and wait for, and in which precision gradients are computed."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import timm
import torch
from accelerate import Accelerator

from imagenet_sd.data.open import open_images
from imagenet_sd.pipeline import train
from imagenet_sd.training import loop
from imagenet_sd.training.loop import Trainer
from imagenet_sd.training.model import share_batch_norm
from imagenet_sd.training.objectives import OBJECTIVES
from imagenet_sd.training.views import Views
from tests.training.test_loop import TwoViews, quick


class Identity(torch.autograd.Function):
    """Notes whether autocast is on in the backward pass."""

    seen: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        Identity.seen.append(torch.is_autocast_enabled(gradient.device.type))
        return gradient


class Noted(TwoViews):
    """`TwoViews`, with a backward pass that is noted."""

    def loss(self, outputs: torch.Tensor, views: Views) -> torch.Tensor:
        assert torch.is_autocast_enabled(outputs.device.type)
        return super().loss(Identity.apply(outputs), views)


def test_gradients_are_computed_outside_of_autocast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Inside, products that the loss computes in float32 would have gradients in bfloat16."""
    monkeypatch.setitem(OBJECTIVES, "two_views", Noted)
    config = quick("optimizer.epochs=1", "optimizer.warmup_epochs=0", "optimizer.accumulation_steps=4")
    config = replace(config, objective=replace(config.objective, loss="two_views"), precision="bfloat16")
    config = replace(config, crops=replace(config.crops, global_crops_number=2))
    train(config, "builtin:faces", tmp_path / "run")
    assert Identity.seen == [False] * 20


def test_processes_wait_longer_for_each_other_than_pytorch_lets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first one validates alone: 50,000 images take about as long as the 10 minutes that are the default."""
    given = {}
    monkeypatch.setattr(loop, "Accelerator", lambda **options: given.update(options) or Accelerator(**options))
    Trainer(quick(), open_images("builtin:faces", "train"), tmp_path, log_with="none")
    (handler,) = given["kwargs_handlers"]
    assert handler.to_kwargs()["timeout"].total_seconds() >= 3600


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "regnetx_002"])
def test_batch_norms_that_are_shared_keep_their_activations(name: str):
    """Those of EfficientNet and others apply it themselves."""
    module = timm.create_model(name, num_classes=0).eval()
    x = torch.randn(2, 3, 32, 32)
    expected, wrapped = module(x), torch.nn.ModuleDict({"encoder": module})
    share_batch_norm(wrapped)
    kinds = {type(each) for each in wrapped.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)}
    assert kinds and all(issubclass(kind, torch.nn.SyncBatchNorm) for kind in kinds)
    assert torch.allclose(wrapped["encoder"](x), expected, atol=1e-5)
