"""Tables of the benchmark's JSON files, as rows of cells.

scripts/update_tables.py loads this file, so it imports neither fairseq nor torch.
"""

import math
from collections import Counter
from collections.abc import Callable
from itertools import chain
from statistics import median
from typing import Any

Table = list[list[str]]


def speed(found: dict[str, Any]) -> Table:
    """Return a header and a row per ratio. Tokens per second are shown only for GPUs."""
    gpu = bool(found["machine"]["gpu"])
    head = ["measurement", "baseline", "ratio, median (min to max)", "target", ""]
    table = [head + (["tokens per second"] if gpu else [])]
    for row in found["rows"]:
        ratio, target = row["ratio"], row["target"]
        cells = [row["what"], row["against"], f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"]
        if target:
            cells += [f"{target['bound']} {target['value']:g}", "reached" if row["reached"] else "not reached"]
        else:
            cells += ["", ""]
        if gpu:
            timed = row["part"] in ("train", "generate")
            cells.append(f"{row['tokens'] / median(row['measured'][row['below']]):,.0f}" if timed else "")
        table.append(cells)
    return table


def side_by_side(runs: list[dict[str, Any]], label: Callable[[dict[str, Any]], str]) -> Table:
    """Return a header with the label of each run, and a row per ratio that at least two runs have."""
    ratios = [{row["what"]: row["ratio"] for row in found["rows"]} for found in runs]

    def cell(ratio: dict[str, float] | None) -> str:
        return "{median:.2f} ({min:.2f} to {max:.2f})".format(**ratio) if ratio else "–"

    shared = [what for what, count in Counter(chain(*ratios)).items() if count > 1]
    rows = [[what, *(cell(found.get(what)) for found in ratios)] for what in shared]
    return [["measurement", *map(label, runs)], *rows]


def load(found: dict[str, Any]) -> str:
    """Return the number of busy processes during a run, and how its threads waited for each other."""
    count, waiting = found["settings"].get("neighbours", 0), found["waiting"]
    place = f"beside {count} busy process{'es' * (count > 1)}" if count else "alone"
    spins = waiting.get("GOMP_SPINCOUNT")
    policy = waiting.get("OMP_WAIT_POLICY", f"{int(spins):,} spins" if spins else "default").lower()
    return f"{place}, {policy}"


def cpu(found: dict[str, Any]) -> str:
    """Return the CPU of a run with its newest vector instructions, and the version of the package."""
    machine = found["machine"]
    return f"{machine['cpu']} with {machine['flags'][-1]}, version {found['versions']['fairseq-resmlp']}"


def breakdown(found: dict[str, Any]) -> Table:
    """Return a header and a row per profiled run, with its multiply-adds and the shares of its time."""
    functions = list(found["breakdown"][0]["floor_fraction"]) if found["breakdown"] else []
    head = ["measurement", "model", "multiply-adds (billions)"]
    head += ["matrix products", "other operators", "Python and dispatch"]
    table = [head + [f"matrix products alone, {name.rsplit('.', 1)[1]}" for name in functions]]
    for part in found["breakdown"]:
        shares = [part[name] / part["ms"] for name in ("matrix_ms", "other_ms", "python_ms")]
        shares += [part["floor_fraction"].get(name) for name in functions]
        multiply_adds = sum(math.prod(product.values()) for product in part["products"]) / 1e9
        cells = ["–" if share is None else f"{share:.0%}" for share in shares]
        table.append([part["what"], part["of"], f"{multiply_adds:.0f}", *cells])
    return table


def about(found: dict[str, Any]) -> str:
    """Return one line with the number of pairs, the machine, the versions and the date."""
    machine, versions, settings = found["machine"], found["versions"], found["settings"]
    names = ("torch", "fairseq", "numpy", "ctranslate2", "fairseq-resmlp")
    parts = [
        f"{settings['pairs']} pairs",
        *([f"ResMLP with {settings['resmlp']}"] if settings.get("resmlp") else []),
        *([machine["gpu"]] if machine["gpu"] else []),
        f"{machine['cpu']} ({', '.join(machine['flags'])})",
        f"{machine['threads']} threads",
        *([f"beside {settings['neighbours']} busy process(es)"] if settings.get("neighbours") else []),
        *(f"{name}={value}" for name, value in found.get("waiting", {}).items()),
        *(f"{name} {versions[name]}" for name in names if versions[name]),
        found["date"][:10],
    ]
    return ", ".join(parts)


def aligned(table: Table) -> str:
    """Return a table as text for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
    return "".join(f"{line.rstrip()}\n" for line in lines)
