"""From result files to a report: one page, its Markdown version and its figures."""

from pathlib import Path
from typing import Any

from imagenet_sd import __version__


def report(
    results: list[Path],
    out: Path,
    *,
    title: str = "imagenet-sd report",
    classes: int = 20,
    images_per_class: int = 6,
    baseline: str = "",
) -> dict[str, Any]:
    """Write a report of everything that was measured: tables, figures, samples, and the papers' numbers beside ours.

    Args:
        results: files (`results.json` of `evaluate`, `study.json` of `run`) and folders (of a dataset, of a training
            run, or of several of these).
        out: the HTML file. Beside it come `STEM.md` and `STEM_files/` with the figures as SVG.
        title: heading of the page.
        classes: classes on a dataset's contact sheet at most.
        images_per_class: sample images of a class.
        baseline: how the name of the encoder begins that others are shown relative to on ImageNet-CoG; empty: that of
            the thesis, the ResNet50 of torchvision.

    Returns:
        `page`, `markdown`, `figures` (a list of files) and `missing` (figures without data, and what they need).

    Raises:
        ImagenetSDError: a path holds nothing to report on, or a file is damaged.
    """
    from imagenet_sd.core.documents import ResultsError, clean
    from imagenet_sd.report.collect import collect
    from imagenet_sd.report.page import build, write_report

    if out.suffix.lower() not in (".html", ".htm"):
        raise ResultsError(f"--out is {out}, not an HTML file", "give a name such as report.html")
    built = build(
        collect(results),
        title=clean(title),
        classes=classes,
        images=images_per_class,
        made_with=f"imagenet-sd {__version__}",
        baseline=baseline,
    )
    return write_report(built, out)
