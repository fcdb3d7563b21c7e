"""The losses without labels against plain double loops, their gradients, and two processes against one."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from imagenet_sd.training.config import ObjectiveConfig, TrainConfig, TrainingError
from imagenet_sd.training.model import make_encoder
from imagenet_sd.training.objectives import make_objective
from imagenet_sd.training.objectives.mocov2 import info_nce
from imagenet_sd.training.objectives.self_supervised import embedding_spread, pairs, prediction_loss
from imagenet_sd.training.objectives.stablerep import contrastive_loss
from imagenet_sd.training.objectives.swav import sinkhorn, swav_loss
from imagenet_sd.training.recipes import load_train_config
from imagenet_sd.training.views import Views

METHODS = ("simclr", "mocov2", "byol", "simsiam", "swav", "stablerep")
TINY = ["model.backbone=test_resnet", "model.projector_hidden=16", "model.projector_bottleneck=8",
        "objective.memory_size=24", "objective.prototypes=6", "objective.predictor_hidden=8"]  # fmt: skip


def tiny(method: str, *settings: str) -> TrainConfig:
    """The small recipe of a method with a network of a few thousand weights."""
    return load_train_config(f"{method}-small", [*TINY, *settings])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def views_of(batch: int, crops: int, num_global: int = 2, positives: list[int] | None = None) -> Views:
    images = [torch.randn(num_global * batch, 3, 32, 32)]
    if crops > num_global:
        images.append(torch.randn((crops - num_global) * batch, 3, 16, 16))
    owners = torch.tensor(positives if positives is not None else range(batch))
    return Views(
        crops=images, labels=torch.zeros(batch).long(), parameters=torch.zeros(batch, crops, 0), positives=owners
    )


def loop_contrastive(z: np.ndarray, owners: list[int], num_global: int, tau: float) -> float:
    """z [M, B, d], one anchor, one candidate, one positive at a time."""
    z = unit(z)
    places = [(m, b) for m in range(z.shape[0]) for b in range(z.shape[1])]
    total = 0.0
    for i in places:
        candidates = [j for j in places if j[0] < num_global and j != i]
        denominator = sum(math.exp(z[i] @ z[j] / tau) for j in candidates)
        positives = [j for j in candidates if owners[j[1]] == owners[i[1]]]
        total += sum(-math.log(math.exp(z[i] @ z[j] / tau) / denominator) for j in positives) / len(positives)
    return total / len(places)


GROUPED = [("simclr", 2, range(5)), ("simclr", 4, range(5)), ("stablerep", 2, [7, 3, 7, 7, 9]),
           ("stablerep", 5, [1, 1, 2, 2, 1])]  # fmt: skip


@pytest.mark.parametrize(("method", "crops", "owners"), GROUPED)
def test_contrastive_losses(method: str, crops: int, owners: list[int]):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(crops, 5, 8)).astype(np.float32)
    config = tiny(method, "objective.temperature=0.3")
    objective = make_objective(make_encoder(config.model), 3, config)
    loss = objective.loss(torch.tensor(z).flatten(0, 1), views_of(5, crops, positives=list(owners)))
    assert loss.item() == pytest.approx(loop_contrastive(z, list(owners), 2, 0.3), abs=1e-5)


def test_moco_picks_its_key_from_the_queue():
    config = tiny("mocov2", "objective.temperature=0.3")
    encoder = make_encoder(config.model)
    moco = make_objective(encoder, 3, config)
    queue = moco.queue.embeddings.clone().numpy()
    assert np.allclose(np.linalg.norm(queue, axis=1), 1, atol=1e-6)
    views, z = views_of(4, 3), np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    seen = moco.encoded_crops(views)  # the second global crop is the key, which the momentum encoder alone sees
    assert torch.equal(seen[0], views.crops[0][:4]) and torch.equal(seen[1], views.crops[1]) and len(seen) == 2
    with torch.no_grad():
        momentum = copy.deepcopy(moco.momentum)
        keys = unit(momentum.projector(momentum.encoder(views.crops[0][4:])).numpy())
    total = 0.0
    for m in (0, 1):
        for b in range(4):
            q = unit(z[m, b])
            right = math.exp(q @ keys[b] / 0.3)
            total -= math.log(right / (right + sum(math.exp(q @ k / 0.3) for k in queue)))
    loss = moco.loss(torch.tensor(z).flatten(0, 1), views)
    assert loss.item() == pytest.approx(total / 8, abs=1e-5)
    moco.after_step()
    assert np.allclose(moco.queue.embeddings[:4].numpy(), keys, atol=1e-5)
    assert np.array_equal(moco.queue.embeddings[4:].numpy(), queue[4:])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(unit(a) @ unit(b))


@pytest.mark.parametrize("crops", [2, 4])
def test_simsiam_and_byol(crops: int):
    rng = np.random.default_rng(0)
    z, p = rng.normal(size=(2, crops, 5, 8)).astype(np.float32)
    views = views_of(5, crops)
    outputs = (torch.tensor(z).flatten(0, 1).requires_grad_(), torch.tensor(p).flatten(0, 1).requires_grad_())
    config = tiny("simsiam")
    simsiam = make_objective(make_encoder(config.model), 3, config).loss(outputs, views)
    order = [(g, v) for g in (0, 1) for v in range(crops) if v != g]
    assert order == pairs(2, crops)
    expected = np.mean([-cosine(p[v, b], z[g, b]) for g, v in order for b in range(5)])
    assert simsiam.item() == pytest.approx(expected, abs=1e-5)
    simsiam.backward()
    assert outputs[0].grad is None and outputs[1].grad is not None

    config = tiny("byol")
    byol = make_objective(make_encoder(config.model), 3, config)
    with torch.no_grad():
        networks = copy.deepcopy(byol.networks)
        targets = networks.projector(networks.encoder(views.crops[0])).view(2, 5, 8).numpy()
    squared = [((unit(p[v]) - unit(targets[g])) ** 2).sum(-1).mean() for g, v in order]
    expected = sum(np.mean([s for (g, _), s in zip(order, squared, strict=True) if g == target]) for target in (0, 1))
    assert byol.loss(outputs, views).item() == pytest.approx(expected, abs=1e-5)


def loop_sinkhorn(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Cell by cell, prototypes to 1 / K, then images to 1 / B; columns of the transport as codes at the end."""
    b, k = scores.shape
    q = [[math.exp(scores[i, j] / epsilon) for i in range(b)] for j in range(k)]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        q = [[x / sum(row) / k for x in row] for row in q]
        columns = [sum(q[j][i] for j in range(k)) for i in range(b)]
        q = [[q[j][i] / columns[i] / b for i in range(b)] for j in range(k)]
    return np.array(q).T * b


