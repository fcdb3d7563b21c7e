"""`make embedded`, the diffusion model: UNet and text encoder trained together, resumable to the step.

Everything is counted in steps, nothing in time: the learning rate depends on the step and on the planned number of
steps alone, so a run may be paused, stopped and continued, and shortened or lengthened with another number of steps.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.data import DataLoader, Dataset
from train_embedded_captions import MAX_TOKENS, Captions
from train_embedded_data import (
    CHANNELS,
    JITTERED_COPIES,
    Pictures,
    Projection,
    jittered_digits,
    save_checkpoint,
    slants_and_strokes,
    to_float,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from imagenet_sd.core.seeds import stable_hash

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What one training batch is made of: photographs first, then digits.

    Attributes:
        rows: int64 [P], rows of the photographs.
        flips: int64 [P], 1 where the photograph is mirrored.
        digits: int64 [B - P], rows of the digits.
        copies: int64 [B - P], which jittered copy of the digit.
        tokens: int64 [B, 77].
        times: int64 [B], time steps.
    """

    rows: torch.Tensor
    flips: torch.Tensor
    digits: torch.Tensor
    copies: torch.Tensor
    tokens: torch.Tensor
    times: torch.Tensor


class Choices(Dataset):
    """What each training batch is made of, a function of the seed and the step alone.

    So a run that was stopped goes on as if it had not been, and any number of processes may prepare batches.

    Args:
        photos: the photographs.
        tokenizer: the tokenizer.
        batch: pictures a batch.
        digit_share: how many of them are digits.
        painted_share: how many of them are recoloured copies.
        seed: seeds every choice.
    """

    def __init__(
        self,
        photos: Pictures,
        tokenizer: CLIPTokenizer,
        *,
        batch: int,
        digit_share: float = 0.16,
        painted_share: float = 0.04,
        seed: int,
    ):
        self.batch, self.seed, self.tokenizer = batch, seed, tokenizer
        self.labels, self.looks = photos.labels.tolist(), photos.looks
        self.real = len(self.labels) - photos.painted
        self.digit_count, self.painted_count = round(batch * digit_share), round(batch * painted_share)
        self.captions = Captions(seed, photos.looks[: self.real], self.labels[: self.real])
        digits, digit_labels = jittered_digits(seed)
        self.attributes, self.digit_labels = slants_and_strokes(digits[0], digit_labels), digit_labels.tolist()
        self.tokens: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, step: int) -> Choice:
        generator = torch.Generator().manual_seed(stable_hash("batch", self.seed, step))
        self.captions.random.seed(f"{self.seed}:{step}")

        def pick(count: int, below: int, start: int = 0) -> torch.Tensor:
            return torch.randint(start, below, (count,), generator=generator)

        plain = self.batch - self.digit_count - self.painted_count
        rows = torch.cat([pick(plain, self.real), pick(self.painted_count, len(self.labels), self.real)])
        flips = pick(len(rows), 2)
        digits, copies = pick(self.digit_count, len(self.digit_labels)), pick(self.digit_count, JITTERED_COPIES)
        texts = [self.captions.photo(self.labels[i], self.looks[i], i >= self.real) for i in rows.tolist()]
        texts += [self.captions.digit(self.digit_labels[i], self.attributes[i]) for i in digits.tolist()]
        texts = ["" if self.captions.random.random() < 0.1 else text for text in texts]
        # Stratified: one time step out of each of `batch` equal parts.
        parts = torch.randperm(self.batch, generator=generator) + torch.rand(self.batch, generator=generator)
        times = (parts / self.batch * 1000).long().clamp(max=999)
        return Choice(rows=rows, flips=flips, digits=digits, copies=copies, tokens=self._encode(texts), times=times)

    def _encode(self, texts: list[str]) -> torch.Tensor:
        for text in texts:
            if text not in self.tokens:
                if len(self.tokens) > 50000:
                    self.tokens.clear()
                encoded = self.tokenizer(text, padding="max_length", truncation=True, max_length=MAX_TOKENS)
                self.tokens[text] = encoded.input_ids
        return torch.tensor([self.tokens[text] for text in texts])


