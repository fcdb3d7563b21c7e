"""How much memory a probe takes, known before it starts."""

import os

import torch

from imagenet_sd.evaluation.probes import logreg, rows

_GIB = 1 << 30


def peak_bytes(kind: str, images: int, dimension: int, classes: int, device: torch.device) -> int:
    """Bytes that a probe takes on its device at its peak, beside the features themselves and the libraries.

    Args:
        kind: a key of `PROBES`.
        images: N, training images.
        dimension: D, features of an image.
        classes: C.
        device: where it computes.
    """
    if kind in ("lbfgs", "path"):
        rank = min(images, dimension) + 1
        together = max(1, logreg.STATE // (8 * logreg.COPIES * rank * classes))
        state = 8 * logreg.COPIES * rank * classes * (min(45, together) if kind == "path" else 1)
        rotated = 8 * images * rank
        on_device = rotated if device.type == "cpu" or rows.fits(rotated, device) else 0
        return on_device + state + 16 * min(images, dimension) ** 2 + 3 * logreg.LOGITS
    size = 4 * images * dimension
    held = size if rows.fits(size, device) else min(size, max(rows.WINDOW, 4 * 1024 * rows.BLOCK * dimension))
    held += 2 * 4 * rows.CHUNK * dimension  # what is being read
    if kind == "knn":
        return held + 24 * 1024 * rows.CHUNK
    return held + 4 * 4 * classes * dimension + 12 * rows.CHUNK * classes


def memory_line(name: str, kind: str, images: int, dimension: int, classes: int) -> str:
    """One line for the user: what a probe is about to do, where, and the memory that it takes."""
    device = rows.probe_device(double=kind in ("lbfgs", "path"))
    size = 4 * images * dimension
    kept = "" if kind in ("lbfgs", "path") or rows.fits(size, device) else ", read in windows"
    taken = peak_bytes(kind, images, dimension, classes, device)
    line = f"{name}: {kind} on {device.type}, {images:,} x {dimension:,} features of {classes:,} classes{kept}"
    line += f": about {taken / _GIB:.1f} GiB"
    if device.type == "cpu" and taken > (there := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        line += f", of which this machine has {there / _GIB:.1f}; --probe sgd reads features in windows"
    return line
