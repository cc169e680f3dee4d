"""The tables of what `fairseq-resmlp bench` measured, as rows of cells, from its JSON.

scripts/results.py reads this file by itself, without fairseq and torch.
"""

from statistics import median
from typing import Any, Dict, List

Table = List[List[str]]


def speed(found: Dict[str, Any]) -> Table:
    """A head and a row for each ratio; tokens a second on a GPU alone, since those of a CPU are of one machine."""
    gpu = bool(found["machine"]["gpu"])
    head = ["", "against", "ratio, median (min to max)", "target", ""] + (["tokens a second"] if gpu else [])
    table = [head]
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


def breakdown(found: Dict[str, Any]) -> Table:
    """A head and a row for each thing that was profiled: shares of its time."""
    functions = list(found["breakdown"][0]["floor_fraction"]) if found["breakdown"] else []
    head = ["", "of", "matrix products", "other operators", "Python and dispatch"]
    table = [head + [f"products alone, by {name.rsplit('.', 1)[1]}" for name in functions]]
    for part in found["breakdown"]:
        shares = [part[name] / part["ms"] for name in ("matrix_ms", "other_ms", "python_ms")]
        shares += [part["floor_fraction"][name] for name in functions]
        table.append([part["what"], part["of"], *(f"{share:.0%}" for share in shares)])
    return table


def about(found: Dict[str, Any]) -> str:
    """One line on the pairs that were timed, the machine, the versions and the day."""
    machine, versions, settings = found["machine"], found["versions"], found["settings"]
    names = ("torch", "fairseq", "numpy", "ctranslate2", "fairseq-resmlp")
    told = [
        f"pairs timed: {settings['pairs']}",
        *([f"ResMLP with {settings['resmlp']}"] if settings.get("resmlp") else []),
        *([machine["gpu"]] if machine["gpu"] else []),
        f"{machine['cpu']} ({', '.join(machine['flags'])})",
        f"{machine['threads']} threads",
        *(f"{name} {versions[name]}" for name in names if versions[name]),
        found["date"][:10],
    ]
    return ", ".join(told)


def aligned(table: Table) -> str:
    """A table as text for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table)]
    return "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() + "\n" for row in table)
