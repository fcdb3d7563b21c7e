"""The training loop: one step after the other, exactly resumable, on one process or many.

It knows encoders and batches; what is learned from them is the objective's business (see `objectives.base`).
"""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, gather, gather_object, reduce, set_seed
from torch import nn

from imagenet_sd.core.machine import fast_bfloat16
from imagenet_sd.core.process import on_sigterm
from imagenet_sd.core.progress import Progress, note
from imagenet_sd.core.typed import to_mapping
from imagenet_sd.data.images import ImageSet
from imagenet_sd.training.checkpoint import head_file, load_checkpoint, save_checkpoint, save_weights
from imagenet_sd.training.config import Tracker, TrainConfig, TrainingError
from imagenet_sd.training.data import Batch, TrainStream
from imagenet_sd.training.knn import KnnValidator
from imagenet_sd.training.model import EncoderWithHead, check_sizes, make_encoder, share_batch_norm
from imagenet_sd.training.objectives import check_tasks, make_objective
from imagenet_sd.training.optim import ema_update, learning_rate, make_optimizer, set_learning_rate
from imagenet_sd.training.runlog import RunLog, check_tracker
from imagenet_sd.training.validate import Validator
from imagenet_sd.training.views import make_views

_LONGEST_WAIT = timedelta(hours=3)
"""Of processes for one: the first validates alone, which on large sets takes longer than PyTorch's 10 minutes."""
COLLAPSED = 0.05
"""Mean spread of an epoch's embeddings (see `embedding_spread`) below which a run stops: they are all the same, or vary
in fewer than one of 400 dimensions (0.05^2). Runs that learn stay above 0.25."""


