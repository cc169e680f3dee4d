"""Check of a GPU: results equal to the CPU's, waits of the host, speed and memory. scripts/gpu_check.sh runs this file.

Each check compares the device with the CPU of the same machine. Speed and memory are those of models of base size with
random weights. Translations are compared with a small model that the check trains on the grammar corpus.
"""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from fairseq.logging import metrics

import systems
from bench import Benchmark
from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.common.atomic_write import atomic_write
from fairseq_resmlp.common.environment import environment_info
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference import Translator
from fairseq_resmlp.inference.network import check_device
from systems import FAIRSEQ_CRITERION, OWN_CRITERION, RESMLP, TRANSFORMER, Settings

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "fairseq_resmlp"
TINY = Settings(pairs=1, pause=0, shortest=0, d=32, hidden=64, layers=2, heads=2, vocabulary=300)
LENGTH = 28  # tokens of a sentence; 128 x 28 = 3,584
UPDATES, KILLED_AFTER = 300, 200  # of the small model

# Largest relative difference from the CPU's float32: of the loss, and of the gradient norm.
TOLERANCE = {"fp32": (1e-4, 1e-3), "amp": (5e-3, 5e-2), "bf16": (1e-2, 1e-1)}
# Least share of equal translations. Nearly equal scores can change places.
EQUAL = {"float32": 0.99, "float16": 0.95}
# Most waits of the host per update and per step of a search, as tests/robustness/test_cuda.py counts them.
WAITS = {"update": 6, "step of the inference engine": 2}

Result = dict[str, Any]


class Plan(NamedTuple):
    """What to check, and in which sizes."""

    device: str
    settings: Settings  # of speed and memory
    tokens: tuple[int, ...]  # per micro-batch
    batches: tuple[int, ...]  # of a search
    quick: bool

    @property
    def precisions(self) -> tuple[str, ...]:
        return ("fp32", "amp", "bf16") if self.device == "cuda" else ("fp32", "bf16")


def check_precisions(plan: Plan) -> Iterator[Result]:
    """Compare loss and gradient norm of one batch with the CPU's, in each precision."""
    settings = replace(plan.settings, device="cpu")
    sample = systems.make_batch(16, LENGTH, settings)
    for criterion in (FAIRSEQ_CRITERION, OWN_CRITERION):
        expected = first_update(settings, criterion, "fp32", sample)
        for precision in plan.precisions:
            found = first_update(replace(settings, device=plan.device), criterion, precision, sample)
            differences = [abs(a / b - 1) for a, b in zip(found, expected)]
            yield {
                "check": f"one update, {precision}, {criterion}",
                "passed": all(d <= bound for d, bound in zip(differences, TOLERANCE[precision])),
                "result": f"loss differs by {differences[0]:.1e}, gradient norm by {differences[1]:.1e}",
            }


def first_update(settings: Settings, criterion: str, precision: str, sample) -> tuple[float, float]:
    """Return the loss and the gradient norm of the first update, without dropout."""
    trainer = systems.make_trainer(RESMLP, settings, criterion, precision, ["--dropout", "0"])
    with metrics.aggregate() as logged:
        trainer.train_step([sample])
    return float(logged["loss"].avg), float(logged["gnorm"].avg)


def check_waits(plan: Plan) -> Iterator[Result]:
    """Count how often the host waits for the device, with torch's own detector."""
    sample = systems.make_batch(16, LENGTH, plan.settings)
    trainer = systems.make_trainer(RESMLP, plan.settings, OWN_CRITERION, "amp")
    network_search = systems.resmlp_search(plan.settings, "float16")
    source = systems.make_sentences(16, LENGTH, plan.settings)
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "update": (partial(trainer.train_step, [sample]), 1),
        "step of the inference engine": (partial(network_search, source, LENGTH), LENGTH),
    }
    for name, (run, count) in runs.items():
        run()
        waits = count_waits(run) / count
        yield {"check": f"waits per {name}", "passed": waits <= WAITS[name] + 0.5, "result": f"{waits:.1f}"}


