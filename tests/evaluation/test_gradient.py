"""Gradient features: against autograd, against a Jacobian-vector product by hand, and as the paper trains them."""

import re

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.data.images import ArraySet
from imagenet_sd.evaluation import splits
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.probes.gradient import FineTuned, GradientClassifier, GradientTrainer, Start, predict
from imagenet_sd.evaluation.probes.split import SplitEncoder, fold_batch_norm, randomised, run_before
from imagenet_sd.evaluation.suites import gradient as suite
from imagenet_sd.pipeline import evaluate
from imagenet_sd.training.config import ModelConfig
from imagenet_sd.training.model import make_encoder


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cnn(name: str = "test_resnet") -> nn.Module:
    """A timm CNN whose batch norms have statistics of their own, so that folding has something to do."""
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_(std=0.3)
            each.running_var.uniform_(0.5, 2)
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias, std=0.2)
    return module.eval()


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0, img_size=32).eval()


def trained_here() -> nn.Module:
    """As a run's encoder is loaded: with this project's convolutions, whose last maps of 2 x 2 pixels are products."""
    torch.manual_seed(0)
    return make_encoder(ModelConfig(backbone="resnet10t", small_images=True)).eval()


CASES = {
    "cnn": (cnn, ("layer4",)),
    "cnn, two blocks": (cnn, ("layer4", "layer3")),
    "efficientnet": (lambda: cnn("test_efficientnet"), ("blocks.4",)),
    "trained here": (trained_here, ("layer4",)),
    "vit": (vit, ("blocks.5",)),
    "vit, two blocks": (vit, ("blocks.4", "blocks.5")),
}