@pytest.mark.parametrize("crops", [2, 4])
def test_swav(crops: int):
    rng = np.random.default_rng(0)
    z, prototypes = unit(rng.normal(size=(crops, 7, 8))), unit(rng.normal(size=(6, 8)))
    scores = (z @ prototypes.T).astype(np.float32)
    codes = [loop_sinkhorn(scores[g], 0.05, 3) for g in (0, 1)]
    expected = 0.0
    for g in (0, 1):
        others = [v for v in range(crops) if v != g]
        for v in others:
            for b in range(7):
                logits = scores[v, b] / 0.1
                log_p = logits - math.log(sum(math.exp(x) for x in logits))
                expected -= (codes[g][b] @ log_p) / 7 / len(others)
    config = tiny("swav")
    objective = make_objective(make_encoder(config.model), 3, config)
    outputs = tuple(torch.tensor(x, dtype=torch.float32).flatten(0, 1) for x in (z, scores))
    assert objective.loss(outputs, views_of(7, crops)).item() == pytest.approx(expected, abs=1e-4)


def test_sinkhorns_rows_and_columns_sum_as_they_must():
    scores = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (40, 8)))
    for iterations in (3, 200):
        codes = sinkhorn(scores, 0.05, iterations)
        assert torch.allclose(codes.sum(1), torch.ones(40, dtype=codes.dtype), atol=1e-12) and codes.min() >= 0
    assert torch.allclose(codes.sum(0), torch.full((8,), 5.0, dtype=codes.dtype), atol=1e-6)
    assert (sinkhorn(scores, 0.05, 3).sum(0) - 5).abs().max() < (torch.softmax(scores / 0.05, 1).sum(0) - 5).abs().max()
    assert torch.isfinite(sinkhorn(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), 0.005, 3)).all()


