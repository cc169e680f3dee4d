"""Update the generated tables of README.md, docs/ and examples/ from the JSON files of the measurements.

    python scripts/update_tables.py [--check]

A Markdown file marks each generated block with two comments. The first one gives the kind of the block and its files,
as paths or glob patterns relative to the root of the repository:

    <!-- KIND FILE... -->
    <!-- end -->

    headline FILE...       summary table of the README, from files of compare_runs.py, benchmark/bench.py and
                           fairseq-resmlp bench
    quality FILE           models compared over their seeds, from compare_runs.py
    commands FILE          training commands of the rows of such a table
    curves FILE...         validation perplexity by number of updates, from files of compare_runs.py
    lengths FILE           BLEU by source length, from bleu_by_length.py
    scores FILE...         scores of evaluate.sh, from its scores.json files
    perplexity FILE        validation perplexity by epoch
    images FILE            accuracy of image models, from examples/fashion-mnist/table.py
    preparation FILE...    time and memory of data preparation, from measure_preparation.py
    promises FILE TEST...  guarantees that the given test files verify, from pytest --promises
    speed FILE             speed ratios, from benchmark/bench.py
    loads FILE...          speed ratios on an idle and on a busy machine, from benchmark/bench.py
    cpus FILE...           speed ratios on several CPUs, from benchmark/bench.py
    breakdown FILE         where the time goes, from benchmark/bench.py
    measured FILE          timings of alternatives, from benchmark/alternatives.py
    kernels FILE           kernels of a training update, from benchmark/kernels.py
    kernel-times FILE      time of Aff and of a compiled training step, from benchmark/kernels.py
    serve FILE             load test of the server, from benchmark/serve_load.py
    splitting FILE...      BLEU of joined lines, from measure_splitting.py
    joining FILE...        BLEU of joined lines by training text, from measure_splitting.py --label
    gpu FILE               check of a GPU, from benchmark/gpu_check.py
    threads FILE           time by number of threads and waiting policy, from benchmark/threads.py
    cold-start FILE        time and memory until the first translation, from benchmark/cold_start.py
    bench FILE             words per second and BLEU, from fairseq-resmlp bench
    report FILE            table of fairseq-resmlp report
    text FILE              contents of a text file
"""

