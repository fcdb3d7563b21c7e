"""An encoder f, cut in two at the input of named blocks: theta1 below, theta2 the weights of the blocks.

Works on any timm model whose computation above the cut depends on what flows into the first block alone; a model that
is not so is refused.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.fusion import fuse_conv_bn_weights

from imagenet_sd.evaluation.config import EvaluationError

Weights = dict[str, torch.Tensor]
"""Name in the encoder -> value."""
_TOLERANCE = 1e-3
"""Of a relative change of the features that folding and cutting may make, in float32."""


class _Reached(Exception):  # not an error
    """The input of the first block is there; the rest of the forward pass is not needed."""


class SplitEncoder:
    """An encoder with its batch norm folded, cut at the input of its first named block.

    Args:
        module: normalised images float [N, 3, S, S] to features [N, d]; it is copied.
        blocks: names of its submodules, such as "layer4" or "blocks.11".
        images: a few images, to follow the computation on.

    Attributes:
        module: the folded copy, without gradients.
        blocks: the names.
        theta2: the weights of the blocks at their pre-trained values.
        shape: of the activations of one image at the cut.

    Raises:
        EvaluationError: there is no such block, or the encoder cannot be folded or cut.
    """

    def __init__(self, module: nn.Module, blocks: Sequence[str], images: torch.Tensor):
        self.module, self.blocks = fold_batch_norm(module, images), tuple(blocks)
        names = dict(self.module.named_modules())
        for block in self.blocks:
            if block not in names or not block:
                known = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names if name))
                raise EvaluationError(f"the encoder has no block {block!r}", f"it has {known[:300]}")
        self.theta2: Weights = {
            name: value
            for name, value in self.module.named_parameters()
            if any(name.startswith(f"{block}.") for block in self.blocks)
        }
        if not self.theta2:
            raise EvaluationError(f"{', '.join(self.blocks)} have no weights", "name blocks with weights")
        self._blank = torch.zeros_like(images[:1])
        self._first = self._first_in_order(names, images)
        with torch.no_grad(), _exact():
            activations = self.activations(images)
            self.shape = tuple(activations.shape[1:])
            whole, cut = self.module(images), self.features(activations, self.theta2)
        if whole.shape != cut.shape or _differ(whole, cut):
            raise EvaluationError(
                f"what follows {self.blocks[0]} needs more of the encoder than what flows into it", "name other blocks"
            )

    def _first_in_order(self, names: dict[str, nn.Module], images: torch.Tensor) -> nn.Module:
        """The block that the forward pass reaches first."""
        order: list[nn.Module] = []
        hooks = [names[block].register_forward_pre_hook(lambda each, _: order.append(each)) for block in self.blocks]
        with torch.no_grad():
            self.module(images[:1])
        for hook in hooks:
            hook.remove()
        if not order:
            raise EvaluationError(f"the encoder never runs {', '.join(self.blocks)}", "name other blocks")
        return order[0]

    def activations(self, images: torch.Tensor) -> torch.Tensor:
        """What theta1 makes of images: the input of the first block, float [N, *shape]."""
        caught: list[torch.Tensor] = []

        def stop(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
                raise EvaluationError(f"{self.blocks[0]} takes more than one tensor", "name other blocks")
            caught.append(inputs[0])
            raise _Reached

        hook = self._first.register_forward_pre_hook(stop)
        try:
            self.module(images)
        except _Reached:
            pass
        finally:
            hook.remove()
        return caught[0]

    def features(self, activations: torch.Tensor, theta2: Weights) -> torch.Tensor:
        """Features [N, d] from the activations at the cut, under the given weights.

        Below the cut one blank image runs in their place: a small share of the cost of a batch, and no model needs to
        be taken apart for it.
        """
        with self._fed(activations):
            return functional_call(self.module, theta2, (self._blank.to(activations.device),))

    def jacobian_product(self, activations: torch.Tensor, theta2: Weights, w2: Weights) -> torch.Tensor:
        """J w2 [N, d]: the derivative of `features` with respect to theta2 in direction w2 (eq. 5), by forward mode.

        Gradients flow back to `w2`. Attention runs as plain matrix products: the fused kernels have no forward mode.
        """
        with sdpa_kernel(SDPBackend.MATH):
            return jvp(lambda weights: self.features(activations, weights), (theta2,), (w2,))[1]

    @contextmanager
    def _fed(self, activations: torch.Tensor) -> Iterator[None]:
        hook = self._first.register_forward_pre_hook(lambda module, inputs: (activations,))
        try:
            yield
        finally:
            hook.remove()


class Trunk(nn.Module):
    """theta1 as an encoder of its own: images to flat activations [N, prod(shape)]."""

    def __init__(self, split: SplitEncoder):
        super().__init__()
        self.split, self.module = split, split.module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The activations at the cut."""
        return self.split.activations(images).flatten(1)


