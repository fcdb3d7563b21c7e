"""The published numbers: Tab. 5.1 to 5.4 of the thesis (Sariyildiz, 2023, ch. 5), in percent, as printed.

All are the authors', measured with Stable Diffusion 1.4, 50 steps, a ResNet50 and 100 epochs (Tab. 5.1: the
prompt "c" at guidance scale 7.5).
"""

from dataclasses import dataclass

from imagenet_sd.report.encoders import TRANSFER
from imagenet_sd.report.text import DASH, TIMES


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """A row of a published table.

    Attributes:
        training: what the encoder was trained on, as printed.
        label: prompt or model, as printed.
        class_list: its classes; "" where nothing was trained.
        data: "real", "synthetic" or "none".
        encoder: for models of others, how the name of the same weights begins in `evaluate`; "" for none.
        multiple, guidance_scale, prompt: of synthetic data.
        values: percent, in the order of the table's columns.
    """

    training: str
    label: str
    class_list: str = ""
    data: str = "synthetic"
    encoder: str = ""
    multiple: float = 1.0
    guidance_scale: float = 0.0
    prompt: str = ""
    values: tuple[float, ...]


_PROMPTS = {"c": "c", "c_hc": "c, hc", "c_dc": "c, dc", "c_hc_b": "c, hc inside b"}
_TITLES = {"imagenet-100": "ImageNet-100", "imagenet-1k": "ImageNet-1K"}
_TORCHVISION, _RSB = "timm:resnet50.tv_in1k", "timm:resnet50.a1_in1k"


def _sd(classes: str, scale: float, prompt: str, values: str, multiple: float = 1.0) -> PaperRow:
    size = f" ({multiple:g}{TIMES})" if multiple != 1 else ""
    return PaperRow(
        training=f"{_TITLES[classes]}-SD",
        label=f"{_PROMPTS[prompt]}{size}",
        class_list=classes,
        multiple=multiple,
        guidance_scale=scale,
        prompt=prompt,
        values=tuple(map(float, values.split())),
    )


def _real(classes: str, label: str, values: str, encoder: str = "") -> PaperRow:
    return PaperRow(
        training=_TITLES[classes],
        label=label,
        class_list=classes,
        data="real",
        encoder=encoder,
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
    _real("imagenet-1k", "DINO (self-supervised)", "74.8 71.1 67.2 63.2 62.6 57.6"),
    _sd("imagenet-1k", 2.0, "c_dc", "70.4 65.7 61.8 58.5 58.0 52.4"),
)
