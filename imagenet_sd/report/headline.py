"""The numbers that a reader should see first: the best encoder on each kind of task, and real images beside it."""

from typing import NamedTuple

from imagenet_sd.report.measurements import Measurements
from imagenet_sd.report.text import percent


class Headline(NamedTuple):
    """One number: `value` in percent, what it is, and where it comes from."""

    value: str
    what: str
    detail: str


def headlines(measured: Measurements) -> list[Headline]:
    """Up to four: the best top-1 of synthetic and of real training images, on the training task and on transfer.

    Encoders trained on both are no headline: they would pass for synthetic ones.
    """
    targets = [(f"top-1 on {name}", measured.summary("training", name)) for name in measured.datasets("training")[:1]]
    if transfer := measured.datasets("transfer"):
        mean = measured.summarise(measured.mean_over(transfer)) if len(transfer) > 1 else {}
        name = f"the mean of {len(transfer)} transfer sets" if mean else transfer[0]
        targets.append((f"top-1 of a probe on {name}", mean or measured.summary("transfer", transfer[0])))
    lines = []
    apart = [setting for setting in measured.settings if setting.factors.get("data") != "both"]
    for what, means in targets:
        for real in (False, True):
            candidates = [s for s in apart if s.number in means and s.is_real is real]
            if candidates:
                best = max(candidates, key=lambda setting: means[setting.number].mean)
                top1 = means[best.number]
                source = "real images" if real else "synthetic images" if "data" in best.factors else "given encoder"
                seeds = f"; ± {percent(top1.sd, 1)} over {top1.count} seeds" if top1.count > 1 else ""
                lines.append(Headline(percent(top1.mean, 1), f"{what}, {source}", best.short + seeds))
    return lines
