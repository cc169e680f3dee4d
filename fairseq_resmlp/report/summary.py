"""The first table of the report: one row per run."""

import os
from collections.abc import Sequence

from torch import nn

from fairseq_resmlp.evaluation.run_directory import RunDirectory
from fairseq_resmlp.evaluation.training_log import Curves

ACCURACY = "best validation accuracy"
HEAD = ["run", "corpus", "parameters", ACCURACY, "best validation perplexity", "BLEU", "updates"]


def summary_row(
    run: RunDirectory, curves: Curves, model: nn.Module | None, scores: Sequence[Sequence[str]]
) -> list[str]:
    """Return the cells of `HEAD` for a run. What its directory does not contain is an empty cell.

    Args:
        curves: training curves of the run
        model: its model, if it can be loaded
        scores: its rows of the table of scores, those of scores.json before those that the report measured
    """
    _, perplexities = curves.get("valid", {}).get("ppl", ([], []))
    _, accuracies = curves.get("valid", {}).get("accuracy", ([], []))
    updates = [step for metrics in curves.values() for steps, _ in metrics.values() for step in steps]
    bleu = next((f"{value}, {test}" for _, test, name, value, _ in scores if name == "sacreBLEU"), "")
    return [
        run.name,
        _corpus(run),
        f"{sum(weight.numel() for weight in model.parameters()):,}" if model else "",
        f"{max(accuracies):.1f}%" if accuracies else "",
        f"{min(perplexities):.2f}" if perplexities else "",
        bleu,
        f"{max(updates):,}" if updates else "",
    ]


def used_columns(rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return `HEAD` and the rows, without the column of accuracy if no run has one."""
    kept = [i for i, name in enumerate(HEAD) if name != ACCURACY or any(row[i] for row in rows)]
    return [HEAD[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _corpus(run: RunDirectory) -> str:
    """Return the name of the directory of the data, such as CORPUS of CORPUS/data-bin, unless it is the run itself."""
    if run.dictionaries is None:
        return ""
    data = os.path.realpath(run.dictionaries)
    home = os.path.dirname(data) if os.path.basename(data) == "data-bin" else data
    return "" if home == os.path.realpath(run.path) else os.path.basename(home)