def count_waits(run: Callable[[], object]) -> int:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def check_training_and_translations(plan: Plan) -> Iterator[Result]:
    """Train a small model, killed and resumed, and compare its translations with the CPU's."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        prepare_corpus(work, *(("600", "20", "50") if plan.quick else ("24000", "500", "500")))
        updates, killed_after = (30, 20) if plan.quick else (UPDATES, KILLED_AFTER)
        loss = train(plan, work, "undisturbed", updates)
        train(plan, work, "resumed", updates, kill_after=killed_after)
        resumed = train(plan, work, "resumed", updates)
        difference = abs(resumed / loss - 1)
        yield {
            "check": "training killed and resumed",
            # Sums on a GPU are not always in the same order.
            "passed": difference <= (0 if plan.device == "cpu" else 1e-2),
            "result": f"validation loss {resumed:.4f} bits, undisturbed {loss:.4f}",
        }
        yield from check_translations(plan, work)


def prepare_corpus(work: Path, train: str, valid: str, test: str) -> None:
    """Generate the demo's corpus with these numbers of sentences, and prepare it."""
    make_corpus = ROOT / "examples" / "grammar" / "make_corpus.py"
    run("python", make_corpus, work / "raw", "--train", train, "--valid", valid, "--test", test)
    raw, pieces = work / "raw", work / "pieces"
    texts = [raw / f"{split}.{language}" for split in ("train", "valid", "test") for language in ("en", "de")]
    run("fairseq-resmlp", "spm-train", *texts[:2], "--model", work / "spm.model", "--vocab-size", "300")
    run("fairseq-resmlp", "spm-encode", *texts, "--model", work / "spm.model", "--out-dir", pieces)
    prefixes = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", pieces / split)]
    run(
        *("fairseq-preprocess", "-s", "en", "-t", "de", *prefixes, "--joined-dictionary"),
        *("--destdir", work / "data-bin"),
    )


def run(*command: object, kill_when: Path | None = None) -> str:
    """Run a command of this environment and return its output.

    Args:
        kill_when: kill the command as soon as this file exists
    """
    words = [str(word) for word in command]
    words[0] = str(Path(sys.executable).with_name(words[0]))
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    ) as process:
        if kill_when is not None:
            while not kill_when.exists() and process.poll() is None:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that load data
        output = process.communicate()[0]
    if process.returncode and not (kill_when is not None and process.returncode == -signal.SIGKILL):
        raise InputError(f"{Path(words[0]).name} failed:\n{output[-2000:]}")
    return output


