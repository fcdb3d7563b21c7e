"""Unit-length float32 rows of features on the device of a probe: all of them where they fit, else window by window.

Features may be an array in memory or a memory map of a file. They are never copied as a whole on the CPU once they
exceed `LARGE` bytes, nor on an accelerator once they exceed its free memory.
"""

import mmap
from collections.abc import Iterator
from copy import copy

import numpy as np
import torch

LARGE = 1 << 30
"""Bytes of float32 features from which they stay on disk, and are read block by block."""
WINDOW = 1 << 29  # bytes of a window
CHUNK = 8192  # rows that are read, or scored, at a time
BLOCK = 64  # rows that are read together: of 2,048 features half a megabyte, so that a disk reads in sequence


def probe_device(double: bool = False) -> torch.device:
    """The accelerator where there is one, else the CPU; `double`: only where it computes in float64."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None or (double and found.type == "mps"):
        return torch.device("cpu")
    return torch.device(found.type)


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether features of that size are held: on a GPU if 60% of its free memory will do, on a CPU up to `LARGE`."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, but unused
        return num_bytes <= 0.6 * (torch.cuda.mem_get_info(device)[0] + cached)
    return num_bytes <= LARGE


class FeatureRows:
    """Rows of features as unit-length float32 tensors (zero rows stay zero).

    Args:
        features: float [N, D], an array or a memory map.
        rows: int64, the rows that count, increasing; None: all.
        device: where the tensors are; None: the accelerator where there is one.
    """

    def __init__(self, features: np.ndarray, rows: np.ndarray | None = None, device: torch.device | None = None):
        self.features, self.device = features, device or probe_device()
        self.rows = np.arange(len(features)) if rows is None else rows
        self.num_bytes = 4 * len(self.rows) * features.shape[1]
        self._held: torch.Tensor | None = None  # `_places` of the rows in it
        if fits(self.num_bytes, self.device):
            self._held, self._places = self._read(self.rows), np.arange(len(self.rows))

    def select(self, positions: np.ndarray) -> "FeatureRows":
        """Some of the rows, at increasing positions; what is on the device already is shared."""
        if self._held is None:
            return FeatureRows(self.features, self.rows[positions], self.device)
        part = copy(self)
        part.rows, part._places = self.rows[positions], self._places[positions]
        part.num_bytes = 4 * len(part.rows) * self.features.shape[1]
        return part

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: np.ndarray) -> torch.Tensor:
        """Rows float32 [n, D] at positions among those that count."""
        if self._held is not None:
            return self._held[torch.from_numpy(self._places[positions]).to(self.device)]
        return self._read(self.rows[positions])

    def chunks(self) -> Iterator[torch.Tensor]:
        """All rows in order, some thousands at a time."""
        for start in range(0, len(self), CHUNK):
            yield self[np.arange(start, min(start + CHUNK, len(self)))]

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One shuffled pass: pairs of rows float32 [n, D] and their positions int64 [n] (on the CPU); n <= size.

        The order depends on the generator and the size of the features, not on the device. Features that are not
        large are permuted as a whole; of large ones blocks of rows are permuted, and then the rows within windows of
        at least a thousand blocks, so that a pass reads a file once and mostly in sequence.
        """
        if self.num_bytes <= LARGE:
            for positions in torch.randperm(len(self), generator=generator).split(size):
                yield self[positions.numpy()], positions
            return
        blocks = torch.randperm(len(self) // BLOCK, generator=generator).split(self.window(size) // BLOCK)
        rest = torch.arange(len(self) // BLOCK * BLOCK, len(self))
        for number, chosen in enumerate(blocks, 1):
            positions = (chosen.sort().values[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
            if number == len(blocks):
                positions = torch.cat([positions, rest])
            window = self[positions.numpy()] if self._held is None else None
            for part in torch.randperm(len(positions), generator=generator).split(size):
                rows = self[positions[part].numpy()] if window is None else window[part.to(self.device)]
                yield rows, positions[part]
            del window

    def window(self, size: int) -> int:
        """Rows of a window: a multiple of `BLOCK` and of the batch size; half a gigabyte, or 1,024 blocks."""
        unit = int(np.lcm(size, BLOCK))
        return max(1024 * BLOCK, WINDOW // (4 * self.features.shape[1])) // unit * unit or unit

    def steps(self, size: int) -> int:
        """Number of batches of one pass."""
        return -(-len(self) // size)

    def _read(self, rows: np.ndarray) -> torch.Tensor:
        """A copy of rows of the features, of unit length, on the device."""
        x = torch.empty(len(rows), self.features.shape[1], device=self.device)
        for start in range(0, len(rows), CHUNK):
            part = torch.from_numpy(np.asarray(self.features[rows[start : start + CHUNK]], np.float32))
            x[start : start + CHUNK] = part.to(self.device)
            forget(self.features)
        for part in x.split(CHUNK):
            part /= torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_(min=1e-12)
        return x


def forget(features: np.ndarray) -> None:
    """Take the pages of a memory map that were read out of this process; the system keeps them while it has room."""
    base = features
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not features.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
