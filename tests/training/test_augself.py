"""AugSelf: targets against torchvision's operations and the formulas, view by view; its losses; what it trains."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as T

from imagenet_sd.training.config import AugSelfConfig, CropsConfig, PhotometricConfig, TrainConfig, TrainingError
from imagenet_sd.training.crops import GEOMETRY, PARAMETERS, Crops, MultiCrop
from imagenet_sd.training.data import Batch
from imagenet_sd.training.model import make_encoder
from imagenet_sd.training.objectives import make_objective
from imagenet_sd.training.objectives.augself import AugSelfHead, check_tasks, targets, task_loss
from imagenet_sd.training.photometric import apply_photometric, normalize, to_float
from imagenet_sd.training.publish import _with_classifier
from imagenet_sd.training.recipes import load_train_config
from imagenet_sd.training.self_supervised import SELF_SUPERVISED
from imagenet_sd.training.views import Views, make_views

WIDTH, HEIGHT = 80, 60
CROPS = CropsConfig(global_crops_number=2, global_crop_size=32, global_crops_scale=(0.2, 1.0), local_crops_number=0,
                    interpolation="bilinear", rotate=True)  # fmt: skip
COLORS = PhotometricConfig(saturation=0.4, hue=0.1, global_blur=0.5, solarize=0.3)
ALL = AugSelfConfig(crop=1.0, color=0.5, blur=0.25, flip=2.0, solarize=0.3, rotation=0.7)
COUNT = 100


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8))
    return small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pairs_of_views(picture: Image.Image) -> list[Crops]:
    """100 pairs: 200 random views."""
    cut = MultiCrop(CROPS, COLORS, seed=5)
    return [cut(picture, 0, str(i)) for i in range(COUNT)]


def box(geometry: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) in pixels, torchvision's four numbers; the shares must be whole pixels."""
    y, x, h, w = (float(value) for value in geometry[:4])
    height, width = h * HEIGHT, w * WIDTH
    values = (y * HEIGHT - height / 2, x * WIDTH - width / 2, height, width)
    assert all(abs(value - round(value)) < 1e-4 for value in values)
    top, left, height, width = (round(value) for value in values)
    return top, left, height, width


def test_200_views_are_what_torchvision_makes_of_their_parameters(picture: Image.Image, pairs_of_views: list[Crops]):
    """Box, flip and turn on pixels; hue and saturation on the crop, where they are the only operations."""
    flips, hues = [], []
    for crops in pairs_of_views:
        for view in range(2):
            top, left, height, width = box(crops.geometry[view])
            assert top >= 0 and left >= 0 and top + height <= HEIGHT and left + width <= WIDTH
            expected = T.resized_crop(picture, top, left, height, width, [32, 32], InterpolationMode.BILINEAR)
            flip, turns = crops.geometry[view, 4:]
            expected = T.hflip(expected) if flip else expected
            expected = T.rotate(expected, 90 * int(turns))
            difference = np.abs(crops.global_crops[view].astype(int) - np.asarray(expected).transpose(2, 0, 1))
            assert difference.max() <= 2
            flips.append(flip)
            row = torch.tensor(crops.parameters[view])
            only = torch.tensor([[1, 1, row[2], row[3], 2, 3, 0, 1, 0, 0, 0]])
            image = to_float(torch.tensor(crops.global_crops[view]))
            ours = apply_photometric(image[None], only)[0]
            assert torch.allclose(ours, T.adjust_hue(T.adjust_saturation(image, row[2]), row[3].item()), atol=2e-5)
            hues.append(row[3].item())
    assert (
        0.4 < np.mean(flips) < 0.6 and min(hues) < -0.09 and max(hues) > 0.09 and 0.1 < np.mean(np.equal(hues, 0)) < 0.3
    )