def train(plan: Plan, work: Path, name: str, updates: int, kill_after: int | None = None) -> float:
    """Train the small model. Returns the validation loss of the last checkpoint, in bits per token."""
    out = work / name
    run(
        *("fairseq-train", work / "data-bin", "--user-dir", PLUGIN, "--arch", "resmlp_tiny", "--share-all-embeddings"),
        *("--optimizer", "adagrad", "--lr", "0.1", "--lr-scheduler", "fixed", "--warmup-updates", "100"),
        *("--clip-norm", "1.0", "--criterion", OWN_CRITERION, "--label-smoothing", "0.1", "--max-tokens", "1000"),
        *("--max-update", updates, "--save-interval-updates", updates // 3, "--validate-interval-updates", updates),
        *("--no-epoch-checkpoints", "--seed", "1", "--save-dir", out),
        "--cpu" if plan.device == "cpu" else "--amp",
        kill_when=None if kill_after is None else out / f"checkpoint_1_{kill_after}.pt",
    )
    last = out / "checkpoint_last.pt"
    return read_checkpoint(str(last))["extra_state"]["val_loss"] if kill_after is None else 0.0


def check_translations(plan: Plan, work: Path) -> Iterator[Result]:
    """Compare the translations of the test set with those of fairseq-generate on the CPU in float32."""
    options = [work / "data-bin", "--user-dir", PLUGIN, "--path", work / "undisturbed" / "checkpoint_last.pt"]
    generate = ["fairseq-generate", *options, "--beam", "4", "--remove-bpe", "sentencepiece", "--max-tokens", "4000"]
    expected = translations(run(*generate, "--cpu"))
    on_device = ["--cpu"] if plan.device == "cpu" else []
    found = {"fairseq-generate": ("float32", translations(run(*generate, *on_device)))}
    if plan.device == "cuda":
        found["fairseq-generate --fp16"] = "float16", translations(run(*generate, "--fp16"))
    run(
        *("fairseq-resmlp", "export", work / "undisturbed" / "checkpoint_last.pt", work / "exported"),
        *("--data", work / "data-bin", "--spm", work / "spm.model", "--dtype", "float32"),
    )
    source = (work / "raw" / "test.en").read_text(encoding="utf-8").splitlines()
    engines = {"float32": ("float32", False)}
    if plan.device == "cuda":
        engines |= {"float16": ("float16", False), "float16, CUDA graphs": ("float16", True)}
    for name, (dtype, cuda_graphs) in engines.items():
        translator = Translator.load(work / "exported", device=plan.device, dtype=dtype, cuda_graphs=cuda_graphs)
        found[f"inference engine, {name}"] = dtype, [line.text for line in translator.translate_batch(source)]
    for name, (dtype, lines) in found.items():
        equal = sum(a == b for a, b in zip(lines, expected, strict=True)) / len(expected)
        yield {"check": f"translations of {name}", "passed": equal >= EQUAL[dtype], "result": f"{equal:.1%} equal"}


def translations(output: str) -> list[str]:
    """Return the translations in the output of fairseq-generate, in the order of the test set."""
    lines = [line[2:].split("\t") for line in output.splitlines() if line.startswith("H-")]
    return [text for _, text in sorted((int(number), text) for number, _, text in lines)]


def measure_training(plan: Plan) -> Iterator[Result]:
    """Measure words per second and peak memory of training, for each model, precision and size of micro-batches."""
    models = {
        "ResMLP, Aff": (RESMLP, FAIRSEQ_CRITERION, ""),
        "ResMLP, Aff, fused criterion": (RESMLP, OWN_CRITERION, ""),
        "ResMLP, LayerNorm": (RESMLP, FAIRSEQ_CRITERION, "--normalization layer"),
        "Transformer": (TRANSFORMER, FAIRSEQ_CRITERION, ""),
    }
    if plan.device == "cuda":  # compilation takes minutes on a CPU
        models["ResMLP, Aff, compiled"] = (RESMLP, FAIRSEQ_CRITERION, "--compile")
    precisions = plan.precisions[1:]
    for tokens, precision, (name, (arch, criterion, options)) in itertools.product(
        plan.tokens, precisions, models.items()
    ):
        settings = replace(plan.settings, resmlp=options)
        sample = systems.make_batch(tokens // LENGTH, LENGTH, settings)
        trainer = systems.make_trainer(arch, settings, criterion, precision)
        trainer.task.begin_epoch(1, trainer.get_model())  # compiles
        if plan.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rate = per_second(partial(trainer.train_step, [sample]), sample["ntokens"], settings)
        peak = torch.cuda.max_memory_allocated() if plan.device == "cuda" else None
        yield {"model": name, "precision": precision, "tokens": tokens, "words_per_second": rate, "peak_bytes": peak}
        del trainer


def measure_translation(plan: Plan) -> Iterator[Result]:
    """Measure words per second of beam search, in half precision on a GPU."""
    dtype = "float16" if plan.device == "cuda" else "float32"
    for count in plan.batches:
        source = systems.make_sentences(count, LENGTH, plan.settings)
        searches: dict[str, Callable[[], object]] = {}
        for cuda_graphs in (False, True) if plan.device == "cuda" else (False,):
            search = systems.resmlp_search(plan.settings, dtype, cuda_graphs)
            name = f"inference engine{', CUDA graphs' if cuda_graphs else ''}"
            searches[name] = partial(search, source, LENGTH)
        searches |= {
            "fairseq-generate": systems.fairseq_search(RESMLP, plan.settings, source, LENGTH),
            "fairseq-generate, Transformer": systems.fairseq_search(TRANSFORMER, plan.settings, source, LENGTH),
        }
        for name, search in searches.items():
            rate = per_second(search, count * LENGTH, plan.settings)
            yield {"search": name, "precision": dtype, "batch": count, "words_per_second": rate}


def per_second(run: Callable[[], object], count: int, settings: Settings) -> float:
    """Return how many of `count` things per call a function does in a second, after a warm-up."""
    run()
    run()
    settings.wait()
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < settings.shortest:
        run()
        settings.wait()
        calls += 1
    return calls * count / (time.perf_counter() - start)


@click.command(cls=Benchmark)
@click.option("--out", default=str(ROOT / "docs/measured/gpu.json"), type=click.Path(dir_okay=False))
@click.option("--device", default="cuda", type=click.Choice(["cpu", "cuda"]), show_default=True)
@click.option("--quick", is_flag=True, help="Tiny models, for tests.")
def main(out: str, device: str, quick: bool) -> None:
    """Check the GPU of this machine: results equal to the CPU's, waits of the host, speed and memory."""
    logging.disable(logging.INFO)  # fairseq's
    check_device(device)
    if device == "cpu" and not quick:
        raise InputError("--device cpu is only for checking the check itself: add --quick, or run bench.py on a CPU")
    settings = replace(TINY, device=device) if quick else Settings(device=device, shortest=3.0)
    plan = Plan(device, settings, (112,) if quick else (3_584, 14_336), (2,) if quick else (1, 16, 128), quick)
    info = environment_info(["torch", "fairseq", "numpy", "sentencepiece"])
    del info["command"]  # with paths of this machine
    click.echo(json.dumps({"versions": info["versions"], "machine": info["machine"]}))
    parts = [check_precisions, check_training_and_translations, measure_training, measure_translation]
    if device == "cuda":
        parts.insert(1, check_waits)
    results = []
    for part in parts:
        for result in part(plan):
            click.echo(json.dumps(result))
            results.append(result)
    failed = [result["check"] for result in results if not result.get("passed", True)]
    with atomic_write(out) as partial_file, open(partial_file, "w", encoding="utf-8") as file:
        json.dump({**info, "device": device, "results": results}, file, indent=1)
        file.write("\n")
    click.echo(f"{len(failed)} checks failed{': ' if failed else ''}{'; '.join(failed)}. Results: {out}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    main()