def test_swavs_prototypes_have_unit_length_and_stand_still_at_first():
    config = tiny("swav", "objective.frozen_prototypes=0.5")
    encoder = make_encoder(config.model)
    swav = make_objective(encoder, 3, config)
    for progress, moves in ((0.0, False), (0.49, False), (0.5, True)):
        swav.progress = progress
        swav.before_step(encoder)
        weight = swav.head.prototypes.weight
        assert torch.allclose(weight.norm(dim=1), torch.ones(6), atol=1e-6)
        swav.loss(swav.head(torch.randn(8, 96)), views_of(4, 2)).backward()
        swav.after_backward()
        assert (weight.grad is not None) == moves


def test_gradients():
    torch.manual_seed(0)
    x = [
        torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2)
    ]
    owners = torch.tensor([0, 1, 0, 1, 1, 0])
    positive, itself = owners[:, None] == owners[None], torch.eye(6, dtype=torch.bool)
    queue = torch.randn(5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: contrastive_loss(z, z, positive, itself, 0.2), (x[0],))
    assert torch.autograd.gradcheck(lambda q, k: info_nce(q, k, queue, 0.2), tuple(x))
    assert torch.autograd.gradcheck(lambda p: prediction_loss(x[0].detach().view(2, 3, 4), p.view(2, 3, 4)), (x[1],))
    codes = torch.softmax(torch.randn(2, 3, 4, dtype=torch.float64), -1)
    assert torch.autograd.gradcheck(lambda s: swav_loss(codes, s.view(2, 3, 4), 0.1), (x[0],))


@pytest.mark.parametrize("method", ["mocov2", "byol"])
def test_ten_steps_of_momentum_and_queue_against_a_plain_loop(method: str):
    torch.manual_seed(0)
    config = tiny(method, "objective.ema_momentum=0.9")
    encoder = make_encoder(config.model)
    objective = make_objective(encoder, 3, config)
    projector = objective.head if method == "mocov2" else objective.head.projector
    networks = objective.momentum if method == "mocov2" else objective.networks
    trained = [*encoder.parameters(), *projector.parameters()]
    slow = [p.detach().double().clone() for p in trained]
    queue = list(objective.queue.embeddings.clone()) if method == "mocov2" else []
    for step in range(10):
        with torch.no_grad():
            for p in trained:
                p.add_(0.01 * torch.randn_like(p))
        objective.progress = step / 10
        m = 0.9 if method == "mocov2" else 1 - 0.1 * (math.cos(math.pi * step / 10) + 1) / 2
        slow = [m * s + (1 - m) * p.detach().double() for s, p in zip(slow, trained, strict=True)]
        objective.before_step(encoder)
        views = views_of(3, 2)
        with torch.no_grad():
            shadow = copy.deepcopy(networks)
            keys = shadow.projector(shadow.encoder(views.crops[0][3:]))
        outputs = objective.head(encoder(objective.encoded_crops(views)[0]))
        objective.loss(outputs, views)
        objective.after_step()
        queue = queue[3:] + list(torch.nn.functional.normalize(keys, dim=1))
    for p, expected in zip(networks.parameters(), slow, strict=True):
        assert torch.allclose(p.double(), expected, atol=1e-6) and not p.requires_grad
    if method == "mocov2":
        place = int(objective.queue.position)
        stored = torch.roll(objective.queue.embeddings, -place, 0)
        assert torch.allclose(stored, torch.stack(queue), atol=1e-5)


def test_the_spread_is_1_for_uniform_directions_and_0_for_equal_ones():
    torch.manual_seed(0)
    assert embedding_spread(torch.randn(4000, 64)).item() == pytest.approx(1, abs=0.01)
    assert embedding_spread(3 * torch.ones(50, 64)).item() == pytest.approx(0, abs=1e-6)
    half = torch.cat([torch.randn(4000, 32), torch.zeros(4000, 32)], 1)  # half of the dimensions are used
    assert embedding_spread(half).item() == pytest.approx(math.sqrt(0.5), abs=0.01)