def expected_targets(crops: Crops) -> dict[str, list[float]]:
    """The definitions, a pair at a time: box and flip are torchvision's (checked on pixels above), colours as drawn."""
    one, two = crops.geometry.astype(np.float64), crops.parameters.astype(np.float64)
    centres = []
    for row in one:
        top, left, height, width = box(row)
        x = (left + width / 2) / WIDTH
        centres.append(((top + height / 2) / HEIGHT, 1 - x if row[4] else x, height / HEIGHT, width / WIDTH))
    ranges = (0.8, 0.8, 0.8)
    color = [[(p[i] - 1) / ranges[i] for i in range(3)] + [p[3] / 0.2] for p in two]
    threshold = [128 / 255 if p[10] else 1.0 for p in two]
    return {
        "crop": [a - b for a, b in zip(*centres, strict=True)],
        "color": [a - b for a, b in zip(*color, strict=True)],
        "blur": [two[0][9] - two[1][9]],
        "flip": [float(one[0][4] == one[1][4])],
        "solarize": [threshold[0] - threshold[1]],
        "rotation": [(one[0][5] - one[1][5]) % 4],
    }


def test_targets_are_the_differences_of_the_parameters(pairs_of_views: list[Crops]):
    parameters = torch.tensor(np.stack([c.parameters for c in pairs_of_views]))
    geometry = torch.tensor(np.stack([c.geometry for c in pairs_of_views]))
    expected = [expected_targets(crops) for crops in pairs_of_views]
    for task in ALL.tasks:
        found = targets(task, tuple(parameters.unbind(1)), tuple(geometry.unbind(1)), COLORS)
        wanted = torch.tensor([e[task] for e in expected])
        assert torch.allclose(found.view(COUNT, -1).double(), wanted.view(COUNT, -1).double(), atol=1e-6), task
        assert len(wanted.unique()) > 1, task  # the views differ
        backwards = targets(task, tuple(parameters.flip(1).unbind(1)), tuple(geometry.flip(1).unbind(1)), COLORS)
        mirrored = found if task == "flip" else (-found) % 4 if task == "rotation" else -found
        assert torch.allclose(backwards.double(), mirrored.double(), atol=1e-6), task


def test_every_crop_gets_the_colours_of_its_own_row(picture: Image.Image):
    """Of two images with two global crops and a local one: what the loss sees, crop-major, one crop at a time."""
    config = replace(CROPS, local_crops_number=1, local_crop_size=16)
    cut = MultiCrop(config, replace(COLORS, local_blur=1.0), seed=1)
    crops = [cut(picture, 0, name) for name in ("a", "b")]
    stacked = {
        name: torch.tensor(np.stack([getattr(each, name) for each in crops]))
        for name in ("global_crops", "local_crops", "parameters", "geometry")
    }
    batch = Batch(**stacked, labels=torch.tensor([3, 4]), positives=torch.tensor([0, 1]), image_ids=["a", "b"], bad=[])
    views = make_views(batch, torch.device("cpu"))
    assert [tuple(x.shape) for x in views.crops] == [(4, 3, 32, 32), (2, 3, 16, 16)]
    assert torch.equal(views.parameters, stacked["parameters"]) and torch.equal(views.geometry, stacked["geometry"])
    for image, each in enumerate(crops):
        for crop, pixels in enumerate((*each.global_crops, *each.local_crops)):
            row = torch.tensor(each.parameters[crop])[None]
            alone = normalize(apply_photometric(to_float(torch.tensor(pixels))[None], row))[0]
            seen = views.crops[crop // 2][image if crop == 2 else 2 * crop + image]
            assert (seen - alone).abs().max() < 1e-3, (image, crop)  # the widest blur of a batch sets the kernel of all


def test_columns():
    assert PARAMETERS[:4] == ("brightness", "contrast", "saturation", "hue") and PARAMETERS[8:] == (
        "grayscale",
        "blur",
        "solarize",
    )
    assert GEOMETRY == ("centre_y", "centre_x", "height", "width", "flip", "turns")


def test_losses_of_the_tasks():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 4))
    outputs = torch.tensor(x)
    for task in ("crop", "color", "blur", "solarize"):
        expected = np.mean(
            [[(math.tanh(a) - b) ** 2 for a, b in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)]
        )
        assert task_loss(task, outputs, torch.tensor(y)).item() == pytest.approx(expected, abs=1e-9)
    same = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    p = 1 / (1 + np.exp(-x[:, 0]))
    expected = -np.mean(same * np.log(p) + (1 - same) * np.log(1 - p))
    found = task_loss("flip", outputs[:, :1], torch.tensor(same)[:, None])
    assert found.item() == pytest.approx(expected, abs=1e-9)
    turns = np.array([0, 3, 2, 1, 1])
    expected = -np.mean([row[t] - math.log(sum(math.exp(v) for v in row)) for row, t in zip(x, turns, strict=True)])
    assert task_loss("rotation", outputs, torch.tensor(turns)).item() == pytest.approx(expected, abs=1e-9)
    wanted = {"crop": torch.randn(3, 4).double(), "flip": torch.tensor([[1.0], [0], [1]]).double(),
              "rotation": torch.tensor([0, 3, 1])}  # fmt: skip
    for task, target in wanted.items():
        size = 1 if task == "flip" else 4
        z = torch.randn(3, size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z, task=task, target=target: task_loss(task, z, target), (z,))