import argparse
import importlib.util
import json
import re
import statistics
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load(path: str):
    """Load a Python file that imports nothing of the package, so that fairseq and torch are not needed."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark_tables = load("scripts/benchmark/tables.py")
SCORES = ("sacreBLEU", "chrF2", "tokenized BLEU", "compound-split tokenized BLEU")
WMT14_EN_FR_PAIRS = 36_000_000  # before cleaning
WIDTH = 120

# Rows of the headline table: label, and the model options of the speed measurement (None: not timed)
HEADLINE = {
    "transformer-pre-norm": ("Transformer, pre-norm (fairseq)", None),
    "linear": ("the paper's layer, A with Aff (`resmlp_small_linear`)", ""),
    "linear-layernorm": ("A with LayerNorm in place of Aff (`--normalization layer`)", None),
    "toeplitz-linear": (
        "A as one weight per offset plus one per entry, LayerNorm (`toeplitz_linear`)",
        "--token-mixing toeplitz_linear --normalization layer",
    ),
    "resmlp_small": (
        "**Toeplitz A, 16 heads, LayerNorm (`resmlp_small`)**",
        "--token-mixing toeplitz --mixing-heads 16 --normalization layer",
    ),
}
# Its speed measurements: as trained, and with the same criterion and matrix products in both models
TIMED_AS_TRAINED = "training step, 32 x 30 tokens, float32, fused_label_smoothed_cross_entropy"
TIMED_ALIKE = (
    "training step, 32 x 30 tokens, float32, label_smoothed_cross_entropy, torch.nn.functional.linear on both sides"
)
EXPORTED_MODELS = {"transformer-pre-norm": "transformer.ct2", "resmlp_small": "resmlp_small.int8"}
PAIRS = {"multi30k.en-de": "En-De", "multi30k.en-fr": "En-Fr"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is out of date")
    check = parser.parse_args().check
    stale = []
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]):
        text = page.read_text(encoding="utf-8")
        updated = BLOCK.sub(fill, text)
        if updated != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(updated, encoding="utf-8")
    if stale:
        print(f"{'out of date, run make tables' if check else 'updated'}: {', '.join(stale)}")
    sys.exit(bool(check and stale))


def fill(block) -> str:
    begin, kind, names, end = block.groups()
    files = []
    for name in names.split():
        found = sorted(ROOT.glob(name))
        if not found and kind != "gpu":  # there may not be one
            raise SystemExit(f"error: {name} not found (in a block of kind {kind})")
        files += found
    return begin + MAKE[kind](files) + end


def table(head, rows) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def caption(text: str) -> str:
    """Wrap the lines below a table."""
    return "\n" + textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def read_json(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))


def metadata_of(report) -> dict:
    """Return the --metadata of a scores.json file; version 0.1.0 called it records."""
    return report["metadata"] if "metadata" in report else report["records"]


def baseline_of(results) -> str | None:
    """Return the --baseline of a results.json file of compare_runs.py; version 0.1.0 called it against."""
    return results["baseline"] if "baseline" in results else results["against"]


def scores(files) -> str:
    rows, signatures = [], []
    for file in files:
        report = read_json(file)
        found = {score["name"]: score for score in report["scores"]}
        checkpoint, machine, metadata = report["checkpoint"], report["machine"], metadata_of(report)
        rows.append(
            [
                metadata["corpus"],
                checkpoint["options"]["model"]["_name"],
                f"{metadata['test']} ({report['lines']:,})",
                *(f"{found[name]['value']:.1f}" if name in found else "" for name in SCORES),
                f"{checkpoint['parameters'] / 1e6:.1f}M",
                f"{checkpoint['updates']:,}",
                f"{checkpoint['training_seconds'] / 60:.0f} min",
                machine["gpu"] or f"{machine['cpus']} cores, {machine['cpu']}",
            ]
        )
        signatures += [f"{name}: `{found[name]['signature']}`" for name in SCORES if name in found]
    head = ["corpus", "architecture", "test set (lines)", *SCORES]
    head += ["parameters", "updates", "training time", "scored on"]
    return table(head, rows) + caption("Signatures: " + ", ".join(dict.fromkeys(signatures)) + ".")


def preparation(files) -> str:
    rows, projections = [], []
    for file in files:
        report = read_json(file)
        for run in report["runs"]:
            for stage, figures in run["stages"].items():
                speed = figures.get("sentences_per_core_second")
                seconds, peak = f"{figures['seconds']:.0f}", f"{figures['peak_mb']:,.0f}"
                text = f"{report['text']}{' x ' + str(run['times']) if run['times'] > 1 else ''}"
                rows.append([text, f"{run['pairs']:,}", stage, seconds, peak, f"{speed:,.0f}" if speed else ""])
        small, large = report["runs"]
        # Of the single copy: with several copies the cache of words is hit more often.
        hours = 2 * WMT14_EN_FR_PAIRS / small["stages"]["spm-encode --clean"]["sentences_per_core_second"] / 3600
        # fairseq-preprocess has a fixed cost, and a cost proportional to the text.
        binarize = [run["stages"]["fairseq-preprocess"] for run in (small, large)]
        seconds_more, mb_more = (
            (binarize[1][what] - binarize[0][what]) / (large["pairs"] - small["pairs"]) * WMT14_EN_FR_PAIRS
            for what in ("seconds", "peak_mb")
        )
        projections.append(
            f"Projection to {WMT14_EN_FR_PAIRS / 1e6:.0f} million pairs of the average length of {report['text']}: "
            f"{hours:.1f} core hours to clean and encode; for fairseq-preprocess {seconds_more / 3600:.1f} hours on "
            f"{report['workers']} cores and {(binarize[1]['peak_mb'] + mb_more) / 1024:.1f} GB."
        )
    head = ("corpus", "pairs", "stage", "time (s)", "peak memory (MB)", "sentences/s per core")
    return table(head, rows) + "".join(map(caption, projections))


def perplexity(files) -> str:
    runs = [run for file in files for run in read_json(file)["runs"]]
    epochs = range(max(len(run["valid_ppl"]) for run in runs))
    rows = [
        [f"`{run['options']}`", *(f"{run['valid_ppl'][i]:.1f}" if i < len(run["valid_ppl"]) else "" for i in epochs)]
        for run in runs
    ]
    return table(["options", *(f"epoch {i + 1}" for i in epochs)], rows)


# Rows of the table of image models
IMAGES = {
    "linear": "the paper's layer, 4 x 4 patches (`resmlp_image_tiny`)",
    "none": "A = 0 (`--token-mixing none`)",
    "mlp": "two layers and a GELU in place of A (`--token-mixing mlp`)",
    "layernorm": "LayerNorm in place of Aff (`--normalization layer`)",
    "patch-7": "7 x 7 patches (`--patch-size 7`)",
    "patch-14": "14 x 14 patches (`--patch-size 14`)",
    "class-mlp": "class-MLP in place of the mean (`--pooling class_mlp`)",
    "convnet": "convolutional teacher (`convnet_tiny`)",
    "distilled": "the paper's layer, distilled from that teacher",
}


def images(files) -> str:
    (file,) = files
    results = read_json(file)
    found = {row["name"]: row for row in results["rows"]}
    rows = []
    for name, label in IMAGES.items():
        if name in found:
            runs, parameters = found[name]["runs"], f"{found[name]['parameters']:,}"
            values = [run["accuracy"] for run in runs]
            deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            accuracy = f"{statistics.mean(values):.1f}{deviation}"
            seconds = statistics.mean(run["cpu_seconds"] for run in runs)
            rows.append([label, accuracy, len(runs), parameters, f"{seconds:.0f}"])
    machine, versions = results["machine"], results["versions"]
    return table(["model", "test accuracy in %", "seeds", "parameters", "CPU seconds of training"], rows) + caption(
        f"Mean ± standard deviation over seeds. One thread of {machine['cpu']}, shared with other processes; torch "
        f"{versions['torch']}, {results['date'][:10]}."
    )


def promises(files) -> str:
    found = read_json(files[0])
    tests = [str(file.relative_to(ROOT)) for file in files[1:]]
    rows = []
    for promise, shown in sorted(found.items(), key=lambda item: item[1]["test"]):
        file, name = shown["test"].split("::")
        if file in tests:
            rows.append([promise, shown["figure"], f"`{name}`"])
    return table(["guarantee", "result", "test"], rows)


def measured(files) -> str:
    found = read_json(files[0])
    rows = found["rows"]
    versions = "".join(f", {name} {version}" for name, version in found["versions"].items())
    flags = f" ({', '.join(found['flags'])})" if "flags" in found else ""
    about = caption(f"{found['cpu']}{flags}, {found['threads']} threads{versions}, {found['date']}.")
    return table(list(rows[0]), [row.values() for row in rows]) + about


def kernels(files) -> str:
    """Return the kernels of a batch and of an update, of this version and of the one before."""
    found = read_json(files[0])
    rows = []
    for name in found["eager"]:
        for version, counted in (("before", found["before"]), ("now", found)):
            eager, compiled = counted["eager"][name], counted["compiled"].get(name)
            cells = [f"{eager['batch']:,}", f"{compiled + eager['criterion']:,}" if compiled else "–", eager["update"]]
            rows.append([name, version, *cells])
    head = ["model", "version", "forward and backward pass", "the same, compiled", "clipping and optimizer"]
    count, length = found["batch"]
    about = f"Kernels, {count} x {length} tokens, {', '.join(found['settings'])}, torch {found['versions']['torch']}, "
    return table(head, rows) + caption(f"{about}{found['date'][:10]}.")


def kernel_times(files) -> str:
    """Return the times of Aff and of a training step, and their ratios."""
    found = read_json(files[0])
    measured = [
        ("Aff, forward and backward pass", "torch.addcmul", found["affine"], "addcmul", "Aff"),
        ("training step, compiled", "eager", found["step"], "eager", "compiled"),
    ]
    rows = []
    for what, baseline, seconds, slow, fast in measured:
        ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
        times = [f"{1000 * statistics.median(seconds[name]):,.1f}" for name in (slow, fast)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([what, baseline, *times, spread])
    head = ["measurement", "baseline", "baseline (ms)", "time (ms)", "speedup, median (min to max)"]
    first, saved = found["step"]["first"], statistics.mean(seconds["eager"]) - statistics.mean(seconds["compiled"])
    about = (
        f"CPU time of 1 thread, {len(ratios)} pairs, {found['machine']['cpu']}, torch {found['versions']['torch']}, "
    )
    about += f"{found['date'][:10]}. The first compiled step took {first:,.0f} s, beside other processes"
    about += f": as long as {first / saved:,.0f} further steps save." if saved > 0 else "."
    return table(head, rows) + caption(about)


def headline(files) -> str:
    """Return five rows with BLEU of both language pairs, parameters, and speed of training and translation."""
    found = [read_json(path) for path in files]
    comparisons = {report["rows"][0]["runs"][0]["corpus"]: report for report in found if "settings" not in report}
    speeds = {report["settings"]["resmlp"]: report for report in found if "resmlp" in report.get("settings", {})}
    (translation,) = (report for report in found if "words" in report.get("settings", {}))
    by_pair = {pair: {row["name"]: row for row in comparisons[corpus]["rows"]} for corpus, pair in PAIRS.items()}

    def bleu(row) -> str:
        if row is None:
            return "–"
        deviation = row["bleu_deviation"]
        return f"{row['bleu']:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")

    def median(options, label) -> float:
        (value,) = (row["ratio"]["median"] for row in speeds[options]["rows"] if row["what"] == label)
        return value

    def ratio(options) -> str:
        if options not in speeds:
            return ""
        return f"{median(options, TIMED_AS_TRAINED):.1f} ({median(options, TIMED_ALIKE):.1f})"

    def words_per_second(name) -> str:
        if name not in EXPORTED_MODELS:
            return ""
        searched = EXPORTED_MODELS[name], "int8", 4
        (row,) = (row for row in translation["rows"] if (row["model"], row["dtype"], row["beam"]) == searched)
        return f"{row['words_per_second']:,.0f}"

    cells = []
    for name, (label, options) in HEADLINE.items():
        rows = [by_pair[pair].get(name) for pair in PAIRS.values()]
        seeds = ", ".join(str(len(row["runs"])) if row else "–" for row in rows)
        speed = "1 (post-norm)" if name == "transformer-pre-norm" else ratio(options)
        parameters = f"{rows[0]['parameters'] / 1e6:.2f}M"
        cells.append([label, *map(bleu, rows), seeds, parameters, speed, words_per_second(name)])
    head = ["", *(f"BLEU {pair}" for pair in PAIRS.values()), "seeds (De, Fr)", "parameters", "training speed"]
    head.append("words/s")

    first = comparisons["multi30k.en-de"]
    run, machine = first["rows"][0]["runs"][0], first["machine"]
    device = machine["gpu"] or f"a {machine['cpus']}-core CPU"
    post_norm = [by_pair[pair]["transformer"] for pair in PAIRS.values()]
    words, cores = translation["settings"]["words"], translation["machine"]["cpus"]
    vnni = "with" if "avx512_vnni" in translation["machine"]["flags"] else "without"
    about = (
        f"Multi30k {run['test']}, sacreBLEU (`{run['signature']}`), mean ± standard deviation over seeds. "
        f"{run['updates']:,} updates on {device} ({machine['cpu']}, torch {first['versions']['torch']}, "
        f"{first['date'][:10]}). The post-norm Transformer reaches {' and '.join(map(bleu, post_norm))}. "
        "Training speed is steps per second relative to fairseq's post-norm Transformer (float32, 32 x 30 tokens), "
        "ResMLP with this plugin's fused criterion; in parentheses, with fairseq's criterion and torch's matrix "
        f"products in both models. Words/s: En-De test2016 ({words:,} words), beam 4, int8, {cores} cores {vnni} "
        "AVX512-VNNI, including program start: the Transformer with CTranslate2, ResMLP with this package. "
        "**WMT14 has not been run yet.**"
    )
    return table(head, cells) + caption(about)


def quality(files) -> str:
    return quality_table(read_json(files[0]))


def quality_table(found) -> str:
    """Return a table with a row per model, averaged over its seeds; `found` is the output of compare_runs.py."""

    def spread(row, figure, digits=1):
        deviation = row[f"{figure}_deviation"]
        return f"{row[figure]:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation is not None else "")

    compared = [run for row in found["rows"] for run in row["runs"] if "difference" in run]
    baseline = baseline_of(found) if compared else None
    rows = []
    for row in found["rows"]:
        cells = {"model": row["name"], "seeds": len(row["runs"]), "sacreBLEU": spread(row, "bleu")}
        if baseline:
            runs = [run for run in row["runs"] if "difference" in run]
            mean = f"{sum(run['difference'] for run in runs) / len(runs):+.1f}" if runs else ""
            probabilities = ", ".join("–" if run["p"] is None else f"{run['p']:.3f}" for run in runs)
            updates = (f"{run['level_after']:,}" if run["level_after"] else "never" for run in runs)
            cells["difference (p)"] = mean and f"{mean} ({probabilities})"
            cells["updates to match"] = "; ".join(updates)
        cells["validation perplexity"] = spread(row, "valid_perplexity", 2)
        cells.update({"chrF2": spread(row, "chrf"), "parameters": f"{row['parameters'] / 1e6:.2f}M"})
        rows.append({**cells, "training time (s)": f"{row['seconds']:,.0f}"})
    run, machine = found["rows"][0]["runs"][0], found["machine"]
    about = f"{run['corpus']}, {run['test']}, `{run['signature']}`, {machine['gpu'] or machine['cpu']}"
    about += f", torch {found['versions']['torch']}, {found['date'][:10]}."
    if any(len(row["runs"]) > 1 for row in found["rows"]):
        about += " ±: standard deviation over seeds."
    if baseline:
        about += f" Difference: sacreBLEU compared with {baseline}, mean over common seeds; p: paired bootstrap"
        about += " resampling, per seed"
        if any(run["p"] is None for run in compared):
            about += "; –: no paired test, because the translations were not kept"
        about += ". Updates to match: number of updates until the validation perplexity was as low as that of "
        about += f"{baseline} at the end of training, per seed."
    return table(list(rows[0]), [row.values() for row in rows]) + caption(about)


def commands(files) -> str:
    return "```bash\n" + "\n".join(map(wrapped, commands_of(read_json(files[0])))) + "\n```\n"


def commands_of(found) -> list:
    """Return the training commands of the first seed of each row of a table."""
    return [command for row in found["rows"] for command in row["runs"][0]["commands"]]


def wrapped(command: str) -> str:
    """Wrap a shell command before its options, and long lists of files between the files."""
    lines = [""]
    for part in re.split(r"(?<!\\) (?=-)", command):
        if len(part) > WIDTH - 6:
            part = part.replace(":", ":\\\n")
        longer = f"{lines[-1]} {part}" if lines[-1] else part
        if len(longer) > WIDTH - 2 and lines[-1]:
            lines.append(f"    {part}")
        else:
            lines[-1] = longer
    return " \\\n".join(lines)


def curves(files) -> str:
    """Return the validation perplexity of the first seed of each row after each number of updates."""
    rows = [row for file in files for row in read_json(file)["rows"]]
    found = [dict(row["runs"][0]["curve"]) for row in rows]
    updates = sorted(set().union(*found))
    cells = [[f"{curve[update]:.1f}" if update in curve else "" for update in updates] for curve in found]
    head = ["updates", *(f"{update:,}" for update in updates)]
    return table(head, [[row["name"], *line] for row, line in zip(rows, cells, strict=True)])


def lengths(files) -> str:
    found = read_json(files[0])
    first, *others = found["rows"][0]["bleu"]

    def cell(row, name):
        difference = f" ({row['bleu'][name] - row['bleu'][first]:+.1f})" if name != first else ""
        length = f", {row['length'][name]:.0%}" if "length" in row else ""
        return f"{row['bleu'][name]:.1f}{difference}{length}"

    rows = [
        [row["text"], row["words"], f"{row['lines']:,}", *(cell(row, name) for name in (first, *others))]
        for row in found["rows"]
    ]
    head = ["text", "source words", "lines", first, *others]
    about = f"sacreBLEU (difference from {first})"
    if "length" in found["rows"][0]:
        about += ", and length of the translations in % of the length of the references"
    about += f". {found['machine']['cpu']}, torch {found['versions']['torch']}, {found['date'][:10]}."
    return table(head, rows) + caption(about)


def serve(files) -> str:
    """Return speed, latency, lost answers and memory of the server, with batching and without."""
    found = read_json(files[0])
    rows = []
    for name, label in (("batched", "with batching"), ("unbatched", "without")):
        run = found[name]
        lost = run["requests"] - run["answered"] + sum(run["problems"].values())
        latency = [f"{run[f'p{percent}_seconds']:.2f}" for percent in (50, 95)]
        first, *_, last = run["memory_mib"]
        speed = f"{run['sentences_per_second']:.1f}"
        rows.append([label, speed, *latency, f"{lost} of {run['requests']:,}", f"{first:.0f} to {last:.0f}"])
    head = ["server", "sentences/s", "p50 (s)", "p95 (s)", "lost or wrong answers", "memory (MiB)"]
    machine = f"{found['machine']['cpu']}, {found['machine']['cpus']} cores, also used by the clients"
    about = f"{found['ratio']:.1f} times the speed with batching. {found['batched']['clients']} clients"
    return table(head, rows) + caption(f"{about}. {machine}, torch {found['versions']['torch']}, {found['date'][:10]}.")


def splitting(files) -> str:
    """Return BLEU of joined lines, translated one by one, split into sentences, and as they are."""
    measured = [read_json(file) for file in files]
    ways = list(measured[0]["rows"][0]["bleu"])

    def cells(languages, row):
        return [languages, row["lines"], row["joined"], f"{row['count']:,}", *(f"{row['bleu'][w]:.1f}" for w in ways)]

    rows = [cells(found["languages"], row) for found in measured for row in found["rows"]]
    head = ["languages", "sentences", "per line", "lines", *ways]
    about = "; ".join(
        f"{found['languages']}: {found['machine']['cpu']}, torch {found['versions']['torch']}, {found['date'][:10]}"
        for found in measured
    )
    return table(head, rows) + caption(f"sacreBLEU on {measured[0]['text']}. {about}.")


def joining(files) -> str:
    """Return BLEU of single and of joined lines, as they are and split, for models with other training text."""
    measured = [read_json(file) for file in files]
    columns = [
        (
            "single lines" if row["joined"] == 1 else f"{row['joined']} joined{', split' if way == 'split' else ''}",
            i,
            way,
        )
        for i, row in enumerate(measured[0]["rows"])
        for way in ("not split", "split")
        if row["lines"] == "all lines" and (row["joined"] > 1 or way == "not split")
    ]
    rows = [[found["label"], *(f"{found['rows'][i]['bleu'][way]:.1f}" for _, i, way in columns)] for found in measured]
    about = measured[0]
    versions = f"torch {about['versions']['torch']}, {about['date'][:10]}"
    text = caption(f"sacreBLEU on {about['text']}, {about['languages']}. {about['machine']['cpu']}, {versions}.")
    return table(["training text", *(name for name, _, _ in columns)], rows) + text


def gpu(files) -> str:
    """Return the checks, and words per second of training and translation, of a GPU."""
    if not files:
        return "`scripts/gpu_check.sh` has not been run on a GPU yet.\n"
    found = read_json(files[0])
    checks, training, searches = (
        [row for row in found["results"] if name in row] for name in ("check", "peak_bytes", "search")
    )
    rows = [[row["check"], row["result"], "passed" if row["passed"] else "**failed**"] for row in checks]
    text = table(["check", "result", ""], rows) + "\n"
    rows = [
        [row["model"], row["precision"], f"{row['tokens']:,}", f"{row['words_per_second']:,.0f}", gibibytes(row)]
        for row in training
    ]
    head = ["training", "precision", "tokens per batch", "target tokens per second", "peak memory (GiB)"]
    text += table(head, rows) + "\n"
    rows = [[row["search"], row["precision"], row["batch"], f"{row['words_per_second']:,.0f}"] for row in searches]
    text += table(["beam search", "precision", "sentences", "target tokens per second"], rows)
    machine = found["machine"]
    return text + caption(
        f"{machine['gpu'] or machine['cpu']}, torch {found['versions']['torch']}, {found['date'][:10]}."
    )


def gibibytes(row) -> str:
    return "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f}"


def threads(files) -> str:
    """Return wall and CPU seconds of each command, alone and beside busy processes."""
    found = read_json(files[0])
    settings, machine = found["settings"], found["machine"]

    def cells(run):
        if run["wall"] < settings["limit"]:
            return [f"{run['wall']:.1f}", f"{run['cpu']:.1f}", f"{run['others']:.1f}"]
        return [f"over {settings['limit']:.0f}", "–", f"{run['others']:.1f}"]

    rows = [
        [row["command"], row["threads"], row["policy"] or "–", *cells(row["alone"]), *cells(row["beside"])]
        for row in found["rows"]
    ]
    head = ["command", "threads", "waiting"]
    head += [f"{place}: {what}" for place in ("alone", "beside") for what in ("wall (s)", "CPU (s)", "others")]
    most = max(row["alone"]["others"] for row in found["rows"])
    idle = "" if most < 0.1 else f" The machine was not idle: others of alone reaches {most:.1f}."
    about = (
        f"{settings['lines']:,} lines, {settings['updates']} updates. Beside: next to {settings['neighbours']} busy "
        f"process(es). Others: cores that all other processes of the machine kept busy on average.{idle} Commands were "
        f"ended after {settings['limit']:.0f} s. {machine['cpu']}, {machine['cpus']} cores, torch "
        f"{found['versions']['torch']}, {found['date'][:10]}, {settings['repeats']} run(s) each."
    )
    return table(head, rows) + caption(about)


def cold_start(files) -> str:
    """Return time and memory until the first translation, and the time of each part."""
    found = read_json(files[0])
    rows = []
    for row in found["rows"]:
        command, alone = row["command"], row["torch"]
        more = [f"{command['cpu'] - alone['cpu']:+.2f}", f"{command['memory'] - alone['memory']:+.0f}"]
        rows.append(
            [
                f"{row['name']}, {row['size_mb']:.0f} MB",
                *(f"{command[figure]:.2f}" for figure in ("wall", "cpu")),
                *(f"{alone['cpu']:.2f}", more[0], f"{command['memory']:.0f}", more[1]),
            ]
        )
    head = [
        "model",
        "wall time (s)",
        "CPU time (s)",
        "CPU time of importing torch (s)",
        "CPU time above that (s)",
        "peak memory (MB)",
        "memory above that of torch (MB)",
    ]
    parts = list(found["rows"][0]["parts"])
    steps = [[part, *(f"{row['parts'][part]['cpu']:.3f}" for row in found["rows"])] for part in parts]
    machine, names = found["machine"]["cpu"], [row["name"] for row in found["rows"]]
    about = f"Median of {found['repeats']} runs, 1 thread, {machine}, torch {found['versions']['torch']}, "
    return (
        table(head, rows)
        + "\n"
        + table(["part", *(f"CPU time, {name} (s)" for name in names)], steps)
        + caption(f"{about}{found['date'][:10]}.")
    )


def bench(files) -> str:
    """Return words per second and BLEU of complete translation commands, fastest first."""
    found = read_json(files[0])
    settings, machine = found["settings"], found["machine"]
    rows = [
        [
            *(row["model"], row["program"], row["dtype"], row["beam"]),
            f"{row['words_per_second']:,.0f}",
            f"{settings['words'] / max(row['seconds']):,.0f} to {settings['words'] / min(row['seconds']):,.0f}",
            *(f"{row['bleu']:.1f}" if "bleu" in row else "–", f"{row['memory_mb']:,}"),
        ]
        for row in sorted(found["rows"], key=lambda row: -row["words_per_second"])
    ]
    head = ["model", "program", "type", "beam", "words per second", "range", "sacreBLEU", "peak memory (MB)"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if name != "python")
    runs = "one run" if settings["repeats"] == 1 else f"median of {settings['repeats']} runs"
    return table(head, rows) + caption(
        f"{settings['lines']:,} lines with {settings['words']:,} words, {runs}, batches "
        f"of {settings['batch']} sentences, {settings['threads']} thread(s). {machine['cpu']} "
        f"({', '.join(machine['flags'])}), {versions}, {found['date'][:10]}."
    )


def report(files) -> str:
    found = read_json(files[0])
    return table(found["head"], found["rows"])


def text(files) -> str:
    return "```\n" + files[0].read_text(encoding="utf-8").rstrip("\n") + "\n```\n"


def speed(files) -> str:
    found = read_json(files[0])
    head, *rows = benchmark_tables.speed(found)
    notes = "".join(caption(f"{note}.") for note in found["notes"])
    return table(head, rows) + notes + caption(f"{benchmark_tables.about(found)}.")


def loads(files) -> str:
    return side_by_side([read_json(file) for file in files], benchmark_tables.load)


def cpus(files) -> str:
    return side_by_side([read_json(file) for file in files], benchmark_tables.cpu)


def side_by_side(runs, label) -> str:
    head, *rows = benchmark_tables.side_by_side(runs, label)
    return table(head, rows) + caption("; ".join(benchmark_tables.about(found) for found in runs) + ".")


def breakdown(files) -> str:
    head, *rows = benchmark_tables.breakdown(read_json(files[0]))
    return table(head, rows)


MAKE = {
    "headline": headline,
    "quality": quality,
    "commands": commands,
    "curves": curves,
    "lengths": lengths,
    "scores": scores,
    "perplexity": perplexity,
    "images": images,
    "preparation": preparation,
    "promises": promises,
    "speed": speed,
    "loads": loads,
    "cpus": cpus,
    "breakdown": breakdown,
    "measured": measured,
    "gpu": gpu,
    "kernels": kernels,
    "kernel-times": kernel_times,
    "serve": serve,
    "splitting": splitting,
    "joining": joining,
    "threads": threads,
    "cold-start": cold_start,
    "bench": bench,
    "report": report,
    "text": text,
}
BLOCK = re.compile(rf"(<!-- ({'|'.join(MAKE)}) ([^\n]+) -->\n).*?(<!-- end -->)", re.S)


if __name__ == "__main__":
    main()
