"""First half of `make embedded`: train the autoencoder of the embedded generator on 4,000 real digits.

Writes a diffusers `AutoencoderKL` folder (32x32 RGB -> 4x8x8 latents). About 15 minutes on 2 CPU cores.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from imagenet_sd.data.builtin import mnist_digits


def digits_32(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The digits as float32 [N, 1, 32, 32] in [-1, 1] (2 pixels of padding a side) and their labels int64 [N]."""
    images, labels = mnist_digits(split)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return torch.from_numpy(padded).float().div(127.5).sub(1)[:, None], torch.from_numpy(labels)


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A small random turn, zoom and shift of each image: a little more variety than 4,000 scans have."""
    n = len(images)
    angle = (torch.rand(n, generator=generator) - 0.5) * (16 * math.pi / 180)
    zoom = 1 + (torch.rand(n, generator=generator) - 0.5) * 0.12
    shift = (torch.rand(n, 2, generator=generator) - 0.5) * 0.12
    theta = torch.stack(
        [
            torch.stack([angle.cos() / zoom, -angle.sin() / zoom, shift[:, 0]], 1),
            torch.stack([angle.sin() / zoom, angle.cos() / zoom, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, mode="bilinear", align_corners=False) - 1


def learning_rate(step: int, steps: int, base: float, warmup: int = 50) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < warmup:
        return base * (step + 1) / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_vae(steps: int, batch: int, seed: int) -> AutoencoderKL:
    """Train the autoencoder: L1 + L2 reconstruction, a light KL term, and set its `scaling_factor` to 1/std."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, _ = digits_32("train")
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )
    print(f"autoencoder: {sum(p.numel() for p in vae.parameters()) / 1e6:.2f}M parameters", flush=True)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=1e-4)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 1e-3)
        rows = torch.randint(len(images), (batch,), generator=generator)
        clean = jitter(images[rows], generator).expand(-1, 3, -1, -1)
        posterior = vae.encode(clean).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        restored = vae.decode(posterior.mean + posterior.std * noise).sample
        loss = F.l1_loss(restored, clean) + F.mse_loss(restored, clean) + 1e-4 * posterior.kl().mean() / 256
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            rate = (time.monotonic() - started) / (step + 1)
            print(f"vae {step}/{steps} loss {loss.item():.4f} eta {rate * (steps - step):.0f}s", flush=True)
    with torch.no_grad():
        latents = torch.cat([vae.encode(x.expand(-1, 3, -1, -1)).latent_dist.mean for x in images.split(200)])
        vae.register_to_config(scaling_factor=float(1 / latents.std()))
        test, _ = digits_32("test")
        test = test.expand(-1, 3, -1, -1)
        restored = torch.cat([vae.decode(vae.encode(x).latent_dist.mean).sample for x in test.split(200)])
        print(f"held-out reconstruction: mean absolute error {F.l1_loss(restored, test).item() / 2:.4f} of the range")
    return vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    train_vae(args.steps, args.batch, args.seed).save_pretrained(args.out)


if __name__ == "__main__":
    main()
