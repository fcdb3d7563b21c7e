"""`make embedded`, the diffusion model: UNet and text encoder trained together, resumable to the step.

Everything is counted in steps, nothing in time: the learning rate depends on the step and on the planned number of
steps alone, so a run may be paused, stopped and continued, and shortened or lengthened with another number of steps.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from train_embedded_captions import MAX_TOKENS, Captions
from train_embedded_data import (
    CHANNELS,
    Pictures,
    Projection,
    jittered_digits,
    save_checkpoint,
    slants_and_strokes,
    to_float,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BASE_RATE, WARM_UP, CONSTANT = 1e-3, 200, 0.6
EMA_DECAY = 0.9995
SNR_LIMIT = 5.0
DIGIT_WEIGHT = 3.0  # most of a digit is black background and soon right; what is left counts for more


def build_models(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """The text encoder (width 128, one layer) and the UNet (4.85M parameters, on 8x8 latents)."""
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 144),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=3,  # diffusers takes it for the number of heads
        norm_num_groups=16,
    )
    return text_encoder, unet


class Batches:
    """Training batches: latents, tokens, time steps and noise.

    Args:
        photos: the photographs.
        projection: pixels to latents.
        tokenizer: the tokenizer.
        batch: pictures a batch.
        digit_share: how many of them are digits.
        seed: seeds every choice; together with `state` it makes a run continue as if it had never stopped.
    """

    def __init__(
        self,
        photos: Pictures,
        projection: Projection,
        tokenizer: CLIPTokenizer,
        *,
        batch: int,
        digit_share: float = 0.16,
        painted_share: float = 0.04,
        seed: int,
    ):
        self.batch, self.tokenizer, self.labels, self.looks = batch, tokenizer, photos.labels.tolist(), photos.looks
        self.real = len(self.labels) - photos.painted
        self.digit_count, self.painted_count = round(batch * digit_share), round(batch * painted_share)
        self.captions = Captions(seed, photos.looks[: self.real], self.labels[: self.real])
        self.generator = torch.Generator().manual_seed(seed)
        parts = torch.from_numpy(photos.images).split(1000)
        latents = torch.cat([projection(to_float(part.numpy())) for part in parts])
        flipped = torch.cat([projection(to_float(part.numpy()).flip(3)) for part in parts])
        self.latents = torch.stack([latents, flipped]).bfloat16()
        digits, digit_labels = jittered_digits(seed)
        self.attributes = slants_and_strokes(digits[0], digit_labels)
        self.digit_labels = digit_labels.tolist()
        self.digits = torch.stack([projection(copy.expand(-1, 3, -1, -1)) for copy in digits]).bfloat16()
        self.tokens: dict[str, list[int]] = {}
        betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, 1000) ** 2
        self.kept = (1 - betas).cumprod(0)

    def _pick(self, count: int, below: int, start: int = 0) -> torch.Tensor:
        return torch.randint(start, below, (count,), generator=self.generator)

    def _encode(self, texts: list[str]) -> torch.Tensor:
        for text in texts:
            if text not in self.tokens:
                if len(self.tokens) > 50000:
                    self.tokens.clear()
                encoded = self.tokenizer(text, padding="max_length", truncation=True, max_length=MAX_TOKENS)
                self.tokens[text] = encoded.input_ids
        return torch.tensor([self.tokens[text] for text in texts])

    def next(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noisy latents, time steps, tokens, the velocity to be predicted, and the weight of each picture."""
        plain = self.batch - self.digit_count - self.painted_count
        rows = torch.cat([self._pick(plain, self.real), self._pick(self.painted_count, len(self.labels), self.real)])
        flips = self._pick(len(rows), 2)
        digits, copies = self._pick(self.digit_count, len(self.digit_labels)), self._pick(self.digit_count, 10)
        clean = torch.cat([self.latents[flips, rows], self.digits[copies, digits]]).float()
        texts = [self.captions.photo(self.labels[i], self.looks[i], i >= self.real) for i in rows.tolist()]
        texts += [self.captions.digit(self.digit_labels[i], self.attributes[i]) for i in digits.tolist()]
        texts = ["" if self.captions.random.random() < 0.1 else text for text in texts]
        # Stratified: one time step out of each of `batch` equal parts.
        spread = (
            torch.randperm(self.batch, generator=self.generator) + torch.rand(self.batch, generator=self.generator)
        ) / self.batch
        times = (spread * 1000).long().clamp(max=999)
        noise = torch.randn(clean.shape, generator=self.generator)
        kept = self.kept[times].view(-1, 1, 1, 1)
        noisy, velocity = (
            kept.sqrt() * clean + (1 - kept).sqrt() * noise,
            kept.sqrt() * noise - (1 - kept).sqrt() * clean,
        )
        ratio = (kept / (1 - kept)).flatten()
        weight = ratio.clamp(max=SNR_LIMIT) / (ratio + 1)
        weight[len(rows) :] *= DIGIT_WEIGHT
        return noisy, times, self._encode(texts), velocity, weight

    def state(self) -> dict:
        """What a later run needs to go on with the very next batch."""
        return {"generator": self.generator.get_state(), "random": self.captions.random.getstate()}

    def restore(self, state: dict) -> None:
        """Go on where `state` was taken."""
        self.generator.set_state(state["generator"])
        version, numbers, gauss = state["random"]
        self.captions.random.setstate((version, tuple(numbers), gauss))


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, constant up to 60% of the steps, then linear down to a hundredth."""
    if step < WARM_UP:
        return BASE_RATE * (step + 1) / WARM_UP
    left = (steps - step) / max(1, steps * (1 - CONSTANT))
    return BASE_RATE * min(1.0, max(0.01, left))


@dataclass(kw_only=True)
class Weights:
    """float32 weights, the bfloat16 modules that compute with them, and their moving average."""

    modules: tuple[CLIPTextModel, UNet2DConditionModel]
    master: list[torch.Tensor]
    average: list[torch.Tensor]
    optimizer: torch.optim.AdamW

    @classmethod
    def of(cls, *modules: torch.nn.Module) -> "Weights":
        """From fresh modules, which become bfloat16."""
        master = [p.detach().clone().float() for module in modules for p in module.parameters()]
        average = [p.clone() for p in master]
        for module in modules:
            module.bfloat16()
        optimizer = torch.optim.AdamW(master, lr=BASE_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        return cls(modules=modules, master=master, average=average, optimizer=optimizer)  # type: ignore[arg-type]

    def shown(self) -> list[torch.Tensor]:
        """The bfloat16 parameters."""
        return [p for module in self.modules for p in module.parameters()]

    def update(self, step: int, rate: float) -> None:
        """One step of the optimizer with the gradients of the bfloat16 parameters."""
        shown = self.shown()
        for ours, theirs in zip(self.master, shown, strict=True):
            # In the layout of `ours`: the fused optimizer walks both in the order of their memory.
            ours.grad = theirs.grad.to(torch.float32, memory_format=torch.contiguous_format)
            theirs.grad = None
        torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.master, 1 - decay)
            torch._foreach_copy_(shown, self.master)

    def state(self) -> dict:
        """For a checkpoint."""
        return {"master": self.master, "average": self.average, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict) -> None:
        """From a checkpoint."""
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            torch._foreach_copy_(self.master, state["master"])
            torch._foreach_copy_(self.average, state["average"])
            torch._foreach_copy_(self.shown(), self.master)


def train_diffusion(
    batches: Batches, weights: Weights, folder: Path, *, steps: int, save_every: int = 250, compiled: bool = True
) -> None:
    """Train up to `steps` steps in all, from the checkpoint in `folder` where there is one.

    Args:
        batches: the training batches.
        weights: fresh weights.
        folder: holds `diffusion.pt`, written every `save_every` steps and at the end.
        steps: planned number of steps in all; another number at a later start bends the learning rate accordingly.
        save_every: steps between two checkpoints.
        compiled: whether `torch.compile` fuses the UNet (the same mathematics, about a tenth faster).
    """
    path, start = folder / "diffusion.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        weights.restore(saved["weights"])
        batches.restore(saved["batches"])
        start = saved["step"]
    text_encoder, unet = weights.modules
    unet.to(memory_format=torch.channels_last).set_attn_processor(AttnProcessor())  # faster than SDPA for 16 positions
    predict = torch.compile(unet) if compiled else unet
    started, losses, total = time.monotonic(), [], 0.0
    for step in range(start, steps):
        noisy, times, tokens, velocity, weight = batches.next()
        words = text_encoder(tokens).last_hidden_state
        shown = noisy.bfloat16().contiguous(memory_format=torch.channels_last)
        predicted = predict(shown, times, words, return_dict=False)[0].float()
        error = F.mse_loss(predicted, velocity, reduction="none").mean((1, 2, 3))
        (error * weight).mean().backward()
        weights.update(step, learning_rate(step, steps))
        losses.append(error.mean().item())
        done = step + 1
        if done % 50 == 0 or done == steps:
            rate = (done - start) / (time.monotonic() - started)
            total, losses = sum(losses) / len(losses), []
            print(
                f"{time.strftime('%H:%M:%S')} step {done}/{steps}, {done * batches.batch:,} pictures, "
                f"loss {total:.4f}, {rate * batches.batch:.0f}/s, {(steps - done) / rate / 60:.0f} min left",
                flush=True,
            )
        if done % save_every == 0 or done == steps:
            save_checkpoint(path, {"step": done, "weights": weights.state(), "batches": batches.state()})


def averaged_models(folder: Path, tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, UNet2DConditionModel, int]:
    """float32 text encoder and UNet with the averaged weights of the checkpoint, and its step."""
    saved = torch.load(folder / "diffusion.pt", weights_only=True)
    text_encoder, unet = build_models(tokenizer)
    with torch.no_grad():
        torch._foreach_copy_([*text_encoder.parameters(), *unet.parameters()], saved["weights"]["average"])
    text_encoder.set_attn_implementation("sdpa")
    return text_encoder.eval(), unet.eval(), saved["step"]