class Trainer:
    """Trains an encoder; takes what `imagenet_sd.pipeline.train` takes, with the data opened.

    `sequential` is for data that is still being generated; see `EpochOrder`. Making one checks that data and recipe
    fit, and writes nothing.

    Raises:
        TrainingError: they do not.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: ImageSet,
        run: Path,
        validation: ImageSet | None = None,
        workers: int = 0,
        sequential: bool = False,
        log_with: Tracker = "tensorboard",
    ):
        check_tracker(log_with)
        self.config, self.images, self.run, self.workers = config, images, run, workers
        trackers = None if log_with == "none" else log_with
        AcceleratorState._reset_state()  # a study may train one run after another, each with a precision of its own
        self.accelerator = Accelerator(
            mixed_precision=_precision(config),
            log_with=trackers,
            project_dir=run,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
        )
        self.device = self.accelerator.device
        set_seed(config.seed)
        world = self.accelerator.num_processes
        self.stream = TrainStream(images, config, self.accelerator.process_index, world, sequential)
        encoder = make_encoder(config.model)
        check_sizes(encoder, config, validated=validation is not None)
        check_tasks(config)
        self.objective = make_objective(encoder, len(images.classes), config)
        self.model = EncoderWithHead(encoder, self.objective.head)
        if config.sync_batchnorm and world > 1 and self.device.type == "cuda":
            share_batch_norm(self.model)
            share_batch_norm(self.objective.state)
        self.model.to(self.device)
        self.objective.state.to(self.device)
        self.ema_model = copy.deepcopy(self.model).requires_grad_(False) if config.ema_weights else None
        prepared = torch.compile(self.model) if config.compile else self.model
        optimizer = make_optimizer(self.model, config.optimizer, self.objective.constant_rate)
        self.wrapped, self.optimizer = self.accelerator.prepare(prepared, optimizer)
        self.validator = self._make_validator(validation) if validation else None
        self.log = RunLog(run, self.accelerator, log_with)
        self.epoch = self.step = 0
        self.bad: set[str] = set()  # ids of unreadable images; those of other processes come in with each checkpoint
        self.sums: dict[str, float] = {}  # over the steps of this epoch
        self._stop = False

    def _make_validator(self, validation: ImageSet) -> Validator:
        if self.objective.classifies:
            return Validator(validation, self.images.classes, self.config.val_crop_size)
        return KnnValidator(validation, self.images, self.config.val_crop_size)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything with a state."""
        modules = {"model": self.model, "objective": self.objective.state, "ema_model": self.ema_model}
        return {name: module for name, module in modules.items() if module is not None}

    @property
    def best_model(self) -> EncoderWithHead:
        """The model that is validated and saved: the moving average where there is one."""
        return self.model if self.ema_model is None else self.ema_model

    def fit(self) -> bool:
        """Train to the end, from the checkpoint if there is one.

        Returns:
            Whether it is done; not when SIGTERM came: a checkpoint is saved, and the same call goes on from there.

        Raises:
            TrainingError: the loss is not finite, or too many images cannot be read.
        """
        checkpoint = self.run / "checkpoint.safetensors"
        if checkpoint.exists():
            self._restore(checkpoint)
        self.log.start(self.global_step, to_mapping(self.config))
        total = self.config.optimizer.epochs * self.stream.steps_per_epoch
        with (
            on_sigterm(lambda *_: setattr(self, "_stop", True)),
            Progress("steps", total, self.global_step) as progress,
        ):
            epochs = self.config.optimizer.epochs - self.epoch
            batches = self.stream.batches(self.epoch, self.step, self.workers, epochs)
            while self.epoch < self.config.optimizer.epochs:
                if not self._train_epoch(batches, progress, checkpoint):
                    return False
        if self.accelerator.is_main_process:
            save_weights(self.run / "encoder.safetensors", self.best_model.encoder)
            save_weights(self.run / head_file(self.objective.classifies), self.best_model.head)
        return True

    @property
    def global_step(self) -> int:
        """Steps done in all epochs."""
        return self.epoch * self.stream.steps_per_epoch + self.step

    def _train_epoch(self, batches: Iterator[Batch], progress: Progress, checkpoint: Path) -> bool:
        """One epoch, or what is left of it; False when it was interrupted and saved."""
        saved_at = time.monotonic()
        self.wrapped.train()
        for _ in range(self.step, self.stream.steps_per_epoch):
            before = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - before
            facts = {"steps": 1, "loss": self._train_step(batch), "waited": waited}
            if self.objective.spread is not None:
                facts["spread"] = self.objective.spread.item()
            facts["seconds"] = time.monotonic() - before
            self.sums = {name: self.sums.get(name, 0) + value for name, value in facts.items()}
            self.step += 1
            progress.advance(1)
            late = time.monotonic() - saved_at > 60 * self.config.checkpoint_minutes
            stop, late = self._any_process(self._stop, late)
            if stop or late:
                self._save(checkpoint)
                saved_at = time.monotonic()
            if stop:
                return False
        self._end_epoch()
        self._save(checkpoint)
        return True

    def _end_epoch(self) -> None:
        """Validate where that is due, and log; the next epoch begins."""
        sums, self.sums = self.sums, {}
        self.epoch, self.step = self.epoch + 1, 0
        facts = self._facts(sums)
        due = self.epoch % self.config.validate_every == 0 or self.epoch == self.config.optimizer.epochs
        if self.validator and due and self.accelerator.is_main_process:
            result = self.validator(self.best_model, self.device)
            facts |= {f"{self.validator.score}_top1": result.top1, f"{self.validator.score}_top5": result.top5}
            facts |= {"val_images": result.num_images, "val_unreadable": result.unreadable}
        self.log.epoch(facts)
        if self.accelerator.is_main_process:
            note(_summary(facts))

    def _facts(self, sums: dict[str, float]) -> dict[str, Any]:
        """The figures of the epoch that has just ended, from the sums over its steps.

        A checkpoint of before there were sums may stand at the end of an epoch; there is no loss then.
        """
        self._share_bad()
        optimizer, per_epoch = self.config.optimizer, self.stream.steps_per_epoch
        steps, seconds = sums.get("steps", 0), sums.get("seconds", 0) or math.inf
        facts: dict[str, Any] = {"epoch": self.epoch} | ({"loss": sums["loss"] / steps} if steps else {})
        facts |= {
            "learning_rate": learning_rate(self.global_step - 1, per_epoch, optimizer),
            "images_per_second": round(steps * optimizer.batch_size / seconds, 1),
            "data_wait_share": round(sums.get("waited", 0) / seconds, 4),
            "bad_images": len(self.bad),
        }
        if "spread" in sums:
            facts["embedding_spread"] = _not_collapsed(sums["spread"] / steps, self.epoch)
        return facts

    def _train_step(self, batch: Batch) -> float:
        """One optimiser step; returns the mean loss over all processes."""
        self._count_bad(batch.bad)
        per_epoch, config = self.stream.steps_per_epoch, self.config.optimizer
        rate = set_learning_rate(self.optimizer, self.global_step, per_epoch, config)
        self.objective.progress = self.global_step / (config.epochs * per_epoch)
        self.objective.before_step(self.model.encoder)
        loss = self._backward(batch)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.global_step}, images {', '.join(batch.image_ids[:8])} ...",
                "lower optimizer.base_lr, set optimizer.clip_grad_norm, or use precision=float32",
            )
        self.objective.after_backward()
        if config.clip_grad_norm:
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), config.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.after_step()
        if self.ema_model is not None:
            ema_update(self.ema_model, self.model, self.config.ema_weights)
            for average, current in zip(self.ema_model.buffers(), self.model.buffers(), strict=True):
                average.copy_(current)
        if self.accelerator.num_processes > 1:
            loss = torch.as_tensor(reduce(loss, "mean"))
        self.log.step(self.global_step, loss.item(), rate)
        return loss.item()

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Gradients of the mean loss over the batch, chunk by chunk; returns that loss."""
        total = torch.zeros((), device=self.device)
        chunks = batch.chunks(self.config.optimizer.accumulation_steps)
        for chunk in chunks:
            views = make_views(chunk, self.device)
            sync = nullcontext() if chunk is chunks[-1] else self.accelerator.no_sync(self.wrapped)
            with sync:
                with self.accelerator.autocast():
                    outputs = self.wrapped(self.objective.encoded_crops(views))
                    loss = self.objective.loss(outputs, views) * (len(chunk) / len(batch))
                self.accelerator.backward(loss)  # outside of autocast: what the loss keeps in float32 stays so
            total += loss.detach()
        return total

    def _share_bad(self) -> None:
        """Put the unreadable images of all processes together, the same in each."""
        self._count_bad(gather_object(sorted(self.bad)))

    def _count_bad(self, image_ids: list[str]) -> None:
        self.bad.update(image_ids)
        allowed = math.ceil(self.config.bad_image_limit * self.stream.num_images)
        if len(self.bad) > allowed:
            raise TrainingError(
                f"{len(self.bad)} images of {self.images.name} cannot be read, such as {min(self.bad)}",
                f"the limit is {allowed} (bad_image_limit); run `imagenet-sd verify` on the data",
            )

    def _any_process(self, *flags: bool) -> list[bool]:
        """Each flag, up where any process has it up."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        votes = gather(torch.tensor([flags], dtype=torch.float32, device=self.device))
        return (torch.as_tensor(votes).sum(0) > 0).tolist()

    def _save(self, path: Path) -> None:
        self._share_bad()
        if self.accelerator.is_main_process:
            counters = {"epoch": self.epoch, "step": self.step, "bad_images": len(self.bad)}
            counters |= {"bad_ids": sorted(self.bad), "sums": self.sums}
            save_checkpoint(path, self.modules, self.optimizer, counters, self.accelerator.scaler)
        self.accelerator.wait_for_everyone()

    def _restore(self, path: Path) -> None:
        counters = load_checkpoint(path, self.modules, self.optimizer, self.accelerator.scaler)
        self.epoch, self.step = counters["epoch"], counters["step"]
        self.bad, self.sums = set(counters["bad_ids"]), dict(counters["sums"])
        self.log.rewind(self.epoch, self.global_step)


