"""The whole batch, seen from one of its processes."""

from typing import Any

import torch
import torch.distributed as dist

# Its functions keep the process group that exists when it is first imported as the default of their arguments. Imported
# after the group, as other libraries do, it would keep gloo's threads alive until the interpreter ends, where a thread
# that frees a tensor aborts the process.
import torch.distributed.nn


def world() -> tuple[int, int]:
    """Number of this process and of all processes; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """The rows [N, ...] of all processes in the order of their numbers, [R * N, ...], with gradients to each of them.

    The gradient of a row is the sum over what all processes do with it. With a loss that is a mean over the own rows,
    and gradients averaged over the processes, the step is that of one process with the whole batch.
    """
    return _Gather.apply(x) if world()[1] > 1 else x  # pyright: ignore[reportReturnType]


def own_rows(x: torch.Tensor) -> torch.Tensor:
    """This process's part of gathered rows."""
    rank, size = world()
    return x.chunk(size)[rank]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return own_rows(gradient)
