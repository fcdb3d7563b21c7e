"""A training step of the encoder for small images on one CPU thread: with PyTorch's own convolutions, and with ours.

Forward and backward pass of the recipes' 128 images in two crops of 32 pixels, in bfloat16 and in float32, interleaved.
Prints the median times and their ratio.
"""

import argparse
import copy
import time
from statistics import median

import torch
from torch import nn

from imagenet_sd.training.cpu_convolutions import CPUConv2d
from imagenet_sd.training.model import make_encoder
from imagenet_sd.training.recipes import load_train_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = make_encoder(load_train_config("simclr-small").model)
    plain = copy.deepcopy(ours)
    for each in plain.modules():
        if isinstance(each, CPUConv2d):
            each.__class__ = nn.Conv2d
    images = torch.randn(256, 3, 32, 32)
    for bfloat16 in (True, False):
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(1 + args.rounds):
            for name, encoder in (("plain", plain), ("ours", ours)):
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    features = encoder(images)
                features.float().square().mean().backward()
                times[name].append(time.perf_counter() - start)
        medians = {name: median(each[1:]) for name, each in times.items()}  # the first round warms up
        print(
            f"{'bfloat16' if bfloat16 else 'float32'}: plain {1000 * medians['plain']:.0f} ms, "
            f"ours {1000 * medians['ours']:.0f} ms, ratio {medians['plain'] / medians['ours']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
