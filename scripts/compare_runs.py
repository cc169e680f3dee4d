"""Compare trained models: one row per model, averaged over its seeds.

    python scripts/compare_runs.py DIRECTORY --test TEST --rows NAME ... [--baseline NAME] [--earlier FILE]

DIRECTORY contains NAME.SEED/TEST/scores.json, NAME.SEED/train.log and NAME.SEED/command, as written by
scripts/ablate.sh. The table is printed, and written to DIRECTORY/results.json with these values:

- per row: mean and standard deviation over the seeds of sacreBLEU and chrF2 on the test set, validation perplexity,
  number of parameters, and training time in seconds;
- per seed: the training commands, and the validation perplexity at each validation;
- per seed that the baseline has too: the difference in sacreBLEU, its p by paired bootstrap resampling, and the number
  of updates until the validation perplexity was as low as that of the baseline at the end of its training.

--earlier adds the seeds that DIRECTORY lacks from an earlier results.json. Two runs that were never scored
together have a difference but no p: the test needs both translations.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from update_tables import baseline_of, commands_of, metadata_of, quality_table

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.evaluation.metrics import compare, read_text
from fairseq_resmlp.evaluation.provenance import score_environment
from fairseq_resmlp.evaluation.run_directory import find_run
from fairseq_resmlp.evaluation.training_log import read_training_log

TEXTS = ("translation", "reference", "target_lang")  # needed to compare runs; not written to results.json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--test", required=True, help="name of the test set")
    parser.add_argument("--rows", nargs="+", required=True, metavar="NAME", help="models, in the order of the table")
    parser.add_argument("--baseline", metavar="NAME", help="row to compare the others with")
    parser.add_argument("--earlier", type=Path, metavar="FILE", help="results.json with runs that DIRECTORY lacks")
    args = parser.parse_args()
    if args.baseline and args.baseline not in args.rows:
        raise SystemExit(f"error: --baseline {args.baseline} is not one of the rows: {', '.join(args.rows)}")
    rows = [{"name": name, "runs": read_runs(args.directory, name, args.test)} for name in args.rows]
    if args.earlier:
        add_earlier(rows, json.loads(args.earlier.read_text(encoding="utf-8")), args.test, args.baseline)
    rows = [with_statistics(row) for row in rows if row["runs"]]
    if not rows:
        raise SystemExit(f"error: no scores on {args.test} found in {args.directory}; run scripts/ablate.sh first")
    baselines = {run["seed"]: run for row in rows if row["name"] == args.baseline for run in row["runs"]}
    for row in rows:
        for run in row["runs"]:
            baseline = baselines.get(run["seed"])
            if baseline and row["name"] != args.baseline:
                run.update(comparison(run, baseline))
    for run in (run for row in rows for run in row["runs"]):
        for text in TEXTS:
            run.pop(text, None)
    results = {"baseline": args.baseline, "rows": rows, **score_environment()}
    text = json.dumps(results, ensure_ascii=False, indent=1) + "\n"
    (args.directory / "results.json").write_text(text, encoding="utf-8")
    print(quality_table(results))
    print("```bash", *commands_of(results), "```", sep="\n")


def comparison(run: dict, baseline: dict) -> dict:
    """Compare a run with the baseline of the same seed; keep an earlier comparison of these two runs."""
    if "translation" in run and "translation" in baseline:
        found = compare(run["translation"], baseline["translation"], run["reference"], run["target_lang"])[0]
        difference, p = found.difference, found.p_value
    elif "translation" in baseline or "p" not in run:
        difference, p = run["bleu"] - baseline["bleu"], None
    else:
        difference, p = run["difference"], run["p"]
    last = baseline["curve"][-1][1] if baseline["curve"] else 0.0
    level_after = next((update for update, value in run["curve"] if value <= last), None)
    return {"difference": difference, "p": p, "level_after": level_after}


def add_earlier(rows: list, earlier: dict, test: str, baseline: str | None) -> None:
    """Add the runs of `earlier` on `test` whose seeds a row lacks."""
    found = {row["name"]: row["runs"] for row in earlier["rows"]}
    for row in rows:
        seeds = {run["seed"] for run in row["runs"]}
        for run in found.get(row["name"], []):
            if run["seed"] not in seeds and run["test"] == test:
                if baseline_of(earlier) != baseline:
                    run = {key: value for key, value in run.items() if key not in ("difference", "p", "level_after")}
                row["runs"].append(run)
        row["runs"].sort(key=lambda run: run["seed"])


def read_runs(directory: Path, name: str, test: str) -> list:
    """Read the evaluated seeds of a row."""
    runs = []
    seeds = (re.fullmatch(re.escape(name) + r"\.(\d+)", path.name) for path in directory.iterdir())
    for seed in sorted(int(match[1]) for match in seeds if match):
        file = directory / f"{name}.{seed}" / test / "scores.json"
        if file.exists():
            report = json.loads(file.read_text(encoding="utf-8"))
            translation = file.with_name(Path(report["hypotheses"]["file"]).name)
            scores = {score["name"]: score for score in report["scores"]}
            metadata = metadata_of(report)
            runs.append(
                {
                    "seed": seed,
                    "commands": existing(file.parents[1] / "command").read_text(encoding="utf-8").splitlines(),
                    "corpus": metadata["corpus"],
                    "test": metadata["test"],
                    "bleu": scores["sacreBLEU"]["value"],
                    "signature": scores["sacreBLEU"]["signature"],
                    "chrf": scores["chrF2"]["value"],
                    "valid_perplexity": float(metadata["valid_perplexity"]),
                    "curve": validation_curve(file.parents[1]),
                    "parameters": report["checkpoint"]["parameters"],
                    "updates": report["checkpoint"]["updates"],
                    "seconds": report["checkpoint"]["training_seconds"],
                    "target_lang": report["target_lang"],
                    "translation": scored_lines(translation, report["hypotheses"]),
                    "reference": scored_lines(Path(report["reference"]["file"]), report["reference"]),
                }
            )
    return runs


def with_statistics(row: dict) -> dict:
    """Add the mean and standard deviation over the runs to a row."""
    for figure in ("bleu", "chrf", "valid_perplexity", "parameters", "seconds"):
        values = [run[figure] for run in row["runs"]]
        row[figure] = mean(values)
        row[f"{figure}_deviation"] = stdev(values) if len(values) > 1 else None
    return row


def validation_curve(directory: Path) -> list:
    """Return (updates, perplexity) of each validation in the training log; empty if there were none."""
    existing(directory / "train.log")
    found = read_training_log(replace(find_run(str(directory)), events=[]))
    return list(zip(*found.get("valid", {}).get("ppl", ()), strict=True))


def scored_lines(path: Path, found: dict) -> Sequence[str]:
    """Return the lines of a file, which must have the checksum that was recorded when it was scored."""
    text = read_text(existing(path))
    if text.sha256 != found["sha256"]:
        raise SystemExit(f"error: {path} has changed since it was scored; run scripts/ablate.sh to score it again")
    return text.lines


def existing(path: Path) -> Path:
    """Return the path, or exit with an error if it does not exist."""
    if not path.exists():
        raise SystemExit(f"error: {path} not found; scripts/ablate.sh writes it")
    return path


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
