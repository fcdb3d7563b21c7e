"""Where the time goes: proxies of a pipeline's parts that time every call. Nothing of the pipeline is changed."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


class CallTimer:
    """Sums the time of calls under names: by events of the device on a GPU, else by the wall clock.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device):
        self._gpu = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with its time counted under a name."""

        @functools.wraps(call, updated=())
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._gpu:
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                result = call(*args, **kwargs)
                end.record()
                self._events.append((name, start, end))
                return result
            started = time.perf_counter()
            result = call(*args, **kwargs)
            self._seconds[name] += time.perf_counter() - started
            return result

        return run

    def seconds(self) -> dict[str, float]:
        """Seconds under each name; waits for the device first."""
        if self._events:
            torch.cuda.synchronize()
        for name, start, end in self._events:
            self._seconds[name] += start.elapsed_time(end) / 1000
        self._events = []
        return dict(self._seconds)


class Proxy:
    """Behaves as the object behind it, except for some of its attributes.

    Args:
        target: the object.
        call: what calling the proxy does; None: what calling the object does.
        attributes: replaced attributes by name.
    """

    def __init__(self, target: Any, call: Callable[..., Any] | None = None, **attributes: Any):
        self._target, self._call = target, call or target
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return self._call(*args, **kwargs)


def timed_pipeline(pipeline: Any, timer: CallTimer) -> Any:
    """A pipeline for an `ImageGenerator`, whose parts count their time as `unet`, `vae`, `text` and `scheduler`."""
    scheduler = pipeline.scheduler
    steps = {
        name: timer.timed("scheduler", getattr(scheduler, name))
        for name in ("set_timesteps", "scale_model_input", "step")
    }
    return Proxy(
        pipeline,
        unet=Proxy(pipeline.unet, timer.timed("unet", pipeline.unet)),
        vae=Proxy(pipeline.vae, decode=timer.timed("vae", pipeline.vae.decode)),
        scheduler=Proxy(scheduler, **steps),
        encode_prompt=timer.timed("text", pipeline.encode_prompt),
    )
