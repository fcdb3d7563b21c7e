"""The report: one static HTML page, the same as Markdown beside it, and its figures as SVG files."""

import base64
import hashlib
import re
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from imagenet_sd.core.files import atomic_write
from imagenet_sd.report.collect import Inputs
from imagenet_sd.report.headline import headlines
from imagenet_sd.report.measurements import Measurements
from imagenet_sd.report.pictures import contact_sheets, worst_classes
from imagenet_sd.report.plots import draw_all
from imagenet_sd.report.svg import standalone
from imagenet_sd.report.tables import augmentation_tables, paper_tables, results_table, study_table
from imagenet_sd.report.text import template

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$#&!])")
_EMBEDDED = (
    "The embedded generator was trained on the training images of `builtin:cifar10` and `builtin:mnist`. Results on "
    "its images are therefore not zero-shot as the paper's are; they show the method at work, not its strength."
)
Report = dict[str, Any]
"""What the page and its Markdown version show, by the names that the templates use."""


def build(inputs: Inputs, *, title: str, classes: int, images: int, made_with: str) -> Report:
    """Make the tables, figures and pictures.

    Args:
        inputs: what `collect` read.
        title: heading of the page.
        classes: classes on a contact sheet at most.
        images: pictures of a class.
        made_with: the program and its version, as the page names it.
    """
    measured = Measurements(inputs.encoders)
    tables = []
    for study in inputs.studies.values():
        tables += [study_table(study, measured), *augmentation_tables(study, measured)]
    if len(measured.scores):
        tables.append(results_table(measured))
    datasets, published, drawings = list(inputs.datasets.values()), paper_tables(measured), draw_all(measured)
    worst = worst_classes(measured.settings, datasets, images, inputs.remarks)
    sheets = contact_sheets(datasets, classes, images, inputs.remarks)
    missing = [f"{drawing.title}: It needs {drawing.needs}." for drawing in drawings if not drawing.panels]
    if not worst:
        missing.append("Accuracy per class: It needs `imagenet-sd evaluate RUN --suite imagenet --data NAME=SPEC`.")
    return {
        "title": title,
        "made_with": made_with,
        "inputs": inputs,
        "notes": [_EMBEDDED] if any(d.facts["model"] == "embedded" for d in datasets) else [],
        "headlines": headlines(measured),
        "tables": tables,
        "paper_tables": published,
        "unanswered": [table for table in published if not table.has_ours],
        "shown": [drawing for drawing in drawings if drawing.panels],
        "missing": missing,
        "worst": worst,
        "sheets": sheets,
        "versions": _versions(inputs),
        "remarks": list(dict.fromkeys(inputs.remarks)),
    }


def _versions(inputs: Inputs) -> list[tuple[str, dict[str, str]]]:
    """Versions by what reports them; the same versions are named once."""
    sources = [(f"study {study.name}", study.versions) for study in inputs.studies.values()]
    sources += [(f"evaluation of {document.encoder}", document.versions) for document in inputs.results.values()]
    sources += [(f"training of {run.name}", run.versions) for run in inputs.runs.values()]
    sources += [(f"images of {d.name}", {"made with": d.facts["made with"]}) for d in inputs.datasets.values()]
    names: dict[tuple, list[str]] = {}
    for name, versions in sources:
        if versions:
            names.setdefault(tuple(versions.items()), []).append(name)
    merged = []
    for versions, same in names.items():
        unique = list(dict.fromkeys(same))
        more = f" and {len(unique) - 4} more" if len(unique) > 4 else ""
        merged.append((", ".join(unique[:4]) + more, dict(versions)))
    return merged


def write_report(report: Report, out: Path) -> dict[str, Any]:
    """Write the page, the Markdown version and the figures.

    Args:
        report: what to write.
        out: the HTML file. Beside it come `STEM.md` and the folder `STEM_files/`.

    Returns:
        `page`, `markdown`, `figures` (a list) and `missing` (figures without data, and what they need).
    """
    folder, markdown = out.with_name(f"{out.stem}_files"), out.with_suffix(".md")
    panels = [panel for drawing in report["shown"] for panel in drawing.panels]
    panels += [worst.figure for worst in report["worst"]]
    figures = {folder / f"{key}.svg": standalone(svg) for key, _, svg in panels}
    for path, text in (figures | {out: _to_html(report), markdown: _to_markdown(report, folder.name)}).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, partial(Path.write_text, data=text, encoding="utf-8"))
    paths = {"page": str(out), "markdown": str(markdown), "figures": [str(path) for path in figures]}
    return {**paths, "missing": report["missing"]}


def _to_html(report: Report) -> str:
    script = resources.files("imagenet_sd.report").joinpath("report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template("report.html.j2").render(report=report, script=script, script_hash=digest)


def _to_markdown(report: Report, folder: str) -> str:
    return template("report.md.j2", finalize=_literal).render(report=report, folder=folder) + "\n"


def _literal(value: Any) -> Markup:
    """A value as literal Markdown on one line: no markup, no HTML, no cell border."""
    if isinstance(value, Markup):
        return value
    text = _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
    return Markup(text.replace("://", ":\u2060//").replace("@", "@\u2060"))
