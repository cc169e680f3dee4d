"""Building the report: one self-contained HTML page, with its plots and numbers as files next to it."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path

from fairseq_resmlp.common.atomic_write import atomic_write
from fairseq_resmlp.common.errors import InputError

try:
    import jinja2
except ImportError as error:
    raise InputError("reports require jinja2: pip install 'fairseq-resmlp[report]'") from error

from fairseq_resmlp import common
from fairseq_resmlp.evaluation.run_directory import RunDirectory, find_runs
from fairseq_resmlp.evaluation.training_log import Curves, read_training_log
from fairseq_resmlp.report import summary
from fairseq_resmlp.report.plots import MAX_ALIGNED
from fairseq_resmlp.report.sections import (
    Log,
    Section,
    Table,
    image_sections,
    run_sections,
    scores_section,
    to_json,
    training_section,
)

PALETTE = Path(common.__file__).with_name("palette.css")


def build_report(directories: Sequence[str], out: str, sentences: int, with_pruning: bool, log: Log) -> str:
    """Write OUT/index.html about run directories, with PNG, SVG and JSON files next to it.

    Args:
        directories: the run directories
        out: directory of the report
        sentences: maximum number of test and of validation sentences to translate and to measure pruning with, or 0
        with_pruning: measure the effect of pruning, too
        log: called with a line about the progress

    Returns:
        the path of the page

    Raises:
        InputError: a directory is not a run directory, or its scores.json is invalid
    """
    runs = find_runs(directories)
    os.makedirs(out, exist_ok=True)
    curves, no_curves = _read_curves(runs)
    scores = scores_section(runs)
    sections = [scores, training_section(curves, no_curves)]
    final, rows = scores.tables[0], []
    for run in runs:
        log(f"{run.name}: loading")
        own, model = [row for row in final.rows if row[0] == run.name], None
        try:
            loaded = run.load()
        except (InputError, OSError) as error:
            sections.append(Section(f"{run.name}: model", missing=[str(error)]))
        else:
            if run.is_of_images:
                sections += image_sections(run, loaded)
            else:
                found, measured = run_sections(run, loaded, sentences, with_pruning, log)
                sections += found
                own += measured
            model = loaded[-1]
        rows.append((own, summary.summary_row(run, curves.get(run.name, {}), model, own)))
    final.rows = [score for own, _ in rows for score in own]
    first = Table("summary.table", "One row per run", *summary.used_columns([row for _, row in rows]))
    sections.insert(0, Section("Summary", tables=[first]))
    for section in sections:
        _write_files(out, section)
        for line in section.missing:
            log(f"missing: {section.title}: {line}")
    page = render_page(sections, [run.name for run in runs])
    _write(out, "index.html", page.encode("utf-8", "replace"))
    return os.path.join(out, "index.html")


def _read_curves(runs: Sequence[RunDirectory]) -> tuple[dict[str, Curves], list[str]]:
    """Return the training curves by the name of the run, and the reasons why others are missing."""
    curves, missing = {}, []
    for run in runs:
        try:
            curves[run.name] = read_training_log(run)
        except (InputError, OSError) as error:
            missing.append(f"{run.name}: {error}")
    return curves, missing


def render_page(sections: Sequence[Section], names: Sequence[str]) -> str:
    """Return the HTML page with these sections.

    Args:
        names: names of the runs
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__, "templates"), autoescape=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    palette = PALETTE.read_text(encoding="utf-8")
    template = environment.get_template("report.html")
    return template.render(sections=sections, names=names, palette=palette, max_aligned=MAX_ALIGNED)


def _write_files(out: str, section: Section) -> None:
    for plot in [*section.plots, *(sample.plot for sample in section.samples)]:
        _write(out, f"{plot.name}.svg", plot.svg)
        _write(out, f"{plot.name}.png", plot.png)
        _write(out, f"{plot.name}.json", plot.numbers)
    for table in section.tables:
        _write(out, f"{table.name}.json", to_json({"title": table.title, "head": table.head, "rows": table.rows}))


def _write(directory: str, name: str, data: bytes) -> None:
    with atomic_write(os.path.join(directory, name)) as partial, open(partial, "wb") as file:
        file.write(data)