def images(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def random_like(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {k: 0.1 * torch.randn(v.shape, generator=generator).to(v.dtype) for k, v in weights.items()}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize("case", CASES)
def test_the_product_equals_autograds_jacobian(case: str):
    """Row by row: the gradient of each feature of each image, times w2; f is the whole model in reverse mode."""
    make, blocks = CASES[case]
    x = images()
    split = SplitEncoder(make(), blocks, x)
    w2 = random_like(split.theta2)
    product = split.jacobian_product(split.activations(x), split.theta2, w2)
    # fused attention and all: the whole folded model with its own forward pass, not the cut one
    model = split.module.requires_grad_(True)
    features = model(x)
    chosen = [dict(model.named_parameters())[name] for name in split.theta2]
    columns = range(0, features.shape[1], max(1, features.shape[1] // 24))
    for column in columns:
        for row in range(len(x)):
            gradients = torch.autograd.grad(features[row, column], chosen, retain_graph=True)
            expected = sum((g * w2[name]).sum() for g, name in zip(gradients, split.theta2, strict=True))
            assert abs(float(product[row, column] - expected)) < 1e-5 * max(1.0, float(product.abs().max()))


def test_the_product_equals_one_by_hand_on_convolutions_relu_and_pooling():
    """Eqs. 6 and 7 written out: conv h(z; w~, b~) + h(z'; w, 0), ReLU passes z' where z > 0, pooling is linear."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.below = nn.Conv2d(3, 4, 3)
            self.one, self.two = nn.Conv2d(4, 6, 3, stride=2), nn.Conv2d(6, 5, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.below(x))
            x = F.avg_pool2d(F.relu(self.one(x)), 2)
            return F.relu(self.two(x)).mean((2, 3))

    torch.manual_seed(0)
    net, x = Net().double(), images().double()
    split = SplitEncoder(net, ("one", "two"), x)
    w2 = random_like(split.theta2)
    with torch.no_grad():
        z = F.relu(net.below(x))
        y = net.one(z)
        dy = F.conv2d(z, w2["one.weight"], w2["one.bias"], stride=2)
        z, dz = F.avg_pool2d(F.relu(y), 2), F.avg_pool2d(dy * (y > 0), 2)
        y = net.two(z)
        dy = F.conv2d(z, w2["two.weight"], w2["two.bias"], padding=1) + F.conv2d(dz, net.two.weight, padding=1)
        expected = (dy * (y > 0)).mean((2, 3))
    found = split.jacobian_product(split.activations(x), split.theta2, w2)
    assert relative(found, expected) < 1e-12


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "resnet10t", "regnetx_002"])
def test_batch_norm_is_folded_into_the_convolutions(name: str):
    module, x = cnn(name), images()
    folded = fold_batch_norm(module, x)
    assert not [each for each in folded.modules() if isinstance(each, nn.BatchNorm2d)]
    assert relative(folded(x), module(x)) < 1e-5
    assert [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]  # the original is as it was


def test_the_cut_model_is_the_whole_model():
    x = images()
    for make, blocks in CASES.values():
        module = make()
        split = SplitEncoder(module, blocks, x)
        z = split.activations(x)
        assert z.shape[1:] == split.shape
        assert relative(split.features(z, split.theta2), module(x)) < 1e-5
    assert SplitEncoder(cnn(), ("layer4",), x).shape == SplitEncoder(cnn(), ("layer3",), x).module.layer3(  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        SplitEncoder(cnn(), ("layer3",), x).activations(x)
    ).shape[1:]  # fmt: skip


class Skips(nn.Module):
    """What follows the block needs more than its input."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.first(x)
        return (self.second(F.relu(z)) + z).mean((2, 3))


@pytest.mark.parametrize(
    ("module", "block", "message"),
    [
        (Skips(), "second", "needs more of the encoder"),
        (cnn(), "layer9", "no block 'layer9'"),
        (cnn(), "act1", "no weights"),
    ],
)
def test_a_cut_that_cannot_be_is_one_line(module: nn.Module, block: str, message: str):
    with pytest.raises(EvaluationError, match=message) as caught:
        SplitEncoder(module, (block,), images())
    assert "\n" not in str(caught.value) and caught.value.hint


@pytest.fixture(scope="module")
def task():
    """Features and activations of 256 images with labels that are linear in neither."""
    x = images(256)
    split = SplitEncoder(cnn(), ("layer4",), x[:8])
    with torch.no_grad():
        z = split.activations(x)
        f = split.features(z, split.theta2)
    labels = (x.mean((2, 3)) ** 2).argmax(1)
    generator = torch.Generator().manual_seed(3)
    start = Start(omega=torch.randn(f.shape[1], 3, generator=generator), bias=torch.randn(3, generator=generator))
    return split, z.numpy(), f.numpy(), labels.numpy(), start


def logits(model: nn.Module, f: np.ndarray, z: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(predict(model, f, z, "cpu"))


def loss_of(model: nn.Module, f: np.ndarray, z: np.ndarray, labels: np.ndarray) -> float:
    return float(F.cross_entropy(logits(model, f, z), torch.from_numpy(labels)))


def test_with_w2_zero_it_is_the_logistic_regression_it_started_from(task):
    split, z, f, _, start = task
    expected = torch.from_numpy(f) @ start.omega + start.bias
    for ntk in (False, True):
        assert torch.equal(logits(GradientClassifier(start, split, ntk=ntk), f, z), expected)
        assert relative(logits(FineTuned(start, split, ntk=ntk), f, z), expected) < 1e-5


@pytest.mark.parametrize("training", ["paper", "code"])
def test_what_is_frozen_stays_bit_equal_over_100_steps(task, training: str):
    split, z, f, labels, start = task
    model = GradientClassifier(start, split, ntk=training == "code")  # its learning rate belongs to that
    omega, theta2 = start.omega.clone(), {k: v.clone() for k, v in split.theta2.items()}
    before = loss_of(model, f, z, labels)
    GradientTrainer(steps=100, training=training, batch_size=32).train(model, f, z, labels, 0)
    assert torch.equal(model.omega, omega) and torch.equal(start.omega, omega)
    assert all(torch.equal(value, theta2[name]) for name, value in split.theta2.items())
    assert all(torch.equal(value, theta2[name]) for name, value in model.theta2.items())
    assert model.w1.data_ptr() != model.omega.data_ptr() and not torch.equal(model.w1, omega)
    assert all(each.abs().max() > 0 for each in model.w2 if each.ndim > 1)
    assert loss_of(model, f, z, labels) < before


def test_training_w2_reaches_what_activations_cannot(task):
    """The same steps with and without the gradient term, on labels that the features do not separate."""
    split, z, f, labels, start = task
    losses = {}
    for kind, model in (("alone", GradientClassifier(start, None)), ("gradient", GradientClassifier(start, split))):
        GradientTrainer(steps=100, batch_size=64).train(model, f, z, labels, 0)
        losses[kind] = loss_of(model, f, z, labels)
    assert losses["gradient"] < 0.9 * losses["alone"], losses


def test_it_is_the_first_order_term_of_fine_tuning():
    """f(theta2 + r w2) = f(theta2) + r J w2 + O(r^2), eq. 4: halving r quarters the error."""
    split_64 = SplitEncoder(vit().double(), ("blocks.5",), images(4).double())
    z = split_64.activations(images(4).double())
    w2 = random_like(split_64.theta2)
    base = split_64.features(z, split_64.theta2)
    slope = split_64.jacobian_product(z, split_64.theta2, w2)
    errors = []
    for r in (1e-2, 5e-3):
        moved = split_64.features(z, {k: v + r * w2[k] for k, v in split_64.theta2.items()})
        errors.append(float((moved - base - r * slope).abs().max()))
    assert 3.6 < errors[0] / errors[1] < 4.4


def test_the_ntk_parametrisation_is_a_chain_rule(task):
    """W = V / sqrt(out_channels), b = sqrt(0.1) c: the same product as with the effective tangent."""
    split, z, f, _, start = task
    z, f = torch.from_numpy(z), torch.from_numpy(f)
    model = GradientClassifier(start, split, ntk=True)
    w2 = random_like(split.theta2)
    for parameter, value in zip(model.w2, w2.values(), strict=True):
        parameter.data.copy_(value)
    effective = {k: v * (0.1**0.5 if v.ndim == 1 else v.shape[0] ** -0.5) for k, v in w2.items()}
    expected = f[:9] @ start.omega + start.bias + split.jacobian_product(z[:9], split.theta2, effective) @ start.omega
    assert relative(model(f[:9], z[:9]), expected) < 1e-5


def test_fine_tuning_takes_the_same_parametrisation(task):
    """A step of plain gradient descent on V moves W by the gradient of W over its outputs, and a bias by a tenth."""
    split, z, f, labels, start = task
    z, f, y = torch.from_numpy(z[:32]), torch.from_numpy(f[:32]), torch.from_numpy(labels[:32])
    moved = {}
    for ntk in (False, True):
        model = FineTuned(start, split, ntk=ntk)
        F.cross_entropy(model(f, z), y).backward()
        moved[ntk] = [scale * each.grad for each, scale in zip(model.theta2, model.scales, strict=True)]
    for plain, scaled in zip(moved[False], moved[True], strict=True):
        expected = plain * (0.1 if plain.ndim == 1 else 1 / plain.shape[0])
        assert relative(scaled, expected) < 1e-4


def test_the_optimisers_are_those_of_the_paper_and_of_the_code(task):
    """Learning rate, weight decay and steps to the first halving; the code's numbers from its configuration files."""
    split, _, _, _, start = task
    models = {
        "activations": GradientClassifier(start, None),
        "gradient": GradientClassifier(start, split),
        "ntk": GradientClassifier(start, split, ntk=True),
        "fine-tuned": FineTuned(start, split),
    }
    for model in models.values():
        optimizer, every = GradientTrainer(steps=50_000).optimizer(model)
        assert isinstance(optimizer, torch.optim.Adam) and not every
        assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-3, 0)]
    expected = {
        "activations": ([(0.01, 1e-6)], 12_500),
        "gradient": ([(0.1, 5e-5)], 10_000),
        "ntk": ([(0.1, 5e-5), (0.1 / 3, 3 * 5e-5), (0.01, 5e-4)], 10_000),  # theta2; w1 of three classes; its bias
        "fine-tuned": ([(1e-3, 5e-5)], 10_000),
    }
    for name, (groups, halved) in expected.items():
        optimizer, every = GradientTrainer(steps=50_000, training="code").optimizer(models[name])
        assert every == halved and isinstance(optimizer, torch.optim.SGD)
        assert [each["momentum"] for each in optimizer.param_groups] == [0.9] * len(groups)
        found = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        assert found == [pytest.approx(each) for each in groups], name
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(models[name].parameters()))


def test_random_weights_are_seeded_and_leave_the_rest(task):
    module, x = cnn(), images(32)
    chosen = lambda name: name.startswith("layer4")  # noqa: E731
    first, again, other = (randomised(module, chosen, x, seed).state_dict() for seed in (1, 1, 2))
    for name, value in module.state_dict().items():
        assert torch.equal(first[name], again[name])
        assert name.startswith("layer4") or torch.equal(first[name], value)
    assert not torch.equal(first["layer4.0.conv1.weight"], other["layer4.0.conv1.weight"])
    assert not torch.equal(first["layer4.0.conv1.weight"], module.state_dict()["layer4.0.conv1.weight"])


@pytest.mark.parametrize(
    ("make", "block", "below", "above"),
    [(cnn, "layer3", ("conv1", "bn1", "layer1.", "layer2."), ("layer3.", "layer4.")),
     (vit, "blocks.5", ("cls_token", "pos_embed", "patch_embed.", "blocks.0.", "blocks.4."), ("blocks.5.", "norm."))],
)  # fmt: skip
def test_random_theta1_leaves_what_comes_after_it(make, block: str, below: tuple[str, ...], above: tuple[str, ...]):
    module, x = make(), images(16)
    random = randomised(module, run_before(module, (block,), x).__contains__, x, 0).state_dict()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, random[name])}
    assert not [name for name in changed if name.startswith(above)]
    assert all(any(name.startswith(prefix) for name in changed) for prefix in below)


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three classes of small images, bright bars in three directions on noise."""
    rng = np.random.default_rng(0)

    def make(spec: object, split: str) -> ArraySet:
        labels = np.arange(60 if split == "train" else 30) % 3
        pixels = rng.integers(0, 120, (len(labels), 32, 32, 3)).astype(np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            at = rng.integers(8, 24)
            if label == 0:
                image[at : at + 3] = 230
            elif label == 1:
                image[:, at : at + 3] = 230
            else:
                image[np.arange(32), (np.arange(32) + at) % 32] = 230
        return ArraySet(f"blobs-{split}", pixels, labels, ("a", "b", "c"))

    sets = {split: make(None, split) for split in ("train", "test")}
    monkeypatch.setattr(splits, "open_images", lambda spec, split: sets[split])


def test_the_probe_and_all_its_controls(blobs, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch):
    chosen_by, built, models = [], [], {}
    search, random, model_of = suite.search_c, suite.randomised, suite._Task._model

    def remember(task, kind: str, start: Start, split: SplitEncoder, seed: int) -> nn.Module:
        models[kind] = model_of(task, kind, start, split, seed), start, split, task.split
        return model_of(task, kind, start, split, seed)

    monkeypatch.setattr(suite._Task, "_model", remember)
    monkeypatch.setattr(suite, "search_c", lambda *given: chosen_by.append(given[-1].metric) or search(*given))
    monkeypatch.setattr(suite, "randomised", lambda *given: built.append(given[-1]) or random(*given))
    settings = {"probe": "gradient", "blocks": "layer4", "controls": "all", "gradient_steps": 5, "trials": 1}
    config = EvalConfig(**settings, seeds=(0, 1), crop_size=32, selection="mean_per_class")
    first = evaluate("timm:test_resnet@random", {"b": "builtin:faces"}, config, cache=tmp_path)
    rows = {row["probe"]: row for row in first["results"]}
    assert list(rows) == ["gradient-start", "gradient", *(f"gradient-{name}" for name in suite.CONTROLS)]
    assert all(row["seeds"] == [0, 1] and len(row["hyper_parameters"]) == 2 for row in rows.values())
    assert rows["gradient"]["hyper_parameters"][0]["blocks"] == "layer4"
    assert rows["gradient-fine-tuned"]["hyper_parameters"][0]["ntk"] is False
    assert chosen_by == ["mean_per_class"] * 2 and rows["gradient"]["selected_by"] == "mean_per_class"
    assert built == [0, 0, 0, 1, 1, 1]  # theta2 (looked at twice) and theta1, for each seed
    for kind, (model, start, split, pretrained) in models.items():
        theta2 = getattr(model, "theta2", {})
        same = {
            "omega": torch.equal(getattr(model, "omega", start.omega), start.omega),
            "w1": model.w1.data_ptr() != start.omega.data_ptr(),
        }
        if kind in ("start", "activations"):
            assert model.split is None and all(same.values())
            continue
        if kind != "fine-tuned":
            same["theta2"] = all(torch.equal(value, pretrained.theta2[name]) for name, value in theta2.items())
        x = images().to(model.w1.device)
        same["theta1"] = torch.equal(split.activations(x), pretrained.activations(x))
        changed = {"random-omega": {"omega"}, "random-theta2": {"theta2"}, "random-theta1": {"theta1"}}
        assert {name for name, unchanged in same.items() if not unchanged} == changed.get(kind, set()), kind
        assert isinstance(model, FineTuned) == (kind == "fine-tuned") and model.split is split
    said = capsys.readouterr().err
    assert re.search(r"activations at layer4 \S+ of 90 images, [\d.]+ [kM]B in memory; theta2 has", said), said
    assert "5 steps" in said
    second = evaluate("timm:test_resnet@random", {"b": "builtin:faces"}, config, cache=tmp_path)
    assert second["results"] == first["results"]
    assert second["features_from_cache"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"controls": "magic"}, "no control 'magic'"), ({"blocks": "layer7"}, "no block 'layer7'")],
)
def test_wrong_options_are_one_line(blobs, tmp_path, settings: dict[str, str], message: str):
    config = EvalConfig(**({"probe": "gradient", "blocks": "layer4", "crop_size": 32} | settings))  # pyright: ignore[reportArgumentType]
    with pytest.raises(EvaluationError, match=message):
        evaluate("timm:test_resnet@random", {"b": "builtin:faces"}, config, cache=tmp_path)
    with pytest.raises(EvaluationError, match="blocks"):
        EvalConfig(probe="gradient")
