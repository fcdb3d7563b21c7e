"""The training loop: one step after the other, exactly resumable, on one process or many."""

import copy
import math
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather, reduce, set_seed
from torch import nn

from imagenet_sd.core.progress import Progress
from imagenet_sd.data.images import ImageSet
from imagenet_sd.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from imagenet_sd.training.config import TrainConfig, TrainingError
from imagenet_sd.training.data import Batch, TrainStream, allowed_bad_images
from imagenet_sd.training.model import OnlineClassMeans, Trainee, multi_crop_loss
from imagenet_sd.training.optim import ema_update, learning_rate, make_optimizer
from imagenet_sd.training.photometric import apply_photometric, normalize, to_float
from imagenet_sd.training.runlog import RunLog
from imagenet_sd.training.validate import Validator

INTERRUPTED = 143  # 128 + SIGTERM


class Trainer:
    """Trains an encoder.

    Args:
        config: the recipe.
        images: training data.
        run: folder of the run; holds the checkpoint and the results.
        validation: real images to validate on; None for none.
        workers: data workers per process.
        sequential: see `EpochOrder`; for data that is still being generated.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: ImageSet,
        run: Path,
        validation: ImageSet | None = None,
        workers: int = 0,
        sequential: bool = False,
    ):
        self.config, self.images, self.run, self.workers = config, images, run, workers
        self.accelerator = Accelerator(mixed_precision=_precision(config))
        self.device = self.accelerator.device
        set_seed(config.seed)
        world = self.accelerator.num_processes
        self.stream = TrainStream(images, config, self.accelerator.process_index, world, sequential)
        self.model = Trainee(config, len(images.classes))
        if config.sync_batchnorm and world > 1 and self.device.type == "cuda":
            for name, part in list(self.model.named_children()):
                setattr(self.model, name, nn.SyncBatchNorm.convert_sync_batchnorm(part))
        self.model.to(self.device)
        self.ocm = OnlineClassMeans(self.model, config, len(images.classes)) if config.objective.loss == "ocm" else None
        self.averaged = copy.deepcopy(self.model).requires_grad_(False) if config.ema_weights else None
        for side in (self.ocm, self.averaged):
            if side is not None:
                side.to(self.device)
        prepared = torch.compile(self.model) if config.compile else self.model
        self.wrapped, self.optimizer = self.accelerator.prepare(prepared, make_optimizer(self.model, config.optimizer))
        self.validator = Validator(validation, images.classes, config.eval_size) if validation else None
        self.log = RunLog(run, active=self.accelerator.is_main_process)
        self.epoch = self.step = self.bad_images = 0
        self._stop = False

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything with a state."""
        found = {"model": self.model, "ocm": self.ocm, "averaged": self.averaged}
        return {name: module for name, module in found.items() if module is not None}

    @property
    def best_model(self) -> Trainee:
        """The model that is validated and saved: the averaged one where there is one."""
        return self.averaged if self.averaged is not None else self.model

    def fit(self) -> int:
        """Train to the end, from the checkpoint if there is one.

        Returns:
            0 when done; 143 when SIGTERM came: a checkpoint is saved, and the same call goes on from there.

        Raises:
            TrainingError: the loss is not finite, or too many images cannot be read.
        """
        checkpoint = self.run / "checkpoint.safetensors"
        if checkpoint.exists():
            self._restore(checkpoint)
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stop", True))
        try:
            total = self.config.optimizer.epochs * self.stream.steps_per_epoch
            with Progress("steps", total, self.global_step) as progress:
                while self.epoch < self.config.optimizer.epochs:
                    if not self._epoch(progress, checkpoint):
                        return INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, previous)
        if self.accelerator.is_main_process:
            save_weights(self.run / "encoder.safetensors", self.best_model.encoder)
            save_weights(self.run / "classifier.safetensors", self.best_model.head)
        return 0

    @property
    def global_step(self) -> int:
        """Steps done in all epochs."""
        return self.epoch * self.stream.steps_per_epoch + self.step

    def _epoch(self, progress: Progress, checkpoint: Path) -> bool:
        """One epoch, or what is left of it; False when it was interrupted and saved."""
        saved_at = started = time.monotonic()
        waited, losses, images = 0.0, [], 0
        self.wrapped.train()
        batches = self.stream.batches(self.epoch, self.step, self.workers, self.device.type == "cuda")
        for _ in range(self.step, self.stream.steps_per_epoch):
            before = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - before
            losses.append(self._train_step(batch))
            images += self.config.optimizer.batch_size
            self.step += 1
            progress.advance(1)
            stop = self._any_process(self._stop)
            if stop or time.monotonic() - saved_at > 60 * self.config.checkpoint_minutes:
                self._save(checkpoint)
                saved_at = time.monotonic()
            if stop:
                return False
        seconds = time.monotonic() - started
        facts: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "loss": torch.stack(losses).mean().item() if losses else float("nan"),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": round(images / seconds, 1),
            "data_wait_share": round(waited / seconds, 4),
            "bad_images": self.bad_images,
        }
        self.epoch, self.step = self.epoch + 1, 0
        due = self.epoch % self.config.validate_every == 0 or self.epoch == self.config.optimizer.epochs
        if self.validator and due and self.accelerator.is_main_process:
            result = self.validator(self.best_model, self.device)
            facts |= {"val_top1": result.top1, "val_top5": result.top5, "val_images": result.num_images}
            facts |= {"val_unreadable": result.unreadable}
        self.log.epoch(facts)
        if self.accelerator.is_main_process:
            print(_summary(facts), file=sys.stderr, flush=True)
        self._save(checkpoint)
        return True

    def _train_step(self, batch: Batch) -> torch.Tensor:
        self._count_bad(batch)
        rate = learning_rate(self.global_step, self.stream.steps_per_epoch, self.config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.ocm is not None:
            self.ocm.before_step(self.model)
        chunks = batch.chunks(self.config.optimizer.accumulation_steps)
        total = torch.zeros((), device=self.device)
        embedded = []
        for number, chunk in enumerate(chunks):
            crops = self._to_device(chunk)
            last = number == len(chunks) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    logits = self.wrapped(crops)
                smoothing = self.config.objective.label_smoothing
                labels = chunk.labels.to(self.device)
                loss = multi_crop_loss(logits, labels, smoothing) * (len(chunk) / len(batch))
                self.accelerator.backward(loss)
            total += loss.detach()
            if self.ocm is not None:
                with self.accelerator.autocast():
                    embedded.append((self.ocm.embed(self.model, crops[0]), labels.repeat(len(crops[0]) // len(labels))))
        if not math.isfinite(total.item()):
            raise TrainingError(
                f"the loss is {total.item()} at step {self.global_step}, images {', '.join(batch.image_ids[:8])} ...",
                "lower optimizer.base_lr, set optimizer.clip_grad_norm, or use precision=float32",
            )
        if self.config.optimizer.clip_grad_norm:
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.config.optimizer.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for z, labels in embedded:
            assert self.ocm is not None
            self.ocm.memory.enqueue(torch.as_tensor(gather(z)), torch.as_tensor(gather(labels)))
        if self.averaged is not None:
            ema_update(self.averaged, self.model, self.config.ema_weights)
            for slow, fast in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
                slow.copy_(fast)
        if self.accelerator.num_processes > 1:
            total = reduce(total, "mean")
        assert isinstance(total, torch.Tensor)
        self.log.step(self.global_step, total.item(), rate)
        return total

    def _to_device(self, batch: Batch) -> list[torch.Tensor]:
        """Crops as normalised floats, one tensor [M * B, 3, S, S] per resolution, crop-major."""
        crops, first = [], 0
        for pixels in (batch.global_crops, batch.local_crops):
            count = pixels.shape[1]
            if count:
                images = to_float(pixels.to(self.device, non_blocking=True)).transpose(0, 1).flatten(0, 1)
                parameters = batch.parameters[:, first : first + count].transpose(0, 1).flatten(0, 1)
                crops.append(normalize(apply_photometric(images, parameters.to(self.device))))
            first += count
        return crops

    def _count_bad(self, batch: Batch) -> None:
        self.bad_images += len(batch.bad)
        allowed = allowed_bad_images(self.config, self.stream.num_images)
        if self.bad_images > allowed:
            raise TrainingError(
                f"{self.bad_images} images of {self.images.name} cannot be read, the last is {batch.bad[-1]}",
                f"the limit is {allowed} (bad_image_limit); run `imagenet-sd verify` on the data",
            )

    def _any_process(self, flag: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return flag
        votes = gather(torch.tensor([float(flag)], device=self.device))
        return bool(torch.as_tensor(votes).sum() > 0)

    def _save(self, path: Path) -> None:
        if self.accelerator.is_main_process:
            counters = {"epoch": self.epoch, "step": self.step, "bad_images": self.bad_images}
            save_checkpoint(path, self.modules, _inner(self.optimizer), counters)
        self.accelerator.wait_for_everyone()

    def _restore(self, path: Path) -> None:
        counters = load_checkpoint(path, self.modules, _inner(self.optimizer))
        self.epoch, self.step, self.bad_images = counters["epoch"], counters["step"], counters["bad_images"]
        self.log.rewind(self.epoch, self.global_step)


def _summary(facts: dict[str, Any]) -> str:
    score = f", top-1 {facts['val_top1']:.1%}" if "val_top1" in facts else ""
    return (
        f"epoch {facts['epoch']}: loss {facts['loss']:.4f}{score}, {facts['images_per_second']:.0f} images/s, "
        f"{facts['data_wait_share']:.0%} of the time waiting for data"
    )


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)


def _precision(config: TrainConfig) -> str:
    names = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
    if config.precision != "auto":
        return names[config.precision]
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
