"""`make embedded`, the autoencoder: 32x32 RGB pictures to 12x8x8 latents and back.

The latents are fixed before: they are the projection of `train_embedded_data.py`. So the decoder learns to invert it,
with a little noise on the latents, and the encoder learns to imitate it; nothing that the diffusion model learns moves.
"""

import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn
from train_embedded_data import CHANNELS, Pictures, Projection, jittered_digits, save_checkpoint, to_float

LATENT_NOISE = 0.06
LOG_VARIANCE = -6.0  # what the encoder says of every latent: a standard deviation of 0.05
ENCODER_EVERY = 3  # steps; imitating a linear projection is the easier half
BASE_RATE, WARM_UP, CONSTANT = 2e-3, 100, 0.6


def build_vae() -> AutoencoderKL:
    """An autoencoder with factor 4 whose encoder knows its variance."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
    )
    assert vae.quant_conv is not None and vae.quant_conv.bias is not None
    with torch.no_grad():
        vae.quant_conv.weight[CHANNELS:] = 0
        vae.quant_conv.bias[CHANNELS:] = LOG_VARIANCE
    return vae


class Critic(nn.Module):
    """A small classifier of photographs; the distance between its features is the perceptual part of the loss."""

    def __init__(self):
        super().__init__()
        widths = (3, 32, 64, 128)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1, stride=1 if a == 3 else 2),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.Conv2d(b, b, 3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            )
            for a, b in pairwise(widths)
        )
        self.head = nn.Linear(128, 10)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of the three stages."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores [N, 10]."""
        return self.head(self.features(images)[-1].mean((2, 3)))


