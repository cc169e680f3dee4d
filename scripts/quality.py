"""Put the scores of trainings side by side: one row a configuration, over its seeds.

    python scripts/quality.py FOLDER --test TEST --rows NAME ... [--against NAME] [--earlier FILE]

FOLDER holds NAME.SEED/TEST/scores.json, NAME.SEED/train.log and NAME.SEED/command, as scripts/ablate.sh makes them. The
results are printed, and written to FOLDER/results.json: for each row mean and standard deviation over its seeds of
sacreBLEU and chrF2 on the test set and of the perplexity on the validation set, parameters, seconds of training; and,
of each seed, the commands and the validation perplexities of its training, and, beside the same seed of --against, the
difference in sacreBLEU with the p of the paired bootstrap, and the updates after which its perplexity was as low as the
other's at the end. --earlier adds the seeds that FOLDER lacks from an earlier results.json; two trainings that
were never scored together have a difference and no p, which needs both translations.
"""

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Optional

from results import commands_of, quality_table

from fairseq_resmlp import curves, run_folder
from fairseq_resmlp.errors import InputError
from fairseq_resmlp.score import compare, read_text, surroundings

TEXTS = ("translation", "reference", "target_lang")  # of a run whose folder is here; not for results.json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--test", required=True, help="name of the test set")
    parser.add_argument("--rows", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--against", metavar="NAME", help="the row that the others are compared with")
    parser.add_argument("--earlier", type=Path, metavar="FILE", help="results.json of trainings that are not in FOLDER")
    args = parser.parse_args()
    if args.against and args.against not in args.rows:
        raise SystemExit(f"error: --against {args.against} is none of the rows: {', '.join(args.rows)}")
    rows = [{"name": name, "runs": read_runs(args.folder, name, args.test)} for name in args.rows]
    if args.earlier:
        add_earlier(rows, json.loads(args.earlier.read_text(encoding="utf-8")), args.test, args.against)
    rows = [summed_up(row) for row in rows if row["runs"]]
    if not rows:
        raise SystemExit(f"error: {args.folder} has no scores on {args.test} yet: scripts/ablate.sh makes them")
    others = {run["seed"]: run for row in rows if row["name"] == args.against for run in row["runs"]}
    for row in rows:
        for run in row["runs"]:
            other = others.get(run["seed"])
            if other and row["name"] != args.against:
                run.update(beside(run, other))
    for run in (run for row in rows for run in row["runs"]):
        for text in TEXTS:
            run.pop(text, None)
    results = {"against": args.against, "rows": rows, **surroundings()}
    text = json.dumps(results, ensure_ascii=False, indent=1) + "\n"
    (args.folder / "results.json").write_text(text, encoding="utf-8")
    print(quality_table(results))
    print(commands_of(results))


def beside(run: dict, other: dict) -> dict:
    """How a run stands beside another of its seed; what both were earlier stays."""
    if "translation" in run and "translation" in other:
        found = compare(run["translation"], other["translation"], run["reference"], run["target_lang"])[0]
        difference, p = found.difference, found.p_value
    elif "translation" in other or "p" not in run:
        difference, p = run["bleu"] - other["bleu"], None
    else:
        difference, p = run["difference"], run["p"]
    last = other["curve"][-1][1] if other["curve"] else 0.0
    level_after = next((update for update, value in run["curve"] if value <= last), None)
    return {"difference": difference, "p": p, "level_after": level_after}


def add_earlier(rows: list, earlier: dict, test: str, against: Optional[str]) -> None:
    """Add the runs on `test` of seeds that a row lacks."""
    found = {row["name"]: row["runs"] for row in earlier["rows"]}
    for row in rows:
        seeds = {run["seed"] for run in row["runs"]}
        for run in found.get(row["name"], []):
            if run["seed"] not in seeds and run["test"] == test:
                if earlier["against"] != against:
                    run = {key: value for key, value in run.items() if key not in ("difference", "p", "level_after")}
                row["runs"].append(run)
        row["runs"].sort(key=lambda run: run["seed"])


def read_runs(folder: Path, name: str, test: str) -> list:
    """What the seeds of a row have reached so far."""
    runs = []
    seeds = (re.fullmatch(re.escape(name) + r"\.(\d+)", path.name) for path in folder.iterdir())
    for seed in sorted(int(match[1]) for match in seeds if match):
        file = folder / f"{name}.{seed}" / test / "scores.json"
        if file.exists():
            report = json.loads(file.read_text(encoding="utf-8"))
            translation = file.with_name(Path(report["hypotheses"]["file"]).name)
            scores = {score["name"]: score for score in report["scores"]}
            runs.append(
                {
                    "seed": seed,
                    "commands": there(file.parents[1] / "command").read_text(encoding="utf-8").splitlines(),
                    "corpus": report["records"]["corpus"],
                    "test": report["records"]["test"],
                    "bleu": scores["sacreBLEU"]["value"],
                    "signature": scores["sacreBLEU"]["signature"],
                    "chrf": scores["chrF2"]["value"],
                    "valid_perplexity": float(report["records"]["valid_perplexity"]),
                    "curve": curve(file.parents[1]),
                    "parameters": report["checkpoint"]["parameters"],
                    "updates": report["checkpoint"]["updates"],
                    "seconds": report["checkpoint"]["training_seconds"],
                    "target_lang": report["target_lang"],
                    "translation": scored(translation, report["hypotheses"]),
                    "reference": scored(Path(report["reference"]["file"]), report["reference"]),
                }
            )
    return runs


def summed_up(row: dict) -> dict:
    """A row with mean and standard deviation over its runs."""
    for figure in ("bleu", "chrf", "valid_perplexity", "parameters", "seconds"):
        values = [run[figure] for run in row["runs"]]
        row[figure] = mean(values)
        row[f"{figure}_deviation"] = stdev(values) if len(values) > 1 else None
    return row


def curve(folder: Path) -> list:
    """(updates, perplexity) of each validation, if there were any, as the log of the training has them."""
    there(folder / "train.log")
    found = curves.read(replace(run_folder.find(str(folder)), events=[]))
    return list(zip(*found.get("valid", {}).get("ppl", ())))


def scored(path: Path, found: dict) -> list:
    """The lines of a file, which must be those that `found` tells of."""
    text = read_text(there(path))
    if text.sha256 != found["sha256"]:
        raise SystemExit(f"error: {path} is not the text that was scored: scripts/ablate.sh scores it again")
    return text.lines


def there(path: Path) -> Path:
    if not path.exists():
        raise SystemExit(f"error: there is no {path}: scripts/ablate.sh makes what stands in a table")
    return path


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
