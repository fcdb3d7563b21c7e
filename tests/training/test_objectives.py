"""Eqs. 4.1 and 4.2 against NumPy, gradients against finite differences, the queue against a plain loop."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from imagenet_sd.training.config import RECIPES, ModelConfig, ObjectiveConfig, TrainConfig
from imagenet_sd.training.model import make_encoder, num_features
from imagenet_sd.training.objectives import make_objective
from imagenet_sd.training.objectives.base import multi_crop_loss
from imagenet_sd.training.objectives.cosine_softmax import cosine_logits
from imagenet_sd.training.objectives.online_class_means import Memory, OnlineClassMeans
from imagenet_sd.training.objectives.projector import Projector
from imagenet_sd.training.views import Views


def numpy_loss(z: np.ndarray, weights: np.ndarray, labels: np.ndarray, tau: float) -> float:
    """The right-hand side of eqs. 4.1 and 4.2 as written: z [M, B, d], weights [C, d], labels [B]."""
    total = 0.0
    for crop in z:
        for i, label in enumerate(labels):
            logits = []
            for w in weights:
                norm = np.sqrt((w**2).sum())
                logits.append((crop[i] * (w / norm if norm else w)).sum() / tau)
            logits = np.array(logits)
            total += -(logits[label] - np.log(np.exp(logits).sum()))
    return total / (z.shape[0] * len(labels))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_cosine_softmax_is_eq_4_1():
    rng = np.random.default_rng(0)
    z, w, y = unit(rng.normal(size=(3, 7, 5))), rng.normal(size=(11, 5)), rng.integers(0, 11, 7)
    logits = cosine_logits(torch.tensor(z).flatten(0, 1), torch.tensor(w), 0.1)
    assert multi_crop_loss(logits, torch.tensor(y)).item() == pytest.approx(numpy_loss(z, w, y, 0.1), abs=1e-5)


def test_online_class_means_is_eq_4_2_with_absent_classes():
    rng = np.random.default_rng(1)
    queue, labels = rng.normal(size=(20, 5)), rng.choice([0, 1, 3, 5], 20)
    memory = Memory(20, 5, 6)
    memory.enqueue(torch.tensor(queue), torch.tensor(labels))
    means = np.zeros((6, 5))
    for c in range(6):
        members = [unit(z) for z, y in zip(queue, labels, strict=True) if y == c]
        if members:
            means[c] = np.mean(members, 0)
    assert np.allclose(memory.prototypes().numpy(), means, atol=1e-6)
    assert not memory.prototypes()[2].any() and not memory.prototypes()[4].any()
    z, y = unit(rng.normal(size=(2, 9, 5))), rng.integers(0, 6, 9)
    logits = cosine_logits(torch.tensor(z).float().flatten(0, 1), memory.prototypes(), 0.1)
    assert multi_crop_loss(logits, torch.tensor(y)).item() == pytest.approx(numpy_loss(z, means, y, 0.1), abs=1e-5)


def test_gradients_of_the_cosine_softmax():
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(4, 5, dtype=torch.float64), dim=1).requires_grad_()
    w = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 3, 5, 3])
    loss = lambda z, w: torch.nn.functional.cross_entropy(cosine_logits(z, w, 0.1), y)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (z, w))
    # by hand: dL/dz_i = (1/N tau) sum_c (p_ic - y_ic) w_c / |w_c|
    loss(z, w).backward()
    unit_w = w / w.norm(dim=1, keepdim=True)
    p = torch.softmax(z @ unit_w.T / 0.1, 1) - torch.nn.functional.one_hot(y, 6)
    assert torch.allclose(z.grad, p @ unit_w / (4 * 0.1), atol=1e-12)


@pytest.mark.parametrize("normalized", [True, False])
def test_the_queue_is_a_ring(normalized: bool):
    rng = np.random.default_rng(2)
    memory, plain = Memory(10, 4, 3, normalized), []
    for size in (4, 4, 4, 7, 1, 23, 3):
        z, y = rng.normal(size=(size, 4)).astype(np.float32), rng.integers(0, 3, size)
        memory.enqueue(torch.tensor(z), torch.tensor(y))
        plain = (plain + list(zip(unit(z) if normalized else z, y, strict=True)))[-10:]
        here = memory.labels >= 0
        stored = sorted(
            (*row, c) for row, c in zip(memory.embeddings[here].tolist(), memory.labels[here].tolist(), strict=True)
        )
        assert np.allclose(stored, sorted((*row.tolist(), c) for row, c in plain), atol=1e-6)


def test_projector_has_the_shape_of_fig_4_2():
    config = ModelConfig(projector_layers=3, projector_hidden=32, projector_bottleneck=8)
    projector = Projector(16, config)
    kinds = [type(layer).__name__ for layer in projector.layers]
    assert kinds == ["Linear", "BatchNorm1d", "GELU"] * 3 + ["Linear"]
    assert projector.layers[-1].bias is None and projector.layers[-1].weight.shape == (8, 32)
    x = torch.randn(6, 16)
    projector.eval()
    z = projector(x)
    assert torch.allclose(z.norm(dim=1), torch.ones(6), atol=1e-6)
    assert torch.allclose(projector(5 * x), z, atol=1e-6)  # the input is normalised
    unnormalized = Projector(16, replace(config, projector_input_l2=False)).eval()
    assert not torch.allclose(unnormalized(5 * x), unnormalized(x), atol=1e-3)


def small(**objective) -> TrainConfig:
    base = RECIPES["small"]
    return replace(
        base,
        model=replace(base.model, projector_layers=1, projector_hidden=16, projector_bottleneck=8),
        objective=ObjectiveConfig(**objective),
    )


def views(crops: torch.Tensor, labels: torch.Tensor) -> Views:
    return Views(crops=[crops], labels=labels, parameters=torch.zeros(len(labels), 1, 0))


def test_ten_steps_of_ema_and_queue_against_a_plain_loop():
    """The momentum networks and the bank after ten steps, recomputed with nothing but arithmetic."""
    torch.manual_seed(0)
    config = small(loss="ocm", memory_size=12, ema_momentum=0.9)
    encoder = make_encoder(config.model)
    ocm = OnlineClassMeans(encoder, 3, config)
    trained = torch.nn.ModuleList([encoder, ocm.head.projector])
    slow = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    shadow = copy.deepcopy(torch.nn.ModuleList([ocm.encoder, ocm.projector]))
    queue: list[tuple[torch.Tensor, int]] = []
    for step in range(10):
        with torch.no_grad():
            for p in trained.parameters():
                p.add_(0.01 * torch.randn_like(p))
        crops, labels = torch.randn(4, 3, 32, 32), torch.tensor([step % 3, 0, 1, 2])
        ocm.before_step(encoder)
        expected = torch.stack(
            [
                torch.stack([z for z, y in queue if y == c]).mean(0)
                if any(y == c for _, y in queue)
                else torch.zeros(8)
                for c in range(3)
            ]
        )
        assert torch.allclose(ocm.head.weight, expected, atol=1e-5)
        ocm.loss(ocm.head(encoder(crops)), views(crops, labels))
        ocm.after_step()
        for name, p in encoder.named_parameters():
            slow[name] = 0.9 * slow[name] + 0.1 * p.detach()
        with torch.no_grad():
            for average, p in zip(shadow.parameters(), trained.parameters(), strict=True):
                average.mul_(0.9).add_(0.1 * p)
            z = shadow[1](shadow[0](crops))
        queue = (queue + list(zip(z, labels.tolist(), strict=True)))[-12:]
    for name, p in ocm.encoder.named_parameters():
        assert torch.allclose(p, slow[name], atol=1e-6), name


@pytest.mark.parametrize("chunks", [1, 4])
def test_the_momentum_counts_once_per_optimiser_step(chunks: int):
    config = small(loss="ocm", memory_size=12, ema_momentum=0.999)
    encoder = make_encoder(config.model)
    ocm = OnlineClassMeans(encoder, 3, config)
    before = [p.clone() for p in ocm.encoder.parameters()]
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(torch.randn_like(p))
    ocm.before_step(encoder)
    for _ in range(chunks):
        crops = torch.randn(2, 3, 32, 32)
        ocm.loss(ocm.head(encoder(crops)), views(crops, torch.tensor([0, 1])))
    ocm.after_step()
    assert (ocm.memory.labels >= 0).sum() == 2 * chunks
    for old, p, average in zip(before, encoder.parameters(), ocm.encoder.parameters(), strict=True):
        assert torch.allclose(average, 0.999 * old + 0.001 * p, atol=1e-6)


def test_the_cosine_softmax_without_a_projector_takes_unit_length_features():
    """Base and Base+Mc of thesis Tab. 4.1: eq. 4.1 on z = x / |x|, and a gradient for the encoder."""
    config = replace(small(loss="cosine_softmax"), model=replace(RECIPES["small"].model, projector_layers=0))
    encoder = make_encoder(config.model)
    objective = make_objective(encoder, 4, config)
    assert {name: tuple(p.shape) for name, p in objective.head.named_parameters()} == {"weight": (4, 512)}
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(3, 7, 512)).astype(np.float32), rng.integers(0, 4, 7)
    expected = numpy_loss(unit(x.astype(np.float64)), objective.head.weight.detach().double().numpy(), y, 0.1)
    rows = views(torch.zeros(21, 3, 8, 8), torch.tensor(y))
    outputs = objective.head(torch.tensor(x).flatten(0, 1))
    assert objective.loss(outputs, rows).item() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(objective.head(7 * torch.tensor(x).flatten(0, 1)), outputs, atol=1e-5)
    objective.loss(objective.head(encoder(torch.randn(7, 3, 32, 32))), rows).backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_the_width_of_features_is_that_of_the_output(name: str):
    encoder = make_encoder(ModelConfig(backbone=name)).eval()
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, num_features(encoder))


def test_the_head_of_each_objective():
    class Encoder(torch.nn.Module):
        num_features = 16

    x, config = torch.randn(5, 16), small()
    plain = replace(config, model=ModelConfig())
    linear = make_objective(Encoder(), 4, plain).head.eval()
    assert torch.allclose(linear(x), x @ linear.linear.weight.T + linear.linear.bias, atol=1e-6)
    for loss in ("cosine_softmax", "ocm"):
        head = make_objective(Encoder(), 4, replace(config, objective=ObjectiveConfig(loss=loss))).head.eval()
        assert ("weight" in dict(head.named_parameters())) == (loss == "cosine_softmax")
        assert head(x).shape == (5, 4) and head(x).abs().max() <= 10 + 1e-4  # cosines over tau = 0.1