class Batches:
    """Training batches: latents, tokens, time steps and noise, on a device.

    Args:
        photos: the photographs.
        projection: pixels to latents.
        choices: what each batch is made of.
        device: where the latents lie.
    """

    def __init__(self, photos: Pictures, projection: Projection, choices: Choices, device: torch.device):
        self.choices, self.device = choices, device
        parts = torch.from_numpy(photos.images).split(1000)
        latents = torch.cat([projection(to_float(part.numpy())) for part in parts])
        flipped = torch.cat([projection(to_float(part.numpy()).flip(3)) for part in parts])
        self.latents = torch.stack([latents, flipped]).bfloat16().to(device)
        digits, _ = jittered_digits(choices.seed)
        copies = [projection(copy.expand(-1, 3, -1, -1)) for copy in digits]
        self.digits = torch.stack(copies).bfloat16().to(device)
        betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, 1000) ** 2
        self.kept = (1 - betas).cumprod(0).to(device)

    def steps(self, start: int, end: int, workers: int) -> Iterator["Batch"]:
        """The batches of the steps from `start` up to `end`, prepared by `workers` processes (0: in this one)."""
        ahead = {"num_workers": workers, "prefetch_factor": 8} if workers else {}
        chosen = DataLoader(self.choices, batch_size=None, sampler=range(start, end), collate_fn=_as_it_is, **ahead)
        for step, choice in zip(range(start, end), chosen, strict=True):
            yield self.batch(step, choice)

    def batch(self, step: int, choice: Choice) -> "Batch":
        """Add noise to what was chosen for a step."""
        moved = {field.name: getattr(choice, field.name).to(self.device) for field in fields(choice)}
        generator = torch.Generator(self.device).manual_seed(stable_hash("noise", self.choices.seed, step))
        photos = self.latents[moved["flips"], moved["rows"]]
        clean = torch.cat([photos, self.digits[moved["copies"], moved["digits"]]]).float()
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        kept = self.kept[moved["times"]].view(-1, 1, 1, 1)
        ratio = (kept / (1 - kept)).flatten()
        weight = ratio.clamp(max=SNR_LIMIT) / (ratio + 1)
        weight[len(photos) :] *= DIGIT_WEIGHT
        return Batch(
            noisy=kept.sqrt() * clean + (1 - kept).sqrt() * noise,
            velocity=kept.sqrt() * noise - (1 - kept).sqrt() * clean,
            times=moved["times"],
            tokens=moved["tokens"],
            weight=weight,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One training batch.

    Attributes:
        noisy: latents with noise, float32 [B, CHANNELS, 8, 8].
        velocity: what the UNet shall predict, of the same shape.
        times: int64 [B].
        tokens: int64 [B, 77].
        weight: float32 [B], what each picture's error counts.
    """

    noisy: torch.Tensor
    velocity: torch.Tensor
    times: torch.Tensor
    tokens: torch.Tensor
    weight: torch.Tensor


def _as_it_is(choice: Choice) -> Choice:
    return choice


def learning_rate(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, constant up to 60% of the steps, then linear down to a hundredth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    left = (steps - step) / max(1, steps * (1 - CONSTANT))
    return min(1.0, max(0.01, left))


@dataclass(kw_only=True)
class Weights:
    """float32 weights, the bfloat16 modules that compute with them, and their moving average."""

    modules: tuple[CLIPTextModel, UNet2DConditionModel]
    master: list[torch.Tensor]
    average: list[torch.Tensor]
    optimizer: torch.optim.AdamW

    @classmethod
    def of(cls, *modules: torch.nn.Module) -> "Weights":
        """From fresh modules on their device, which become bfloat16."""
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
    batches: Batches,
    weights: Weights,
    folder: Path,
    *,
    steps: int,
    rate: float = BASE_RATE,
    save_every: int = 250,
    compiled: bool = True,
    workers: int = 0,
) -> None:
    """Train up to `steps` steps in all, from the checkpoint in `folder` where there is one.

    Args:
        batches: the training batches.
        weights: fresh weights.
        folder: holds `diffusion.pt`, written every `save_every` steps and at the end.
        steps: planned number of steps in all; another number at a later start bends the learning rate accordingly.
        rate: the learning rate between its way up and its way down.
        save_every: steps between two checkpoints.
        compiled: whether `torch.compile` fuses the UNet (the same mathematics, about a tenth faster).
        workers: processes that prepare batches.
    """
    path, start = folder / "diffusion.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        weights.restore(saved["weights"])
        start = saved["step"]
    text_encoder, unet = weights.modules
    unet.to(memory_format=torch.channels_last).set_attn_processor(AttnProcessor())  # faster than SDPA for 16 positions
    predict = torch.compile(unet) if compiled else unet
    log = Log(start, steps, batches.choices.batch)
    for done, batch in enumerate(batches.steps(start, steps, workers), start + 1):
        words = text_encoder(batch.tokens).last_hidden_state
        shown = batch.noisy.bfloat16().contiguous(memory_format=torch.channels_last)
        predicted = predict(shown, batch.times, words, return_dict=False)[0].float()
        error = F.mse_loss(predicted, batch.velocity, reduction="none").mean((1, 2, 3))
        (error * batch.weight).mean().backward()
        weights.update(done - 1, rate * learning_rate(done - 1, steps))
        log.add(done, error.detach().mean())
        if done % save_every == 0 or done == steps:
            save_checkpoint(path, {"step": done, "weights": weights.state()})


class Log:
    """Prints the mean loss of every fifty steps."""

    def __init__(self, start: int, steps: int, batch: int):
        self.start, self.steps, self.batch = start, steps, batch
        self.started, self.losses = time.monotonic(), []

    def add(self, done: int, loss: torch.Tensor) -> None:
        """Add the loss of one step; `done` is the number of steps done."""
        self.losses.append(loss)
        if done % 50 and done != self.steps:
            return
        mean, self.losses = torch.stack(self.losses).mean().item(), []
        rate = (done - self.start) / (time.monotonic() - self.started)
        print(
            f"{time.strftime('%H:%M:%S')} step {done}/{self.steps}, {done * self.batch:,} pictures, "
            f"loss {mean:.4f}, {rate * self.batch:.0f}/s, {(self.steps - done) / rate / 60:.1f} min left",
            flush=True,
        )


def averaged_models(folder: Path, tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, UNet2DConditionModel, int]:
    """float32 text encoder and UNet with the averaged weights of the checkpoint, and its step."""
    saved = torch.load(folder / "diffusion.pt", weights_only=True, map_location="cpu")
    text_encoder, unet = build_models(tokenizer)
    with torch.no_grad():
        torch._foreach_copy_([*text_encoder.parameters(), *unet.parameters()], saved["weights"]["average"])
    text_encoder.set_attn_implementation("sdpa")
    return text_encoder.eval(), unet.eval(), saved["step"]
