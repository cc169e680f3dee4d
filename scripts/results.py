"""Fill the tables of README and docs from the JSON that the scripts wrote; with --check, only say which are stale.

    python scripts/results.py [--check]

A block between two comments of a Markdown file is made anew from the files that the first one names:

    <!-- scores FILE... -->        table of scores.json files of evaluate.sh
    <!-- preparation FILE... -->   table of measure_preparation.py
    <!-- perplexity FILE... -->    table of validation perplexities by epoch
    <!-- promises FILE TEST... --> table of what tests have shown (pytest --promises), of those of these files
    <!-- speed FILE -->            table of fairseq-resmlp bench
    <!-- breakdown FILE -->        table of where the time goes, of fairseq-resmlp bench
    <!-- measured FILE -->         table of one part of measure_alternatives.py
    <!-- quality FILE -->          table of ablate.sh
    <!-- commands FILE -->         how the rows of that table were trained
    <!-- curves FILE... -->        validation perplexities of such tables by updates
    <!-- lengths FILE -->          table of lengths.py
    <!-- report FILE -->           table of fairseq-resmlp report
    <!-- text FILE -->             the file itself
    <!-- end -->
"""

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load(name: str):
    """A module of the plugin that needs nothing of it: importing the plugin would need fairseq."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "fairseq_resmlp" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


speed_table = load("speed_table")
SCORES = ("sacreBLEU", "chrF2", "tokenized BLEU", "compound-split tokenized BLEU")
FRENCH_ENGLISH = 36_000_000  # pairs of WMT14 English-French, before cleaning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is out of date")
    check = parser.parse_args().check
    stale = []
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]):
        text = page.read_text(encoding="utf-8")
        made = BLOCK.sub(fill, text)
        if made != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(made, encoding="utf-8")
    if stale:
        print(f"{'out of date, run make results' if check else 'filled'}: {', '.join(stale)}")
    sys.exit(bool(check and stale))


def fill(block) -> str:
    begin, kind, names, end = block.groups()
    files = [path for name in names.split() for path in sorted(ROOT.glob(name))]
    if not files:
        raise SystemExit(f"error: there is no {names}")
    return begin + MAKE[kind](files) + end


def table(head, rows) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def scores(files) -> str:
    rows, signatures = [], []
    for file in files:
        report = json.loads(file.read_text(encoding="utf-8"))
        found = {score["name"]: score for score in report["scores"]}
        checkpoint, machine, records = report["checkpoint"], report["machine"], report["records"]
        rows.append(
            [
                *(
                    records["corpus"],
                    checkpoint["options"]["model"]["_name"],
                    f"{records['test']} ({report['lines']:,})",
                ),
                *(f"{found[name]['value']:.1f}" if name in found else "" for name in SCORES),
                f"{checkpoint['parameters'] / 1e6:.1f}M",
                f"{checkpoint['updates']:,}",
                f"{checkpoint['training_seconds'] / 60:.0f} min",
                machine["gpu"] or f"{machine['cpus']} cores, {machine['cpu']}",
            ]
        )
        signatures += [f"{name}: `{found[name]['signature']}`" for name in SCORES if name in found]
    head = ("corpus", "architecture", "test set (lines)", *SCORES, "parameters", "updates", "training", "scored on")
    return table(head, rows) + "\n" + " · ".join(dict.fromkeys(signatures)) + "\n"


def preparation(files) -> str:
    rows, projections = [], []
    for file in files:
        report = json.loads(file.read_text())
        for run in report["runs"]:
            for stage, figures in run["stages"].items():
                speed = figures.get("sentences_per_core_second")
                seconds, peak = f"{figures['seconds']:.0f}", f"{figures['peak_mb']:,.0f}"
                text = f"{report['text']}{' x ' + str(run['times']) if run['times'] > 1 else ''}"
                rows.append([text, f"{run['pairs']:,}", stage, seconds, peak, f"{speed:,.0f}" if speed else ""])
        small, large = report["runs"]
        # Of the text once: copies of it favour the cache of words.
        hours = 2 * FRENCH_ENGLISH / small["stages"]["spm-encode --clean"]["sentences_per_core_second"] / 3600
        # What fairseq-preprocess takes grows in proportion to the text, from what it takes to start.
        binarise = [run["stages"]["fairseq-preprocess"] for run in (small, large)]
        seconds_more, mb_more = (
            (binarise[1][what] - binarise[0][what]) / (large["pairs"] - small["pairs"]) * FRENCH_ENGLISH
            for what in ("seconds", "peak_mb")
        )
        projections.append(
            f"{FRENCH_ENGLISH / 1e6:.0f} million pairs as long as those of {report['text']}: {hours:.1f} hours of one "
            f"core to clean and encode, {seconds_more / 3600:.1f} hours of {report['workers']} cores and "
            f"{(binarise[1]['peak_mb'] + mb_more) / 1024:.1f} GB for fairseq-preprocess."
        )
    head = ("text", "pairs", "stage", "seconds", "peak memory (MB)", "sentences a second a core")
    return table(head, rows) + "\n" + "\n".join(projections) + "\n"


def perplexity(files) -> str:
    runs = [run for file in files for run in json.loads(file.read_text())["runs"]]
    epochs = range(max(len(run["valid_ppl"]) for run in runs))
    rows = [
        [f"`{run['options']}`", *(f"{run['valid_ppl'][i]:.1f}" if i < len(run["valid_ppl"]) else "" for i in epochs)]
        for run in runs
    ]
    return table(["options", *(f"epoch {i + 1}" for i in epochs)], rows)


def promises(files) -> str:
    found = json.loads(files[0].read_text(encoding="utf-8"))
    tests = [f"tests/{file.name}" for file in files[1:]]
    rows = []
    for promise, kept in sorted(found.items(), key=lambda item: item[1]["test"]):
        file, name = kept["test"].split("::")
        if file in tests:
            rows.append([promise, kept["figure"], f"`{name}`"])
    return table(["promise", "shown", "test"], rows)


def measured(files) -> str:
    found = json.loads(files[0].read_text(encoding="utf-8"))
    rows = found["rows"]
    versions = "".join(f", {name} {version}" for name, version in found["versions"].items())
    about = f"\n{found['cpu']}, {found['threads']} threads{versions}, {found['date']}\n"
    return table(list(rows[0]), [row.values() for row in rows]) + about


def quality(files) -> str:
    return quality_table(json.loads(files[0].read_text(encoding="utf-8")))


def quality_table(found) -> str:
    """Rows of configurations, each the mean over its seeds; `found` is what quality.py writes."""

    def spread(row, figure, digits=1):
        deviation = row[f"{figure}_deviation"]
        return f"{row[figure]:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation is not None else "")

    against = found["against"] if any("difference" in run for row in found["rows"] for run in row["runs"]) else None
    rows = []
    for row in found["rows"]:
        cells = {"": row["name"], "seeds": len(row["runs"]), "sacreBLEU": spread(row, "bleu")}
        if against:
            compared = [run for run in row["runs"] if "difference" in run]
            mean = f"{sum(run['difference'] for run in compared) / len(compared):+.1f}" if compared else ""
            probabilities = ", ".join("–" if run["p"] is None else f"{run['p']:.3f}" for run in compared)
            level = (f"{run['level_after']:,}" if run["level_after"] else "–" for run in compared)
            cells[f"against {against}"] = mean and f"{mean} (p {probabilities})"
            cells["level after updates"] = ", ".join(level)
        cells["valid perplexity"] = spread(row, "valid_perplexity", 2)
        cells.update({"chrF2": spread(row, "chrf"), "parameters": f"{row['parameters'] / 1e6:.2f}M"})
        rows.append({**cells, "seconds of training": f"{row['seconds']:,.0f}"})
    run, machine = found["rows"][0]["runs"][0], found["machine"]
    about = f"{run['corpus']}, {run['test']}, `{run['signature']}`, {machine['gpu'] or machine['cpu']}"
    about += f", torch {found['versions']['torch']}, {found['date'][:10]}"
    if against:
        about += f"; against {against}: the mean over common seeds, and the p of each by paired bootstrap"
        if any(run.get("p", 0) is None for row in found["rows"] for run in row["runs"]):
            about += ", – where the translations were not at hand together"
    return table(list(rows[0]), [row.values() for row in rows]) + f"\n{about}\n"


def commands(files) -> str:
    return commands_of(json.loads(files[0].read_text(encoding="utf-8")))


def commands_of(found) -> str:
    """How the first seed of each row of a table of ablate.sh was trained."""
    lines = [command for row in found["rows"] for command in row["runs"][0]["commands"]]
    return "```bash\n" + "\n".join(lines) + "\n```\n"


def curves(files) -> str:
    """Validation perplexity of the first seed of each row, after as many updates as it was validated at."""
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    found = [dict(row["runs"][0]["curve"]) for row in rows]
    updates = sorted(set().union(*found))
    cells = [[f"{curve[update]:.1f}" if update in curve else "" for update in updates] for curve in found]
    head = ["updates", *(f"{update:,}" for update in updates)]
    return table(head, [[row["name"], *line] for row, line in zip(rows, cells)])


def lengths(files) -> str:
    found = json.loads(files[0].read_text(encoding="utf-8"))
    first, *others = found["rows"][0]["bleu"]

    def cell(row, name):
        difference = f" ({row['bleu'][name] - row['bleu'][first]:+.1f})" if name != first else ""
        length = f", {row['length'][name]:.0%}" if "length" in row else ""
        return f"{row['bleu'][name]:.1f}{difference}{length}"

    rows = [
        [row["text"], row["words"], f"{row['lines']:,}", *(cell(row, name) for name in (first, *others))]
        for row in found["rows"]
    ]
    head = ["text", "words of the source", "lines", first, *others]
    what = f"sacreBLEU, and its difference from {first}"
    if "length" in found["rows"][0]:
        what = f"sacreBLEU, its difference from {first}, and the length of the translation as a part of the reference's"
    about = f"{found['machine']['cpu']}, torch {found['versions']['torch']}, {found['date'][:10]}"
    return table(head, rows) + f"\n{what}; {about}\n"


def report(files) -> str:
    found = json.loads(files[0].read_text(encoding="utf-8"))
    return table(found["head"], found["rows"])


def text(files) -> str:
    return "```\n" + files[0].read_text(encoding="utf-8").rstrip("\n") + "\n```\n"


def speed(files) -> str:
    found = json.loads(files[0].read_text(encoding="utf-8"))
    notes = "".join(f"\n{note}.\n" for note in found["notes"])
    head, *rows = speed_table.speed(found)
    return table(head, rows) + notes + "\n" + speed_table.about(found) + "\n"


def breakdown(files) -> str:
    head, *rows = speed_table.breakdown(json.loads(files[0].read_text(encoding="utf-8")))
    return table(head, rows)


MAKE = {
    "scores": scores,
    "preparation": preparation,
    "perplexity": perplexity,
    "promises": promises,
    "speed": speed,
    "breakdown": breakdown,
    "measured": measured,
    "quality": quality,
    "commands": commands,
    "curves": curves,
    "lengths": lengths,
    "report": report,
    "text": text,
}
BLOCK = re.compile(rf"(<!-- ({'|'.join(MAKE)}) ([^\n]+) -->\n).*?(<!-- end -->)", re.S)


if __name__ == "__main__":
    main()
