"""The report: one static HTML page, the same as Markdown beside it, and its figures as SVG files."""

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagenet_sd.core.files import atomic_write
from imagenet_sd.report.collect import Inputs
from imagenet_sd.report.headline import Headline, headlines
from imagenet_sd.report.markdown import to_markdown
from imagenet_sd.report.measurements import Measurements
from imagenet_sd.report.pictures import Sheet, WorstClasses, contact_sheets, worst_classes
from imagenet_sd.report.plots import Drawing, draw_all
from imagenet_sd.report.svg import standalone
from imagenet_sd.report.tables import (
    Table,
    augmentation_paper_table,
    augmentation_tables,
    cog_paper_table,
    imagenet_paper_table,
    results_table,
    study_table,
    transfer_paper_table,
)

# Sorting a table: missing values stay at the end; two clicks turn the order round. The state is told by aria-sort.
SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numeric = head.classList.contains("number");
    const value = (row, key) => {
      const text = row.cells[column].dataset[key];
      return text === undefined ? null : numeric ? Number(text) : text;
    };
    const compare = (a, b, key) => {
      const x = value(a, key), y = value(b, key);
      if (x === null || y === null) return x === y ? 0 : x === null ? 1 : -1;
      const order = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
      return down ? -order : order;
    };
    const rows = [...body.rows].sort((a, b) => compare(a, b, "sort") || compare(a, b, "paper"));
    body.append(...rows);
  });
}
"""


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
    """Work out tables, figures and pictures.

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
        paper_tables=[
            augmentation_paper_table(measured),
            imagenet_paper_table(measured),
            transfer_paper_table(measured),
            cog_paper_table(measured),
        ],
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
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imagenet_sd.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # Markup: the script is ours, and the figures are what matplotlib wrote, which escapes all text in them.
    return environment.get_template("report.html.j2").render(
        report=report, script=Markup(SCRIPT), script_hash=digest, markup=Markup
    )


def _publish(path: Path, text: str) -> None:
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
