"""The published numbers: Tab. 4.1 to 4.3, D.1 and 5.1 to 5.4 of the thesis (Sariyildiz, 2023), as printed.

All are the authors', measured with a ResNet50 and 100 epochs; those of chapter 5 with Stable Diffusion 1.4 and 50 steps
(Tab. 5.1: the prompt "c" at guidance scale 7.5). Accuracies are in percent, log odds natural logarithms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imagenet_sd.report.encoders import TRANSFER
from imagenet_sd.report.text import DASH, TIMES

GENERATOR, NUM_STEPS, BACKBONE, EPOCHS = "CompVis/stable-diffusion-v1-4", 50, "resnet50", 100
"""What every trained row of the tables shares (thesis 4.4 and 5.5)."""
BASELINE = "timm:resnet50.tv_in1k"
"""The reference model of ImageNet-CoG: the ResNet50 of torchvision (3.4.1)."""
NUM_IMAGES = {"imagenet-100": 126_689, "imagenet-1k": 1_281_167}
"""Training images by class list; of synthetic data as many, times its multiple."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """A row of a published table.

    Attributes:
        training: what the encoder was trained on, as printed.
        label: prompt or model, as printed.
        class_list: its classes; "" where nothing was trained, or where the text does not say how.
        data: "real", "synthetic" or "none".
        encoder: for models of others, a pattern of the name of the same weights in `evaluate`: `*` stands for any text,
            and of a checkpoint's path only the file name counts; "" for none.
        multiple, guidance_scale, prompt: of synthetic data.
        recipe: settings of the training that the row stands for, by their path in `TrainConfig`.
        values: in the order of the table's columns.
    """

    training: str
    label: str
    class_list: str = ""
    data: str = "synthetic"
    encoder: str = ""
    multiple: float = 1.0
    guidance_scale: float = 0.0
    prompt: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...]

    @property
    def num_images(self) -> int:
        """Training images; 0 where the row does not say."""
        return round(NUM_IMAGES.get(self.class_list, 0) * self.multiple)


_PROMPTS = {"c": "c", "c_hc": "c, hc", "c_dc": "c, dc", "c_hc_b": "c, hc inside b"}
_TITLES = {"imagenet-100": "ImageNet-100", "imagenet-1k": "ImageNet-1K"}
_TORCHVISION, _RSB = "timm:resnet50.tv_in1k*", "timm:resnet50.a1_in1k*"
_DINO, _PAWS, _SUPCON = (f"timm:resnet50@*{name}*" for name in ("dino", "paws", "supcon"))
_CLASSIFIER = {"objective.loss": "cross_entropy", "model.projector_layers": 0}


def _sd(classes: str, scale: float, prompt: str, values: str, multiple: float = 1.0) -> PaperRow:
    size = f" ({multiple:g}{TIMES})" if multiple != 1 else ""
    return PaperRow(
        training=f"{_TITLES[classes]}-SD",
        label=f"{_PROMPTS[prompt]}{size}",
        class_list=classes,
        multiple=multiple,
        guidance_scale=scale,
        prompt=prompt,
        recipe=_CLASSIFIER,
        values=tuple(map(float, values.split())),
    )


def _real(classes: str, label: str, values: str, encoder: str = "") -> PaperRow:
    return PaperRow(
        training=_TITLES[classes],
        label=label,
        class_list=classes,
        data="real",
        encoder=encoder,
        recipe={} if encoder else _CLASSIFIER,
        values=tuple(map(float, values.split())),
    )


# Tab. 5.1: top-1 on ImageNet-100 val with plain and with strong augmentation.
AUGMENTATION = (_real("imagenet-100", "Baseline", "86.6 87.4"), _sd("imagenet-100", 7.5, "c", "28.4 43.1"))

# Tab. 5.2: top-1 and top-5 on each of these.
IMAGENET_SETS = {"val": "IN-Val", "v2": "IN-v2", "sketch": "IN-Sketch", "r": "IN-R*", "a": "IN-A*"}
IMAGENET = (
    _real("imagenet-100", "Baseline", "87.4 96.8 82.5 95.1 39.1 58.9 58.4 79.1 25.6 68.7"),
    _sd("imagenet-100", 7.5, "c", "43.1 70.7 45.4 70.7 29.9 53.5 51.7 75.3 8.8 38.4"),
    _sd("imagenet-100", 7.5, "c_hc", "46.9 73.4 47.3 73.7 25.9 50.4 46.3 75.3 11.5 42.2"),
    _sd("imagenet-100", 7.5, "c_dc", "47.9 74.2 49.1 74.9 24.7 49.2 41.2 71.5 12.2 38.5"),
    _sd("imagenet-100", 7.5, "c_hc_b", "51.5 76.8 51.2 77.4 27.9 52.5 54.0 81.8 14.1 48.4"),
    _sd("imagenet-100", 2.0, "c", "63.5 86.9 62.7 86.7 41.8 67.6 64.2 83.9 13.7 45.1"),
    _sd("imagenet-100", 2.0, "c_hc", "63.4 87.1 63.5 86.5 39.2 66.7 61.9 85.1 14.9 49.1"),
    _sd("imagenet-100", 2.0, "c_dc", "64.8 86.9 65.0 87.3 33.8 60.5 51.4 77.5 14.0 48.8"),
    _sd("imagenet-100", 2.0, "c_hc_b", "63.1 85.7 62.0 85.0 38.7 65.5 64.0 87.2 21.9 63.1"),
    _sd("imagenet-100", 2.0, "c_dc", "72.4 90.8 70.2 90.2 40.0 65.7 55.2 79.0 15.6 53.8", 10),
    _sd("imagenet-100", 2.0, "c_dc", "72.4 91.4 71.4 90.7 38.4 63.9 56.9 81.5 17.8 55.0", 20),
    _sd("imagenet-100", 2.0, "c_dc", "73.3 91.7 72.3 91.2 42.0 67.0 59.4 82.3 17.1 57.1", 50),
    _real("imagenet-1k", "PyTorch", "76.1 92.9 71.1 90.4 24.1 41.3 36.2 52.8 0.0 14.4", _TORCHVISION),
    _real("imagenet-1k", "RSB-A1", "80.1 94.5 75.6 92.0 29.2 46.5 40.6 55.1 11.1 38.6", _RSB),
    _sd("imagenet-1k", 7.5, "c_dc", "26.2 51.7 26.0 51.4 9.5 22.1 15.9 32.0 2.2 10.1"),
    _sd("imagenet-1k", 7.5, "c_hc_b", "30.1 55.6 29.8 55.3 11.9 27.1 23.5 43.1 3.4 13.2"),
    _sd("imagenet-1k", 2.0, "c_dc", "42.9 70.3 43.0 70.3 16.6 35.1 26.3 45.3 3.6 15.1"),
)

# Tab. 5.3: top-1 on the ten transfer sets, and their mean.
TRANSFER_TITLES: dict[str, str] = dict(
    zip(TRANSFER, "Aircraft Cars196 DTD EuroSAT Flowers Pets Food101 SUN397 iNat18 iNat19".split(), strict=True)
)
TRANSFER_ROWS = (
    PaperRow(
        training=DASH,
        label="Random weights",
        data="none",
        encoder="timm:resnet50@random",
        values=(11.9, 3.7, 17.0, 73.1, 26.9, 11.9, 13.3, 7.3, 0.1, 1.3, 16.6),
    ),
    _real("imagenet-100", "Baseline", "43.6 41.5 67.9 96.2 85.6 78.7 63.4 51.2 22.8 33.4 58.4"),
    _sd("imagenet-100", 2.0, "c_dc", "47.9 44.5 74.0 96.8 89.6 83.7 68.6 57.2 29.5 40.6 63.2", 50),
    _real("imagenet-1k", "PyTorch", "48.9 49.9 72.1 96.2 89.3 92.3 71.2 60.5 35.5 41.5 65.7", _TORCHVISION),
    _real("imagenet-1k", "RSB-A1", "46.8 54.4 73.8 95.8 88.6 93.0 71.3 63.4 34.9 43.2 66.5", _RSB),
    _sd("imagenet-1k", 7.5, "c_dc", "48.7 49.7 71.6 96.5 90.1 81.9 66.4 55.8 28.7 40.6 63.0"),
    _sd("imagenet-1k", 7.5, "c_hc_b", "49.6 47.4 72.1 95.9 89.3 87.2 67.7 59.5 30.8 41.4 64.1"),
    _sd("imagenet-1k", 2.0, "c_dc", "55.3 57.2 75.9 96.7 92.9 88.7 73.1 62.5 35.0 46.3 68.4"),
)

# Tab. 5.4: top-1 of linear classifiers on ImageNet-1K and the five levels of ImageNet-CoG.
COG_SETS = {"in1k": "IN-1K", **{f"L{level}": f"L{level}" for level in range(1, 6)}}
COG_ROWS = (
    _real("imagenet-1k", "PyTorch", "75.8 67.8 63.1 58.9 58.2 52.0", _TORCHVISION),
    _real("imagenet-1k", "RSB-A1", "79.8 69.9 65.0 60.9 59.3 52.8", _RSB),
    _real("imagenet-1k", "DINO (self-supervised)", "74.8 71.1 67.2 63.2 62.6 57.6", _DINO),
    _sd("imagenet-1k", 2.0, "c_dc", "70.4 65.7 61.8 58.5 58.0 52.4"),
)


def _trex(label: str, values: str, layers: int, **changes: Any) -> PaperRow:
    """A model of chapter 4 on ImageNet-1K: cosine softmax with multi-crop and a projector of `layers` hidden layers."""
    recipe: dict[str, Any] = {"objective.loss": "cosine_softmax", "model.projector_layers": layers}
    recipe |= {"crops.local_crops_number": 8, "crops.global_crops_scale": [0.4, 1.0]}
    if layers:
        recipe |= {"model.projector_hidden": 2048, "model.projector_bottleneck": 256}
    return PaperRow(
        training="ImageNet-1K",
        label=label,
        class_list="imagenet-1k",
        data="real",
        recipe=recipe | {key.replace("__", "."): value for key, value in changes.items()},
        values=tuple(map(float, values.split())),
    )


def _given(label: str, values: str, encoder: str = "") -> PaperRow:
    """A model of others on ImageNet-1K; without `encoder` one that nothing here can stand for."""
    return PaperRow(
        training="ImageNet-1K",
        label=label,
        data="real" if encoder else "none",
        encoder=encoder,
        values=tuple(map(float, values.split())),
    )


_OCM = {"objective__loss": "ocm", "objective__memory_size": 8192}
_TREX = {**_OCM, "crops__global_crops_scale": [0.25, 1.0], "crops__local_crops_scale": [0.05, 0.25]}

# Tab. 4.1: top-1 of a linear classifier on ImageNet-1K, and the mean log odds over the 13 transfer sets of 4.4. Its two
# halves share the row L = 1, d_h = 2048.
PROJECTOR_ROWS = (
    _trex("Base", "76.6 0.10", 0, crops__local_crops_number=0),
    _trex("Base+Mc", "79.7 0.25", 0),
    _trex("L = 1, d_h = 2048", "79.8 1.15", 1),
    _trex("L = 2", "78.6 1.31", 2),
    _trex("L = 3", "77.5 1.33", 3),
    _trex("d_h = 512", "80.0 0.82", 1, model__projector_hidden=512),
    _trex("d_h = 1024", "80.0 1.06", 1, model__projector_hidden=1024),
    _trex("d_h = 4096", "79.8 1.20", 1, model__projector_hidden=4096),
    _trex("d_h = 8192", "79.4 1.22", 1, model__projector_hidden=8192),
)

# Tab. 4.2: top-1 of one linear classifier, trained on ImageNet-1K, on its validation set and four more test sets.
SHIFT_SETS = {"val": "Val", "v2": "v2", "sketch": "Sketch", "r": "R", "a": "A"}
SHIFT_ROWS = (
    _given("DINO", "74.8 69.9 19.8 31.9 4.9", _DINO),
    _given("PAWS", "76.4 71.6 24.2 37.1 5.2", _PAWS),
    _given("SupCon", "78.8 74.3 30.9 41.3 9.7", _SUPCON),
    _given("RSB-A1", "79.8 75.4 27.9 38.9 7.9", _RSB),
    _trex("t-ReX", "78.0 73.6 26.8 39.1 7.0", 3, **_TREX),
    _trex("t-ReX*", "80.2 76.2 29.1 41.8 11.7", 1, **_OCM),
)

# Tab. 4.3: top-1 of linear classifiers on the two long-tailed sets.
LONG_TAIL_SETS = {"inat18": "iNaturalist 2018", "inat19": "iNaturalist 2019"}
LONG_TAIL_ROWS = (
    _given("DINO", "41.9 51.4", _DINO),
    _given("PAWS", "40.8 49.8", _PAWS),
    _given("RSB-A1", "34.9 43.2", _RSB),
    _trex("t-ReX", "45.8 54.2", 3, **_TREX),
    _trex("t-ReX*", "36.0 44.2", 1, **_OCM),
)

# Tab. D.1: top-1 on ImageNet-1K, the levels of ImageNet-CoG and eight small sets; last the mean log odds of those 13.
# The text does not say what h_psi is.
SMALL = TRANSFER[:8]
PLANE_ROWS = (
    _given("DINO", "74.8 71.1 67.2 63.2 62.6 57.6 62.5 67.4 77.7 97.7 95.6 88.9 78.7 66.0 1.256", _DINO),
    _given("PAWS", "76.4 71.2 67.3 63.1 62.1 56.6 63.2 71.6 76.2 96.9 95.8 91.2 77.5 65.4 1.256", _PAWS),
    _given("SL-MLP", "75.1 70.1 66.1 61.6 60.4 54.5 63.1 70.9 75.0 96.7 94.8 91.6 74.9 63.7 1.189"),
    _given("LOOK+multi-crop", "78.0 70.2 65.9 61.7 60.4 54.7 62.4 71.1 73.5 96.3 94.9 93.3 75.1 64.1 1.195"),
    _given("SupCon", "78.8 69.9 64.7 60.6 59.1 53.1 57.3 60.9 74.6 95.7 91.6 92.8 71.9 62.8 1.053", _SUPCON),
    _given("RSB-A1", "79.8 69.9 65.0 60.9 59.3 52.8 47.1 54.0 73.9 95.7 88.7 93.1 71.2 63.3 0.978", _RSB),
    _trex("t-ReX", "78.0 72.0 68.3 63.9 63.4 57.2 67.3 74.2 77.7 97.5 96.2 92.6 80.1 66.7 1.357", 3, **_TREX),
    _trex(
        "t-ReX-OCM (L=2, |Q|=8K)",
        "78.8 72.3 68.2 63.7 63.0 56.8 64.7 70.8 75.8 97.3 95.3 93.2 79.1 66.9 1.305",
        2,
        **_OCM,
    ),
    _given(
        "t-ReX-OCM (L=1, h_psi, |Q|=131K)",
        "79.6 71.7 67.3 62.8 61.6 55.3 61.9 68.8 75.2 96.7 94.0 93.6 76.6 66.1 1.224",
    ),
    _trex(
        "t-ReX_1 (d_h=4096)",
        "79.8 71.7 67.1 63.0 61.8 54.8 61.1 66.7 74.4 96.8 93.2 93.5 76.7 66.2 1.201",
        1,
        model__projector_hidden=4096,
    ),
    _trex("t-ReX_1 (d_h=2048)", "80.0 71.3 66.4 62.3 60.6 53.9 58.8 67.5 75.2 96.4 91.6 93.4 75.4 65.4 1.150", 1),
    _trex("t-ReX*", "80.2 70.7 66.0 61.5 59.8 53.4 55.5 64.7 73.2 96.2 90.1 93.0 73.2 64.8 1.078", 1, **_OCM),
)

LABEL_NOISE = 0.027
"""3.5.3: the share of images of IN-1K val and L5 that the other's classifier is surer of than 0.99 (about)."""