def with_tasks(name: str) -> TrainConfig:
    config = load_train_config(name, ["model.backbone=test_resnet", "objective.memory_size=16"])
    return replace(config, crops=CROPS, photometric=COLORS, augself=ALL)


def views_of(pairs: list[Crops]) -> Views:
    pixels = torch.tensor(np.stack([c.global_crops for c in pairs], 1)).flatten(0, 1)
    parameters, geometry = (torch.tensor(np.stack([getattr(c, x) for c in pairs])) for x in ("parameters", "geometry"))
    count = len(pairs)
    return Views(crops=[to_float(pixels)], labels=torch.arange(count) % 3, parameters=parameters, geometry=geometry,
                 positives=torch.arange(count))  # fmt: skip


@pytest.mark.parametrize("method", ["supervised", "simclr", "mocov2", "byol", "simsiam", "swav", "stablerep"])
def test_the_loss_is_that_of_the_method_and_the_tasks_in_both_orders(method: str, pairs_of_views: list[Crops]):
    """With the method's loss taken away, what is left is recomputed task by task from the features of the two views."""
    torch.manual_seed(0)
    config = with_tasks(f"{method}-small")
    encoder = make_encoder(config.model)
    objective, views = make_objective(encoder, 3, config), views_of(pairs_of_views[:6])
    objective.before_step(encoder)
    (shown,) = objective.encoded_crops(views)
    assert len(shown) == (6 if method == "mocov2" else 12)
    features = encoder(shown)
    within, seen = objective.head(features)
    assert seen is features
    loss = objective.loss((within, features), views)
    alone = objective.base.loss(within, views)
    first, second = features[:6], features[6:]
    if method == "mocov2":
        assert not objective.base.second_features.requires_grad
        second = objective.base.second_features
    expected = 0.0
    for task, weight in ALL.tasks.items():
        both = torch.cat([torch.cat([first, second], 1), torch.cat([second, first], 1)])
        wanted = torch.cat([
            targets(task, tuple(p.unbind(1)), tuple(g.unbind(1)), COLORS)
            for p, g in ((views.parameters, views.geometry), (views.parameters.flip(1), views.geometry.flip(1)))
        ])  # fmt: skip
        expected += weight * task_loss(task, objective.head.tasks[task](both), wanted)
    assert (loss - alone).item() == pytest.approx(expected.item(), abs=1e-4)
    (loss - alone).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.head.tasks.parameters() if p.ndim > 1)
    assert sum(p.grad.abs().sum() for p in encoder.parameters() if p.grad is not None) > 0
    objective.after_step()
    objective.head.eval()
    assert torch.is_tensor(objective.head(features)) or isinstance(objective.head(features), tuple)
    assert objective.classifies == (method == "supervised")
    assert {id(p) for p in objective.constant_rate} == {id(p) for p in objective.base.constant_rate}


