"""A small CNN that has seen real CIFAR-10 photographs only, as a judge of generated ones, and measures of variety."""

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.core.files import atomic_write, cache_dir
from imagenet_sd.core.machine import fast_bfloat16
from imagenet_sd.data.photos import cifar10

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Judge(nn.Module):
    """A residual network of 0.7M parameters; `features` are its 192 pooled activations."""

    def __init__(self):
        super().__init__()
        self.stem = _block(3, 32)
        self.one, self.one_more = _block(32, 64, stride=2), _block(64, 64)
        self.two, self.two_more = _block(64, 128, stride=2), _block(128, 128)
        self.three = _block(128, 192, stride=2)
        self.head = nn.Linear(192, 10)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled activations, float [N, 192], of images [N, 3, 32, 32] in [-1, 1]."""
        x = self.one(self.stem(images))
        x = x + self.one_more(x)
        x = self.two(x)
        x = x + self.two_more(x)
        return self.three(x).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores [N, 10]."""
        return self.head(self.features(images))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def to_float(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 32, 32, 3] as float32 [N, 3, 32, 32] in [-1, 1], channels last, on `DEVICE`."""
    return torch.tensor(images).to(DEVICE).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A common flip, and each image shifted by up to 3 pixels, mirrored at the edges."""
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(3)
    padded = F.pad(images, (3, 3, 3, 3), mode="reflect")
    dy, dx = torch.randint(0, 7, (2, 8), generator=generator).tolist()
    parts = padded.chunk(8)
    return torch.cat([part[:, :, y : y + 32, x : x + 32] for part, y, x in zip(parts, dy, dx, strict=False)])


def train_judge(epochs: int = 8, batch: int = 128, seed: int = 7) -> Judge:
    """Train on the 50,000 training photographs."""
    images, labels = cifar10("train")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    judge = Judge().to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * (len(labels) // batch)
    optimizer = torch.optim.SGD(judge.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps, pct_start=0.25)
    wanted, started, step = torch.tensor(labels).to(DEVICE), time.monotonic(), 0
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for rows in order[: len(labels) // batch * batch].split(batch):
            shown = _augmented(to_float(images[rows.numpy()]), generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=fast_bfloat16(DEVICE)):
                scores = judge(shown)
            loss = F.cross_entropy(scores.float(), wanted[rows.to(DEVICE)], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % 200 == 0:
                left = (time.monotonic() - started) / step * (steps - step) / 60
                print(f"judge: step {step}/{steps}, loss {loss.item():.3f}, {left:.0f} min left", flush=True)
    return judge.eval()


def load_judge() -> Judge:
    """The judge, trained at the first call and then kept in the cache folder."""
    path = cache_dir() / "judge" / "cifar10.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        trained = train_judge()
        atomic_write(path, lambda temporary: torch.save(trained.state_dict(), temporary))
    judge = Judge()
    judge.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return judge.to(DEVICE).eval()


@torch.inference_mode()
def judged(judge: Judge, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes int64 [N] and features float32 [N, 192] of uint8 images [N, 32, 32, 3]."""
    features = torch.cat([judge.features(to_float(images[i : i + 250])) for i in range(0, len(images), 250)])
    return judge.head(features).argmax(1).cpu().numpy(), features.cpu().numpy()


def spread(features: np.ndarray, labels: np.ndarray) -> float:
    """Root mean squared distance of features [N, D] from the mean of their class."""
    gaps = [((features[labels == c] - features[labels == c].mean(0)) ** 2).sum(1) for c in np.unique(labels)]
    return float(np.sqrt(np.concatenate(gaps).mean()))


def coverage_and_recall(real: np.ndarray, generated: np.ndarray, k: int = 5) -> tuple[float, float]:
    """How much of the real variety is met.

    Args:
        real: features [N, D] of real images.
        generated: features [M, D] of generated ones.
        k: neighbours.

    Returns:
        Coverage (Naeem et al., 2020): the share of real images with a generated one nearer than their k-th real
        neighbour; recall (Kynkäänniemi et al., 2019): the share of real images that are nearer to some generated one
        than that one's k-th generated neighbour.
    """
    across = _distances(real, generated)
    within_real = np.partition(_distances(real, real), k, axis=1)[:, k]
    within_generated = np.partition(_distances(generated, generated), k, axis=1)[:, k]
    covered = across.min(1) < within_real
    recalled = (across < within_generated).any(1)
    return float(covered.mean()), float(recalled.mean())


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def nearest_rows(images: np.ndarray, among: np.ndarray, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """For each image the row and the distance of its nearest neighbour, in pixels of half-size pictures, flips too.

    Args:
        images: uint8 [N, 32, 32, 3].
        among: uint8 [M, 32, 32, 3].
        side: what the pictures are reduced to.

    Returns:
        int64 [N] and float32 [N], root mean squared differences in [0, 255].
    """
    reduced = [F.adaptive_avg_pool2d(to_float(x), side).flatten(1).cpu().numpy() * 127.5 for x in (images, among)]
    flipped = F.adaptive_avg_pool2d(to_float(images).flip(3), side).flatten(1).cpu().numpy() * 127.5
    gaps = np.minimum(_distances(reduced[0], reduced[1]), _distances(flipped, reduced[1]))
    return gaps.argmin(1), gaps.min(1) / np.sqrt(gaps.dtype.type(3 * side * side))


def save_grid(rows: list[np.ndarray], path: Path, zoom: int = 3, gap: int = 2) -> None:
    """Write rows of uint8 images [N, 32, 32, 3] as one PNG, enlarged without smoothing."""
    from PIL import Image

    side = 32 * zoom
    width = max(len(row) for row in rows) * (side + gap) - gap
    sheet = Image.new("RGB", (width, len(rows) * (side + gap) - gap), "white")
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (x * (side + gap), y * (side + gap)))
    sheet.save(path, optimize=True)