def train_critic(photos: Pictures, seed: int, device: torch.device, epochs: int = 4, batch: int = 128) -> Critic:
    """Train the critic on the photographs for a few epochs."""
    torch.manual_seed(seed)
    critic = Critic().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * len(photos.labels) // batch
    optimizer = torch.optim.AdamW(critic.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    labels, right = torch.from_numpy(photos.labels).to(device), torch.zeros((), device=device)
    for step in range(steps):
        rows = torch.randint(len(labels), (batch,))
        images = to_float(photos.images[rows.numpy()]).to(device)
        if step % 2:
            images = images.flip(3)
        with torch.autocast(device.type, torch.bfloat16):
            scores = critic(images.contiguous(memory_format=torch.channels_last))
        wanted = labels[rows.to(device)]
        loss = F.cross_entropy(scores.float(), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = 0.98 * right + 0.02 * (scores.argmax(1) == wanted).float().mean()
        if step % 200 == 0 or step == steps - 1:
            print(
                f"{time.strftime('%H:%M:%S')} critic {step}/{steps}, {right.item():.1%} of its batches right",
                flush=True,
            )
    return critic.eval().requires_grad_(False)


def perceptual(critic: Critic, restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean distance of feature maps whose channels are normalised to length one."""
    with torch.no_grad():
        wanted = critic.features(clean)
    pairs = zip(critic.features(restored), wanted, strict=True)
    gaps = [(F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean() for a, b in pairs]
    return torch.stack(gaps).sum()


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, constant up to 60% of the steps, then linear down to a hundredth."""
    if step < WARM_UP:
        return BASE_RATE * (step + 1) / WARM_UP
    return BASE_RATE * min(1.0, max(0.01, (steps - step) / (steps * (1 - CONSTANT))))


def load_critic(photos: Pictures, folder: Path, seed: int, device: torch.device) -> Critic:
    """The critic of the work folder, trained where there is none."""
    path = folder / "critic.pt"
    if not path.exists():
        torch.save(train_critic(photos, seed, device).state_dict(), path)
    critic = Critic().eval().requires_grad_(False)
    critic.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return critic.to(device)


def train_vae(
    photos: Pictures,
    projection: Projection,
    folder: Path,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    batch: int = 64,
) -> None:
    """Train up to `steps` steps in all, from the checkpoint in `folder` where there is one; write `folder/vae`."""
    critic, path = load_critic(photos, folder, seed, device), folder / "vae.pt"
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vae = build_vae().to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=BASE_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    start = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        vae.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        start = saved["step"]
    digits = jittered_digits(seed)[0].flatten(0, 1)
    log = Log(start, steps, batch)
    for step in range(start, steps):
        images = _pictures(photos, digits, batch, generator, flip=step % 2 == 1)
        latents = projection(images)
        noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        tensors = (images.to(device), latents.to(device), noisy.to(device))
        losses = _losses(vae, critic, *tensors, with_encoder=step % ENCODER_EVERY == 0)
        loss = losses[0] + 2 * losses[1] + 0.15 * losses[2] + losses[3]
        optimizer.zero_grad()
        loss.backward()
        _keep_variance(vae)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps)
        optimizer.step()
        done = step + 1
        log.add(done, losses)
        if done % 500 == 0 or done == steps:
            content = {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            save_checkpoint(path, content | {"generator": generator.get_state()})
            vae.save_pretrained(folder / "vae")


class Log:
    """Prints the mean losses of every hundred steps."""

    def __init__(self, start: int, steps: int, batch: int):
        self.start, self.steps, self.batch = start, steps, batch
        self.started, self.losses = time.monotonic(), []

    def add(self, done: int, losses: list[torch.Tensor]) -> None:
        """Add the losses of one step; `done` is the number of steps done."""
        self.losses.append(torch.stack(losses).detach())
        if done % 100 and done != self.steps:
            return
        rate, mean = (done - self.start) / (time.monotonic() - self.started), torch.stack(self.losses).mean(0)
        self.losses = []
        print(
            f"{time.strftime('%H:%M:%S')} vae {done}/{self.steps}, L1 {mean[0]:.4f}, "
            f"{10 * torch.log10(4 / mean[1]):.2f} dB, perceptual {mean[2]:.4f}, "
            f"encoder {(ENCODER_EVERY * mean[3]).sqrt():.3f}, {rate * self.batch:.0f} pictures/s, "
            f"{(self.steps - done) / rate / 60:.0f} min left",
            flush=True,
        )


def _pictures(
    photos: Pictures, digits: torch.Tensor, batch: int, generator: torch.Generator, flip: bool
) -> torch.Tensor:
    """A batch of float images [batch, 3, 32, 32], an eighth of them digits."""
    rows = torch.randint(len(photos.labels), (batch - batch // 8,), generator=generator)
    images = to_float(photos.images[rows.numpy()])
    some = digits[torch.randint(len(digits), (batch // 8,), generator=generator)].expand(-1, 3, -1, -1)
    return torch.cat([images.flip(3) if flip else images, some])


def _keep_variance(vae: AutoencoderKL) -> None:
    """Let no gradient change what the encoder says of its variance."""
    assert vae.quant_conv is not None and vae.quant_conv.bias is not None
    for parameter in (vae.quant_conv.weight, vae.quant_conv.bias):
        if parameter.grad is not None:
            parameter.grad[CHANNELS:] = 0


def _losses(
    vae: AutoencoderKL,
    critic: Critic,
    images: torch.Tensor,
    latents: torch.Tensor,
    noisy: torch.Tensor,
    with_encoder: bool,
) -> list[torch.Tensor]:
    """L1, squared error and perceptual distance of decoded noisy latents, and the encoder's squared error or zero.

    The perceptual distance is measured on every other picture: it costs as much as the decoder.
    """
    with torch.autocast(images.device.type, torch.bfloat16):
        restored = vae.decode(noisy).sample
        imitated = vae.encode(images).latent_dist.mean if with_encoder else latents
        distance = perceptual(critic, restored[::2], images[::2])
    restored = restored.float()
    return [
        F.l1_loss(restored, images),
        F.mse_loss(restored, images),
        distance,
        F.mse_loss(imitated.float(), latents),
    ]