def test_the_objective_within_hears_of_every_step():
    """BYOL's momentum rises with the progress of the training, SwAV's prototypes stand still at its start."""
    config = with_tasks("byol-small")
    encoder = make_encoder(config.model)
    byol = make_objective(encoder, 3, config)
    byol.progress = 0.5
    byol.before_step(encoder)
    assert byol.base.progress == 0.5 and byol.base.momentum == pytest.approx((1 + config.objective.ema_momentum) / 2)
    swav = make_objective(make_encoder(config.model), 3, with_tasks("swav-small"))
    weight = swav.base.head.prototypes.weight
    for progress, frozen in ((0.0, True), (0.5, False)):
        swav.progress, weight.grad = progress, torch.ones_like(weight)
        swav.before_step(encoder)
        swav.after_backward()
        assert (weight.grad is None) == frozen


def test_networks_of_the_tasks():
    config = with_tasks("supervised-small")
    tasks = make_objective(make_encoder(config.model), 3, config).head.tasks
    kinds = [type(layer).__name__ for layer in tasks["crop"]]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [tuple(tasks["crop"][i].weight.shape) for i in (0, 3, 6)] == [(512, 192), (512, 512), (4, 512)]
    assert {name: task[-1].out_features for name, task in tasks.items()} == {
        "crop": 4, "color": 4, "blur": 1, "flip": 1, "solarize": 1, "rotation": 4}  # fmt: skip


def test_a_task_without_its_augmentation_is_refused():
    config = with_tasks("simclr-small")
    for change, message in (
        ({"augmentation": "pytorch"}, "augself.color has nothing to predict: augmentation is pytorch"),
        ({"crops": replace(CROPS, rotate=False)}, "augself.rotation has nothing to predict"),
        ({"crops": replace(CROPS, global_crops_scale=(1.0, 1.0))}, "augself.crop has nothing to predict"),
        ({"crops": replace(CROPS, horizontal_flip=0.0)}, "augself.flip has nothing to predict"),
        ({"crops": replace(CROPS, horizontal_flip=1.0)}, "augself.flip has nothing to predict"),
        ({"photometric": replace(COLORS, jitter_probability=0.0)}, "augself.color has nothing to predict"),
        ({"photometric": replace(COLORS, brightness=0, contrast=0, saturation=0, hue=0)}, "augself.color has nothing"),
        ({"photometric": replace(COLORS, global_blur=0.0)}, "augself.blur has nothing to predict"),
        ({"photometric": replace(COLORS, global_blur=1, blur_radius=(1, 1))}, "augself.blur has nothing to predict"),
        ({"photometric": replace(COLORS, solarize=0.0)}, "augself.solarize has nothing to predict"),
    ):
        with pytest.raises(TrainingError, match=message):
            check_tasks(replace(config, **change))
    check_tasks(config)
    for recipe in SELF_SUPERVISED.values():
        check_tasks(recipe)
    check_tasks(load_train_config("simclr-small+augself", ["augself.flip=0.5"]))  # docs/systems.md
    make_objective(
        make_encoder(config.model), 3, replace(config, photometric=replace(COLORS, solarize=0.0))
    )  # old runs
    one = replace(with_tasks("supervised-small"), crops=replace(CROPS, global_crops_number=1))
    with pytest.raises(TrainingError, match="augself needs 2 global crops of an image, not 1"):
        make_objective(make_encoder(one.model), 3, one)


def test_the_linear_classifier_beside_the_tasks_is_published():
    """As the classifier of the timm model, as without AugSelf."""
    config = with_tasks("supervised-small")
    encoder = make_encoder(replace(config.model, small_images=False)).eval()
    head = make_objective(encoder, 3, config).head.eval()
    assert isinstance(head, AugSelfHead)
    model, images = _with_classifier("test_resnet", encoder, head, 3, 32), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert model is not None and torch.allclose(model(images), head(encoder(images)), atol=1e-4)
