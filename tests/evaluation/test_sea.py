"""SeA and what it is compared with, against loops and autograd; its grids, from commands and studies; what selects."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from imagenet_sd.cli import app
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.evaluation.config import Augmentation, EvalConfig, EvaluationError, SeaSettings, recorded
from imagenet_sd.evaluation.features import Extracted
from imagenet_sd.evaluation.probes import search
from imagenet_sd.evaluation.probes.rows import FeatureRows
from imagenet_sd.evaluation.probes.sea import SeaConfig, augment, class_variances, entropy_gradient, isda_logits
from imagenet_sd.evaluation.probes.search import SearchSettings, accuracy, fit_sea, stratified_split
from imagenet_sd.evaluation.suites import probing
from imagenet_sd.study import load_study

MEAN_PER_CLASS = {"aircraft", "caltech101", "flowers", "pets"}  # section 4 of the paper


def test_isda_adds_the_variance_along_the_difference_of_weights():
    rng = np.random.default_rng(0)
    w, x, y = rng.normal(size=(3, 5)), rng.normal(size=(30, 5)), np.arange(30) % 3
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    variances = class_variances(FeatureRows(x, device=torch.device("cpu")), torch.tensor(y), 4)
    assert np.allclose(variances[:3], [x[y == c].var(0) for c in range(3)], atol=1e-6) and not variances[3].any()
    logits = x @ w.T
    found = isda_logits(torch.tensor(logits), torch.tensor(w), torch.tensor(y), variances[:3].double(), 0.7)
    for i in range(30):
        sigma = np.diag(x[y == y[i]].var(0))
        for c in range(3):
            v = (w[c] - w[y[i]]) @ sigma @ (w[c] - w[y[i]])
            assert found[i, c].item() == pytest.approx(logits[i, c] + 0.35 * v, abs=1e-6)
    # cross-entropy on them is the log of a mean over sampled features, and so bounds their mean loss from above
    sampled = x[0] + rng.normal(size=(400_000, 5)) * np.sqrt(0.7 * x[y == y[0]].var(0))
    losses = np.log(np.exp(sampled @ (w - w[y[0]]).T).sum(1))
    bound = torch.nn.functional.cross_entropy(found[:1], torch.tensor(y[:1])).item()
    assert bound == pytest.approx(np.log(np.exp(losses).mean()), rel=0.01) and bound > losses.mean()


def test_me_ada_climbs_loss_and_entropy():
    rng = np.random.default_rng(1)
    x = torch.nn.functional.normalize(torch.tensor(rng.normal(size=(6, 4))), dim=1)
    w, y = torch.tensor(rng.normal(size=(3, 4))), torch.tensor([0, 1, 2, 1, 0, 2])
    z = x.clone().requires_grad_()
    p = torch.softmax(z @ w.T / 0.5, 1)
    entropy = -0.5 * (p * p.log()).sum()
    loss = 0.5 * torch.nn.functional.cross_entropy(z @ w.T / 0.5, y, reduction="sum")
    (up,) = torch.autograd.grad(entropy, z, retain_graph=True)
    assert torch.allclose(entropy_gradient(x, w, 0.5), up, atol=1e-10)
    (both,) = torch.autograd.grad(loss + entropy, z)
    shown = augment(x, w, y, SeaConfig(augmentation="me_ada", eta=0.05, smoothing=0.5), torch.Generator())
    assert torch.allclose(shown, torch.nn.functional.normalize(x + 0.05 * both, dim=1), atol=1e-10)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[SeaConfig]:
    """Every configuration that a search trains with."""
    configs: list[SeaConfig] = []

    def fake(features, labels, num_classes, config, seed):
        configs.append(config)
        return torch.eye(num_classes, features.features.shape[1])

    monkeypatch.setattr(search, "train_sea", fake)
    return configs


def problem() -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(40) % 4
    return np.eye(6)[y] + 0.1 * np.random.default_rng(0).normal(size=(40, 6)), y


@pytest.mark.parametrize("kind", get_args(Augmentation))
def test_the_search_stays_on_the_grids_of_the_paper(tried: list[SeaConfig], kind: Any):
    x, y = problem()
    _, best = fit_sea(
        x, y, 4, stratified_split(y, 0.2, "d", 0), 60, 0, SearchSettings(sea=SeaSettings(augmentation=kind))
    )
    etas = {
        "none": {0},
        "sea": {0, 0.2, 0.4, 0.8},
        "adv": {0.005, 0.01, 0.02, 0.05},
        "me_ada": {0.005, 0.01, 0.02, 0.05},
    }
    assert {c.eta for c in tried} == etas.get(kind, {0.2, 0.4, 0.8, 1.0})
    assert {c.smoothing for c in tried} == {0.05, 0.1, 1.0} and {c.margin for c in tried} == {0.0, 1.0}
    assert {c.learning_rate for c in tried} == {2.0**i for i in range(-2, 4)}
    assert {c.weight_decay for c in tried} == {0, 1e-6, 1e-5, 1e-4}
    assert {c.alpha for c in tried} == ({0.01, 0.02, 0.05} if kind in ("sea", "sea_neg") else {0.01})
    assert {(c.augmentation, c.epochs, c.batch_size) for c in tried} == {(kind, 100, 256)}
    assert tried[-1] == SeaConfig(augmentation=kind, **best)  # pyright: ignore[reportArgumentType]


def test_the_base_of_the_search_is_a_setting(tried: list[SeaConfig]):
    x, y = problem()
    sea = SeaSettings(eta=(0.4,), smoothing=(1.0,), margin=(0.0,), alpha=(0.02,), learning_rate=(1.0,),
                      weight_decay=(0.0,), epochs=7, batch_size=16)  # fmt: skip
    fit_sea(x, y, 4, stratified_split(y, 0.2, "d", 0), 3, 0, SearchSettings(sea=sea))
    one = SeaConfig(eta=0.4, smoothing=1.0, alpha=0.02, learning_rate=1.0, epochs=7, batch_size=16)
    assert tried == [one] * 4
    for bad in ({"eta": (-1.0,)}, {"smoothing": (0.0,)}, {"margin": ()}, {"augmentation": "x"}, {"batch_size": 1}):
        with pytest.raises(EvaluationError, match=next(iter(bad))):
            SeaSettings(**bad)  # pyright: ignore[reportArgumentType]


def test_all_of_it_is_reached_from_the_command_line_and_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[EvalConfig] = []

    def fake(encoder, data, config, **options):
        seen.append(config)
        return {"results": []}

    monkeypatch.setattr("imagenet_sd.pipeline.evaluate", fake)
    options = "--sea-augmentation isda --sea-eta 0:0.2:0.4:0.8 --sea-lambda 0.05 --sea-delta 0:1 --sea-alpha 0.02 "
    options += (
        "--sea-learning-rate 1:2 --sea-weight-decay 0 --sea-epochs 5 --sea-batch-size 64 --selection mean_per_class "
    )
    options += "--shots 1:4 --episodes 7 --queries 15 --episode-pool all --ways 3 --episode-shots 2 --batch-size 7"
    done = CliRunner().invoke(app, ["evaluate", "timm:resnet18", "--probe", "sea", *options.split()])
    assert done.exit_code == 0, done.output
    expected = SeaSettings(
        augmentation="isda", eta=(0.0, 0.2, 0.4, 0.8), smoothing=(0.05,), margin=(0.0, 1.0), alpha=(0.02,),
        learning_rate=(1.0, 2.0), weight_decay=(0.0,), epochs=5, batch_size=64,
    )  # fmt: skip
    few = {"shots": (1, 4), "episodes": 7, "queries": 15, "episode_pool": "all", "ways": 3, "episode_shots": (2,)}
    assert seen[0] == EvalConfig(probe="sea", sea=expected, selection="mean_per_class", batch_size=7, **few)  # pyright: ignore[reportArgumentType]
    done = CliRunner().invoke(app, ["evaluate", "timm:resnet18", "--probe", "sea"])
    assert done.exit_code == 0 and seen[1] == EvalConfig(probe="sea")
    (tmp_path / "s.yaml").write_text(
        "encoder: timm:resnet18\nevaluate:\n  probe: sea\n  selection: mean_per_class\n"
        "  data: {faces: 'builtin:faces'}\n"
        "  sea: {augmentation: isda, eta: [0, 0.2, 0.4, 0.8], smoothing: [0.05], margin: [0, 1], alpha: [0.02],\n"
        "        learning_rate: [1, 2], weight_decay: [0], epochs: 5, batch_size: 64}\n"
    )
    (section,) = load_study(tmp_path / "s.yaml").evaluate
    assert section.sea == expected and section.selection == "mean_per_class"


def test_accuracy_by_either_measure_in_chunks(monkeypatch: pytest.MonkeyPatch):
    y = np.array([0] * 8 + [1] * 2)
    x, every = np.eye(2)[np.array([0] * 8 + [0, 1])], np.arange(10)
    monkeypatch.setattr(search, "_CHUNK", 3)
    assert accuracy(lambda z: z, x, y, every, "top1") == 0.9
    assert accuracy(lambda z: z, x, y, every, "mean_per_class") == 0.75
    assert accuracy(lambda z: z, x, y, every[-2:], "top1") == 0.5


def test_mean_per_class_selects_where_the_protocol_selects_by_it(monkeypatch: pytest.MonkeyPatch):
    from imagenet_sd.data.transfer import TRANSFER_SETS

    for name in TRANSFER_SETS:
        spec = DataSpec.parse(f"torchvision:{name}@/data")
        for probe in search.PROBES:
            by_class = probe in ("sea", "path") and name in MEAN_PER_CLASS
            expected = "mean_per_class" if by_class else "top1"
            assert probing.selection_metric(spec, probe, EvalConfig()) == expected
    assert probing.selection_metric(DataSpec.parse("builtin:faces"), "sea", EvalConfig()) == "top1"
    asked = EvalConfig(selection="mean_per_class")
    assert probing.selection_metric(DataSpec.parse("builtin:faces"), "lbfgs", asked) == "mean_per_class"
    # 90 easy images of class 0 and 10 hard ones of class 1: the settings that win by one measure lose by the other
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [900, 100])
    x = rng.normal(size=(1000, 2)) + np.where(y == 1, 0.8, 0.0)[:, None]
    data = Extracted(data=FeatureSet(features=x.astype(np.float32), labels=y), classes=("a", "b"), unreadable=(),
                     cache_key="k", from_cache=True, digests=np.arange(len(y), dtype=np.uint64))  # fmt: skip

    def two(x, y, classes, rows, trials, seed, settings):
        candidates = [
            lambda z: np.stack([np.full(len(z), 0.5), 0 * z[:, 0]], 1),
            lambda z: np.stack([0.8 - z.sum(1), z[:, 0] * 0], 1),
        ]
        values = [accuracy(s, x, y, rows[1], settings.metric) for s in candidates]
        best = int(np.argmax(values))
        return candidates[best], {"candidate": float(best)}

    monkeypatch.setitem(search.PROBES, "sea", two)
    spec = DataSpec.parse("torchvision:pets@/data")
    by_class = probing.probe_dataset("pets", data, data, EvalConfig(probe="sea", seeds=(0,)), spec)
    by_image = probing.probe_dataset("pets", data, data, EvalConfig(probe="sea", seeds=(0,), selection="top1"), spec)
    assert (by_class.selected_by, by_image.selected_by) == ("mean_per_class", "top1")
    assert by_class.hyper_parameters == ({"candidate": 1.0},) and by_image.hyper_parameters == ({"candidate": 0.0},)
    assert (by_class.mean_per_class_accuracy or 0) > 0.6 and by_image.top1 == 0.9


def test_another_method_is_named_in_its_result(tried: list[SeaConfig]):
    x, y = problem()
    data = Extracted(data=FeatureSet(features=x.astype(np.float32), labels=y), classes=tuple("abcd"), unreadable=(),
                     cache_key="k", from_cache=True, digests=np.arange(len(y), dtype=np.uint64))  # fmt: skip
    for kind, name in (("sea", "sea"), ("none", "sea-none"), ("me_ada", "sea-me_ada")):
        config = EvalConfig(probe="sea", seeds=(0,), trials=1, sea=SeaSettings(augmentation=kind))  # pyright: ignore[reportArgumentType]
        assert probing.probe_dataset("d", data, data, config).probe == name


def test_old_evaluations_count_as_done_only_where_their_numbers_are_the_same():
    """The fields that version 0.1.0 had, by the names and values of then; its SeA, paths and episodes were others."""
    first = {"suite", "probe", "large", "seeds", "trials", "validation_share", "side", "preprocessing", "batch_size",
             "amp", "shots", "ways", "episode_shots", "episodes"}  # fmt: skip
    for probe in ("auto", "lbfgs", "sgd", "knn"):
        record = recorded(EvalConfig(probe=probe))  # pyright: ignore[reportArgumentType]
        assert record.keys() == first and (record["side"], record["episodes"]) == (224, 200)
    assert (
        recorded(EvalConfig(probe="sea")).keys()
        == recorded(EvalConfig(probe="path")).keys()
        == first | {"sea", "selection"}
    )
    assert recorded(EvalConfig(suite="fewshot")).keys() == first | {"queries", "episode_pool"}
    assert recorded(EvalConfig(selection="mean_per_class")).keys() == first | {"selection"}
