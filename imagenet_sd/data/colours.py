"""Names for what can be measured in a small photograph: colour of the object, colour of the background, brightness.

No segmentation model is needed: what differs from the border of the picture and lies near its centre counts as the
object. A colour is named only where it clearly dominates, so many pictures get no name.
"""

from dataclasses import dataclass

import numpy as np

COLOURS = ("black", "white", "grey", "brown", "red", "orange", "yellow", "green", "blue", "purple", "pink")
_GREY, _BLACK = COLOURS.index("grey"), COLOURS.index("black")


@dataclass(frozen=True, kw_only=True, slots=True)
class Appearance:
    """What is measured in one picture; "" where nothing is clear.

    Attributes:
        object: colour of the object.
        background: colour of the background.
        light: "dark" or "bright".
    """

    object: str = ""
    background: str = ""
    light: str = ""


def pixel_colours(images: np.ndarray) -> np.ndarray:
    """The index into `COLOURS` of every pixel.

    Args:
        images: uint8 [..., 3].

    Returns:
        int8 [...].
    """
    rgb = images.astype(np.float32) / 255
    value, low = rgb.max(-1), rgb.min(-1)
    chroma = value - low
    saturation = chroma / np.maximum(value, 1e-6)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    safe = np.maximum(chroma, 1e-6)
    sector = np.where(value == r, (g - b) / safe % 6, np.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    hue = sector * 60
    named = np.full(value.shape, COLOURS.index("red"), np.int8)
    for name, start, end in (
        ("orange", 15, 42),
        ("yellow", 42, 66),
        ("green", 66, 165),
        ("blue", 165, 262),
        ("purple", 262, 300),
        ("pink", 300, 338),
    ):
        named[(hue >= start) & (hue < end)] = COLOURS.index(name)
    red = named == COLOURS.index("red")
    named[red & (saturation < 0.45) & (value > 0.6)] = COLOURS.index("pink")
    named[(named == COLOURS.index("pink")) & (value < 0.5)] = COLOURS.index("red")
    named[(hue >= 8) & (hue < 50) & ((value < 0.62) | (saturation < 0.45))] = COLOURS.index("brown")
    grey = (saturation < 0.16) | (chroma < 0.07) | ((saturation < 0.22) & (hue >= 66) & (hue < 338))
    named[grey] = _GREY
    named[(value > 0.76) & (saturation < 0.15)] = COLOURS.index("white")
    named[(value < 0.20) | ((value < 0.27) & grey)] = COLOURS.index("black")
    return named


def _object_weights(images: np.ndarray, border: np.ndarray) -> np.ndarray:
    """How much each pixel belongs to the object, float32 [N, H, W] in [0, 1]: near the centre and unlike the border."""
    n, height, width, _ = images.shape
    edge = images[:, border].astype(np.float32)[:, ::5]
    pixels = images.reshape(n, -1, 3).astype(np.float32)
    squares = (pixels**2).sum(-1)[:, :, None] + (edge**2).sum(-1)[:, None, :] - 2 * pixels @ edge.transpose(0, 2, 1)
    third = np.partition(squares, 2, axis=-1)[:, :, 2]  # of the nearest pixels of the border
    nearest = np.sqrt(np.maximum(third, 0))
    y, x = np.mgrid[:height, :width]
    off = ((y - (height - 1) / 2) / (0.30 * height)) ** 2 + ((x - (width - 1) / 2) / (0.34 * width)) ** 2
    unlike = np.clip((nearest - 14) / 26, 0, 1).reshape(n, height, width)
    return (unlike * np.exp(-off / 2)).astype(np.float32)


def measure(images: np.ndarray, *, object_share: float = 0.45, background_share: float = 0.6) -> list[Appearance]:
    """Name colours and brightness of pictures.

    Args:
        images: uint8 [N, H, W, 3].
        object_share: how much of the object's weight one colour must have to be named.
        background_share: how much of the border one colour must fill to be named.
    """
    parts = (images[start : start + 500] for start in range(0, len(images), 500))
    return [found for part in parts for found in _measure(part, object_share, background_share)]


def strongest(images: np.ndarray) -> list[tuple[str, str]]:
    """The strongest colour of object and of border, however clear or unclear; `measure` names only what is clear.

    Args:
        images: uint8 [N, H, W, 3].
    """
    parts = (images[start : start + 500] for start in range(0, len(images), 500))
    tops = [(shares.argmax(1), edges.argmax(1)) for shares, _, edges, _ in map(_shares, parts)]
    return [(COLOURS[a], COLOURS[b]) for objects, borders in tops for a, b in zip(objects, borders, strict=True)]


def _shares(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the names are taken from.

    Returns:
        shares of the colours in the object [N, colours], the object's size [N], shares of the colours in the border
        [N, colours], and the share of black in the middle quarter [N].
    """
    _, height, width, _ = images.shape
    border = np.ones((height, width), bool)
    border[3:-3, 3:-3] = False
    named = pixel_colours(images)
    weights = _object_weights(images, border)
    shares, edges = (np.zeros((len(images), len(COLOURS)), np.float32) for _ in range(2))
    for i in range(len(COLOURS)):
        shares[:, i] = (weights * (named == i)).sum((1, 2))
        edges[:, i] = (named[:, border] == i).mean(1)
    mass = shares.sum(1) / weights[0].size
    shares /= np.maximum(mass * weights[0].size, 1e-6)[:, None]
    middle = (named == _BLACK)[:, height // 4 : -(height // 4), width // 4 : -(width // 4)].mean((1, 2))
    return shares, mass, edges, middle


def _measure(images: np.ndarray, object_share: float, background_share: float) -> list[Appearance]:
    shares, mass, edges, middle = _shares(images)
    light = images.mean((1, 2, 3))
    found = []
    for i in range(len(images)):
        top, back = int(shares[i].argmax()), int(edges[i].argmax())
        clear = mass[i] > 0.08 and shares[i, top] >= object_share and edges[i, top] < 0.5
        clear = clear and (top != _BLACK or middle[i] > 0.3)  # not just the windows of a white car
        found.append(
            Appearance(
                object=COLOURS[top] if clear else "",
                background=COLOURS[back] if edges[i, back] >= background_share else "",
                light="dark" if light[i] < 75 else "bright" if light[i] > 170 else "",
            )
        )
    return found


def recolour(images: np.ndarray, colour: str) -> np.ndarray:
    """Give the red or blue parts of pictures another colour, keeping their light and shade.

    Args:
        images: uint8 [N, H, W, 3].
        colour: "green", "yellow", "black" or "white".

    Returns:
        uint8 [N, H, W, 3].
    """
    part = np.isin(pixel_colours(images), [COLOURS.index(name) for name in ("red", "pink", "blue")]).astype(np.float32)
    around = np.pad(part, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = part.shape[1:]
    near = np.mean([around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    part = np.maximum(part, np.clip(2 * near - 0.3, 0, 1))[..., None]  # fills holes, softens the edge
    rgb = images.astype(np.float32) / 255
    value, low = rgb.max(-1), rgb.min(-1)
    saturation = (value - low) / np.maximum(value, 1e-6)
    if colour in ("black", "white"):
        shade = 0.04 + 0.22 * value**1.5 if colour == "black" else 1 - 0.45 * (1 - value) ** 1.3
        painted = np.repeat(shade[..., None], 3, -1)
    else:
        bright = np.clip(value * 1.25, 0, 1) if colour == "yellow" else value
        rest = bright * (1 - saturation)
        tint = {"green": (rest, bright * 0.9, rest + 0.25 * (bright - rest)), "yellow": (bright, bright * 0.86, rest)}
        painted = np.stack(tint[colour], -1)
    mixed = part * painted + (1 - part) * rgb
    return (mixed * 255).round().astype(np.uint8)
