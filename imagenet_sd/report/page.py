"""The report: one static HTML page, the same as Markdown beside it, and its figures as SVG files."""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from imagenet_sd.core.files import atomic_write
from imagenet_sd.report.collect import Inputs
from imagenet_sd.report.headline import Headline, headlines
from imagenet_sd.report.measurements import Measurements
from imagenet_sd.report.pictures import Sheet, WorstClasses, contact_sheets, worst_classes
from imagenet_sd.report.plots import Drawing, draw_all
from imagenet_sd.report.svg import standalone
from imagenet_sd.report.tables import Table, augmentation_tables, paper_tables, results_table, study_table
from imagenet_sd.report.text import template

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$#&!])")


@dataclass(kw_only=True, slots=True)
class Report:
    """All that the page and its Markdown version show."""

    title: str
    inputs: Inputs
    headlines: list[Headline]
    tables: list[Table]
    paper_tables: list[Table]
    drawings: list[Drawing]
    worst: list[WorstClasses]
    sheets: list[Sheet]
    versions: list[tuple[str, dict[str, str]]]
    made_with: str
    remarks: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What a reader must know before the numbers."""
        return [_EMBEDDED] if any(d.facts["model"] == "embedded" for d in self.inputs.datasets.values()) else []

    @property
    def shown(self) -> list[Drawing]:
        """The figures that have data."""
        return [drawing for drawing in self.drawings if drawing.panels]

    @property
    def unanswered(self) -> list[Table]:
        """Tables of the paper that none of our numbers stands in."""
        return [table for table in self.paper_tables if not table.has_ours]

    @property
    def missing(self) -> list[str]:
        """The figures without data, as "title: what it needs"."""
        lines = [f"{drawing.title}: {drawing.missing}" for drawing in self.drawings if drawing.missing]
        if not self.worst:
            lines.append("Accuracy per class: It needs `imagenet-sd evaluate RUN --suite imagenet --data NAME=SPEC`.")
        return lines


_EMBEDDED = (
    "The embedded generator makes digits and was trained on real ones, the training part of `builtin:mnist`. Results "
    "on its images are therefore not zero-shot as the paper's are; they show the method at work, not its strength."
)


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
    datasets, remarks = list(inputs.datasets.values()), inputs.remarks
    return Report(
        title=title,
        inputs=inputs,
        headlines=headlines(measured),
        tables=tables,
        paper_tables=paper_tables(measured),
        drawings=draw_all(measured),
        worst=worst_classes(measured.settings, datasets, images, remarks),
        sheets=contact_sheets(datasets, classes, images, remarks),
        versions=_versions(inputs),
        made_with=made_with,
        remarks=list(dict.fromkeys(remarks)),
    )


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
    return [(_several(same), dict(versions)) for versions, same in names.items()]


def _several(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:4]) + (f" and {len(unique) - 4} more" if len(unique) > 4 else "")


def write_report(report: Report, out: Path) -> dict[str, Any]:
    """Write the page, the Markdown version and the figures.

    Args:
        report: what to write.
        out: the HTML file. Beside it come `STEM.md` and the folder `STEM_files/`.

    Returns:
        `page`, `markdown`, `figures` (a list) and `missing` (figures without data, and what they need).
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f"{out.stem}_files")
    panels = [panel for drawing in report.shown for panel in drawing.panels]
    panels += [worst.figure for worst in report.worst]
    figures = []
    if panels:
        folder.mkdir(exist_ok=True)
    for key, _, svg in panels:
        path = folder / f"{key}.svg"
        _publish(path, standalone(svg))
        figures.append(str(path))
    _publish(out, render(report))
    markdown = out.with_suffix(".md")
    _publish(markdown, to_markdown(report, folder.name))
    return {"page": str(out), "markdown": str(markdown), "figures": figures, "missing": report.missing}


def render(report: Report) -> str:
    """The HTML page."""
    from markupsafe import Markup

    script = resources.files("imagenet_sd.report").joinpath("report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Markup: the script is ours, and the figures are what matplotlib wrote, which escapes all text in them.
    return template("report.html.j2").render(report=report, script=Markup(script), script_hash=digest, markup=Markup)


def to_markdown(report: Report, folder: str) -> str:
    """The Markdown version, for a README: the same tables, and the figures as files of `folder` beside it."""
    from markupsafe import Markup

    def literal(value: Any) -> Markup:
        return value if isinstance(value, Markup) else Markup(escape_markdown(str(value)))

    return template("report.md.j2", finalize=literal).render(report=report, folder=folder) + "\n"


def escape_markdown(text: str) -> str:
    """`text` as literal Markdown on one line: no markup, no HTML, no cell border."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("://", ":\u2060//").replace("@", "@\u2060")


def _publish(path: Path, text: str) -> None:
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
