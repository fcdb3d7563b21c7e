"""The report as Markdown, for a README: the same tables, and the figures as files."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from imagenet_sd.report.tables import Table, TableCell

if TYPE_CHECKING:
    from imagenet_sd.report.page import Report

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$#&!])")


def escape(text: str) -> str:
    """`text` as literal Markdown on one line: no markup, no HTML, no cell border."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("://", ":\u2060//").replace("@", "@\u2060")


def table_markdown(table: Table) -> list[str]:
    """The lines of a table: title, header, rows, caption."""
    titles = list(table.columns)
    if table.groups:
        spans = [group for group, span in table.groups for _ in range(span)]
        titles = [f"{group} {title}".strip() for group, title in zip(spans, titles, strict=True)]
    rule = ["---:" if number in table.numeric else "---" for number in range(len(titles))]
    return [
        f"### {escape(table.title)}",
        "",
        _row(map(escape, titles)),
        _row(rule),
        *(_row(map(_cell, row)) for row in table.rows),
        "",
        escape(table.caption),
        "",
    ]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: TableCell) -> str:
    return escape(cell.text) + (f" ({cell.paper})" if cell.paper else "")


def to_markdown(report: "Report", folder: str) -> str:
    """The whole report.

    Args:
        report: what to show.
        folder: name of the folder with the figures, beside the Markdown file.
    """
    lines = [f"# {escape(report.title)}", ""]
    for note in report.notes:
        lines += [escape(note), ""]
    for headline in report.headlines:
        lines.append(f"- **{headline.value}%** {escape(headline.what)} ({escape(headline.detail)})")
    lines.append("")
    for table in report.tables:
        lines += table_markdown(table)
    lines += ["## Figures", ""]
    for drawing in report.shown:
        lines += [f"### {escape(drawing.title)}", ""]
        lines += [f"![{escape(alt)}](<{folder}/{key}.svg>)" for key, alt, _ in drawing.panels]
        lines += [escape(drawing.caption), ""]
    for worst in report.worst:
        lines += [f"### Worst classes of {escape(worst.label)} on {escape(worst.dataset)}", ""]
        lines += [f"![{escape(worst.figure[1])}](<{folder}/{worst.figure[0]}.svg>)", ""]
    if report.missing:
        lines += [f"Without data: {escape(' '.join(report.missing))}", ""]
    lines += ["## Beside the paper's numbers", ""]
    for table in report.paper_tables:
        lines += table_markdown(table)
    lines += ["## How it was made", ""]
    for study in report.inputs.studies.values():
        lines += [f"Study {escape(study.name)}, on: {escape(study.machine or 'unknown')}", ""]
        lines += [f"    {command}" for command in study.commands]
        lines.append("")
    for source, versions in report.versions:
        lines.append(f"- {escape(source)}: {escape(', '.join(f'{k} {v}' for k, v in versions.items()))}")
    lines += [f"- {escape(remark)}" for remark in report.remarks]
    return "\n".join([*lines, "", f"Written by {escape(report.made_with)}.", ""])
