"""The numbers that a reader should see first: the best encoder on each kind of task, and real images beside it."""

from dataclasses import dataclass

from imagenet_sd.report.measurements import Measurements, Summary
from imagenet_sd.report.text import percent


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """One number: `value` in percent, what it is, and where it comes from."""

    value: str
    what: str
    detail: str


def headlines(measured: Measurements) -> list[Headline]:
    """Up to four: the best top-1 of synthetic and of real training images, on the training task and on transfer."""
    targets = [(f"top-1 on {name}", measured.summary("training", name)) for name in measured.datasets("training")[:1]]
    if transfer := measured.datasets("transfer"):
        mean = measured.summarise(measured.mean_over(transfer)) if len(transfer) > 1 else {}
        name = f"the mean of {len(transfer)} transfer sets" if mean else transfer[0]
        targets.append((f"top-1 of a probe on {name}", mean or measured.summary("transfer", transfer[0])))
    lines = []
    for what, means in targets:
        for real in (False, True):
            best = max(
                (s for s in measured.settings if s.number in means and s.is_real is real),
                key=lambda s: means[s.number].mean,
                default=None,
            )
            if best:
                source = "real images" if real else "synthetic images" if "data" in best.factors else "given encoder"
                detail = f"{best.short}{_seeds(means[best.number])}"
                lines.append(
                    Headline(value=percent(means[best.number].mean, 1), what=f"{what}, {source}", detail=detail)
                )
    return lines


def _seeds(summary: Summary) -> str:
    return f"; ± {percent(summary.sd, 1)} over {summary.count} seeds" if summary.count > 1 else ""