def _not_collapsed(spread: float, epoch: int) -> float:
    """The mean spread of an epoch's embeddings, see `embedding_spread`.

    Raises:
        TrainingError: they are all the same.
    """
    if spread < COLLAPSED:
        raise TrainingError(
            f"the embeddings have collapsed in epoch {epoch}: the standard deviation of unit vectors is {spread:.1e} "
            "of what uniform directions have",
            "lower optimizer.base_lr, or give the augmentation or the predictor more strength",
        )
    return spread


def _summary(facts: dict[str, Any]) -> str:
    names = {"val_top1": "top-1", "knn_top1": "k-NN top-1"}
    score = "".join(f", {name} {facts[key]:.1%}" for key, name in names.items() if key in facts)
    loss = f"loss {facts['loss']:.4f}" if "loss" in facts else "done"
    return (
        f"epoch {facts['epoch']}: {loss}{score}, {facts['images_per_second']:.0f} images/s, "
        f"{facts['data_wait_share']:.0%} of the time waiting for data"
    )


def _precision(config: TrainConfig) -> str:
    names = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
    on_cpu = not torch.cuda.is_available()
    if config.precision == "bfloat16" and on_cpu and not fast_bfloat16(torch.device("cpu")):
        note("note: this CPU has no instructions for bfloat16: precision=float32 takes a fraction of the time here")
    if config.precision != "auto":
        return names[config.precision]
    if on_cpu:
        return "no"
    return "bf16" if fast_bfloat16(torch.device("cuda")) else "fp16"