def test_what_each_objective_needs():
    for method in METHODS:
        config = tiny(method)
        one = replace(config, crops=replace(config.crops, global_crops_number=1))
        with pytest.raises(TrainingError, match=f"objective.loss {method} needs 2 global crops of an image, not 1"):
            make_objective(make_encoder(config.model), 3, one)
    with pytest.raises(TrainingError, match="positives prompt is for"):
        replace(tiny("simclr"), objective=ObjectiveConfig(loss="simclr", positives="prompt"))


def _one_of_two(rank: int, folder: Path) -> None:
    """This process's half of the batch: losses, and the gradient at its embeddings."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
    )  # fmt: skip
    _losses(slice(4 * rank, 4 * rank + 4), folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # gloo's threads, alive at the interpreter's end, abort it when one of them frees a tensor then
    assert not [name for name in names if "gloo" in name], names


def _losses(rows: slice, path: Path) -> None:
    """Loss and gradient of rows of one batch of eight images, for each method that looks at the others."""
    z = torch.tensor(np.random.default_rng(0).normal(size=(3, 8, 8)), dtype=torch.float32)
    owners, found = [1, 1, 2, 3, 3, 1, 2, 2], {}
    for method in ("simclr", "stablerep", "swav"):
        torch.manual_seed(0)
        config = tiny(method)
        objective = make_objective(make_encoder(config.model), 3, config)
        own = z[:, rows].flatten(0, 1).requires_grad_()
        size = own.shape[0] // 3
        views = views_of(size, 3, positives=(owners if method == "stablerep" else list(range(8)))[rows])
        unit_z = torch.nn.functional.normalize(own, dim=1)
        outputs = (unit_z, objective.head.prototypes(unit_z)) if method == "swav" else own
        loss = objective.loss(outputs, views)
        loss.backward()
        found |= {f"{method}/loss": loss.detach(), f"{method}/gradient": own.grad.view(3, size, 8)}
    save_file({key: value.contiguous() for key, value in found.items()}, path)


@pytest.mark.slow
def test_two_processes_see_the_whole_batch(tmp_path: Path):
    """Their mean loss is that of one process with the batch; each one's gradient, halved, is its part of that one's."""
    torch.multiprocessing.spawn(_one_of_two, (tmp_path,), nprocs=2)
    _losses(slice(0, 8), tmp_path / "whole.safetensors")
    whole = load_file(tmp_path / "whole.safetensors")
    halves = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    for method in ("simclr", "stablerep", "swav"):
        mean = (halves[0][f"{method}/loss"] + halves[1][f"{method}/loss"]) / 2
        assert mean.item() == pytest.approx(whole[f"{method}/loss"].item(), abs=1e-6), method
        gradient = torch.cat([half[f"{method}/gradient"] for half in halves], 1) / 2  # as DDP averages
        assert torch.allclose(gradient, whole[f"{method}/gradient"], atol=1e-6)


def test_against_lightly_where_it_is_installed():
    lightly = pytest.importorskip("lightly.loss")
    torch.manual_seed(0)
    one, two, p, q = torch.randn(4, 9, 8).unbind(0)
    config = tiny("simclr", "objective.temperature=0.3")
    ours = make_objective(make_encoder(config.model), 3, config).loss(torch.cat([one, two]), views_of(9, 2))
    assert ours.item() == pytest.approx(lightly.NTXentLoss(temperature=0.3)(one, two).item(), abs=1e-5)
    negative = lightly.NegativeCosineSimilarity()
    expected = (negative(p, two) + negative(q, one)) / 2
    assert prediction_loss(torch.stack([one, two]), torch.stack([p, q])).item() == pytest.approx(
        expected.item(), abs=1e-6
    )
    scores = torch.nn.functional.normalize(torch.randn(2, 9, 6), dim=-1)
    codes = torch.stack([sinkhorn(x, 0.05, 3) for x in scores])
    expected = lightly.SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05)(list(scores), [])
    assert swav_loss(codes, scores, 0.1).item() == pytest.approx(2 * expected.item(), abs=1e-5)  # it takes the mean