@contextmanager
def _exact() -> Iterator[None]:
    """Convolutions in float32 also on GPUs that would round their inputs to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).abs().max()) > _TOLERANCE * max(1e-6, float(a.abs().max()))


@torch.no_grad()
def fold_batch_norm(module: nn.Module, images: torch.Tensor) -> nn.Module:
    """A copy in evaluation mode in which every batch norm that follows a convolution is part of it.

    Which one follows which is seen in a forward pass of `images`.

    Raises:
        EvaluationError: the copy computes something else: the model is built in a way that cannot be folded.
    """
    folded = copy.deepcopy(module).eval().requires_grad_(False)
    for each in folded.modules():
        if getattr(each, "inplace", False):
            setattr(each, "inplace", False)  # noqa: B010  # cached activations stay as they are
    with _exact():
        expected = folded(images)
    produced: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []

    def after_conv(conv: Any, inputs: Any, output: torch.Tensor) -> None:
        produced[id(output)] = (conv, output)  # the tensor is kept, so that its id is not given to another

    def before_norm(norm: nn.Module, inputs: Any) -> None:
        if id(inputs[0]) in produced:
            pairs.append((produced[id(inputs[0])][0], norm))

    hooks = [each.register_forward_hook(after_conv) for each in folded.modules() if isinstance(each, nn.Conv2d)]
    norms = [each for each in folded.modules() if isinstance(each, nn.BatchNorm2d)]
    hooks += [each.register_forward_pre_hook(before_norm) for each in norms]
    folded(images)
    for hook in hooks:
        hook.remove()
    produced.clear()
    for conv, norm in dict.fromkeys(pairs):
        _fold(conv, norm, folded)
    with _exact():
        same = not _differ(expected, folded(images))
    if not same:
        raise EvaluationError("the batch norm of this encoder cannot be folded into its convolutions", "take another")
    return folded


def _fold(conv: nn.Conv2d, norm: Any, model: nn.Module) -> None:
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight, conv.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))
    # timm's layers may carry dropout and the activation along with the norm
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    name = next(name for name, each in model.named_modules() if each is norm)
    parent = model.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Sequential(*rest) if rest else nn.Identity())


@torch.no_grad()
def run_before(module: nn.Module, blocks: Sequence[str], images: torch.Tensor) -> set[str]:
    """Names of the submodules that begin to run before the first of the blocks does; "" is the module itself."""
    names: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        def before(*_: Any) -> None:
            if name in blocks:
                raise _Reached
            names.add(name)

        return before

    hooks = [each.register_forward_pre_hook(note(name)) for name, each in module.named_modules()]
    try:
        module(images[:1])
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return names


@torch.no_grad()
def randomised(module: nn.Module, chosen: Callable[[str], bool], images: torch.Tensor, seed: int) -> nn.Module:
    """A copy with random weights in the submodules whose names are chosen.

    Weights come from the initialisation of each layer (other parameters from a normal distribution of deviation 0.02);
    the statistics of a batch norm from `images`, layer after layer, so that no layer goes blind.

    Args:
        module: the encoder.
        chosen: says of a submodule's name whether it is random.
        images: normalised images.
        seed: of the weights.
    """
    copied = copy.deepcopy(module).eval()
    names = {id(each): name for name, each in copied.named_modules()}
    fresh = [each for each in copied.modules() if chosen(names[id(each)])]
    with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for each in fresh:
            if callable(reset := getattr(each, "reset_parameters", None)):
                reset()
            else:
                for value in each.parameters(recurse=False):
                    value.normal_(std=0.02)
    norms = [each for each in fresh if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over the batches that it sees: one
        norm.train()
    copied(images)
    return copied.eval()
