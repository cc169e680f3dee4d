"""Speed and quality of translation from text to text: `fairseq-resmlp bench`.

Every measurement is a complete process, from its start to the written translation. The systems take turns, so that
other load on the machine affects all of them.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import fairseq_resmlp
from fairseq_resmlp.common.environment import environment_info, package_version
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.model_files import find_model_files
from fairseq_resmlp.evaluation.metrics import read_parallel, read_text, sacrebleu
from fairseq_resmlp.inference.model_format import SENTENCEPIECE, load_exported_model

PLUGIN = str(Path(fairseq_resmlp.__file__).parent)
BEAMS, BATCH = (4, 1), 64
WARM_UP = 10  # lines
PACKAGES = {"CTranslate2": "ctranslate2", "fairseq-interactive": "fairseq"}  # of each program
CTRANSLATE2_TYPES = ("int8", "float32")
SOURCE, OUTPUT = "{source}", "{output}"
TRANSLATE = "from fairseq_resmlp.cli.main import main; main()"
CTRANSLATE2 = "fairseq_resmlp.evaluation.ctranslate2_program"
INTERACTIVE = "from fairseq_cli.interactive import cli_main; cli_main()"
# Runs a command, and writes wall seconds, peak memory in MB and exit status. A process of its own, because the peak of
# a new process begins with the memory of the one that starts it.
MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
found = [time.perf_counter() - start, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)]
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""


@dataclass(frozen=True)
class System:
    """A command that translates a file.

    Args:
        name: label of the model
        program: inference engine, CTranslate2 or fairseq-interactive
        dtype: type of the matrices
        beam: beam size
        command: arguments of Python, with `SOURCE` and `OUTPUT` in place of the paths. fairseq-interactive writes to
            standard output instead
    """

    name: str
    program: str
    dtype: str
    beam: int
    command: list[str]


def make_systems(
    models: Sequence[str], converted: Sequence[str], runs: Sequence[str], threads: int
) -> tuple[list[System], str]:
    """Return the systems to compare, each with every beam size, and their target language.

    Args:
        models: exported models, measured in the type that they are stored in
        converted: models converted for CTranslate2, which use the SentencePiece model of the first of `models`
        runs: trained models for fairseq-interactive: run directories or checkpoints

    Raises:
        InputError: a directory is not a model of its kind, the models have different languages, or CTranslate2 is not
            installed
    """
    exported = [load_exported_model(model) for model in models]
    languages = exported[0].languages
    for path, model in zip(models, exported, strict=True):
        if model.languages != languages:
            raise InputError(f"{path} translates {'-'.join(model.languages)}, but {models[0]} {'-'.join(languages)}")
    systems = []
    for (path, model), beam in product(zip(models, exported, strict=True), BEAMS):
        command = ["-c", TRANSLATE, "translate", os.path.abspath(path), "--input", SOURCE, "--output", OUTPUT]
        command += ["--beam", str(beam), "--threads", str(threads), "--batch-size", str(BATCH)]
        systems.append(System(os.path.normpath(path), "inference engine", model.dtype, beam, command))
    if converted and package_version("ctranslate2") is None:
        raise InputError("--ctranslate2 requires CTranslate2: pip install 'fairseq-resmlp[bench]'")
    for path, dtype, beam in product(converted, CTRANSLATE2_TYPES, BEAMS):
        if not os.path.isfile(os.path.join(path, "model.bin")):
            raise InputError(f"--ctranslate2 {path} is not a CTranslate2 model, because it has no model.bin")
        command = ["-m", CTRANSLATE2, path, os.path.join(models[0], SENTENCEPIECE), SOURCE, OUTPUT]
        command += [dtype, str(beam), str(BATCH), str(threads)]
        systems.append(System(os.path.normpath(path), "CTranslate2", dtype, beam, command))
    for path, beam in product(runs, BEAMS):
        files = find_model_files(path)
        checkpoint = files.require_checkpoint()
        if files.dictionaries is None or files.sentencepiece is None:
            raise InputError(f"--fairseq {path}: dict.*.txt or the SentencePiece model not found there or above")
        command = ["-c", INTERACTIVE, files.dictionaries, "--path", checkpoint, "--user-dir", PLUGIN, "--cpu"]
        command += ["--source-lang", languages[0], "--target-lang", languages[1]]
        command += ["--bpe", "sentencepiece", "--sentencepiece-model", files.sentencepiece, "--input", SOURCE]
        command += ["--beam", str(beam), "--buffer-size", "1000000", "--batch-size", str(BATCH)]
        systems.append(System(os.path.normpath(path), "fairseq-interactive", "float32", beam, command))
    return systems, languages[1]


def measure(
    systems: Sequence[System],
    text: str,
    reference: str | None,
    language: str,
    threads: int,
    repeats: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Time each system `repeats` times in turn.

    Before that, each translates `WARM_UP` lines, so that its files are in memory, and a mistake is found early.

    Args:
        text, reference: paths of parallel files
        language: of the reference
        log: called with a line per round

    Returns:
        settings, versions, and per system the wall seconds of each round, words of the source per second (median), peak
        memory in MB, and sacreBLEU; in the types of JSON

    Raises:
        InputError: a system fails, or the files are not parallel
    """
    if reference is None:
        lines, references = read_text(text).lines, None
    else:
        source, target = read_parallel(text, reference)
        lines, references = source.lines, target.lines
        sacrebleu(references[:1], references[:1], language)  # fails now rather than after the first translation
    words = sum(len(line.split()) for line in lines)
    rows: list[dict[str, Any]] = [
        {"model": x.name, "program": x.program, "dtype": x.dtype, "beam": x.beam, "seconds": []} for x in systems
    ]
    for turn in range(1 + repeats):
        log(f"round {turn} of {repeats}" if turn else f"warm-up with {WARM_UP} lines")
        for system, row in zip(systems, rows, strict=True):
            given = lines if turn else lines[:WARM_UP]
            seconds, memory, translation = _run(system, given, threads)
            if len(translation) != len(given):
                raise InputError(f"{system.program}, {system.name}: {len(translation)} lines of {len(given)}")
            if turn == 0:
                continue
            row["seconds"].append(round(seconds, 3))
            row["memory_mb"] = round(memory)
            if references is not None and turn == 1:
                row["bleu"] = sacrebleu(translation, references, language)
    for row in rows:
        row["words_per_second"] = words / median(row["seconds"])
    settings = {"lines": len(lines), "words": words, "threads": threads, "repeats": repeats, "batch": BATCH}
    programs = {system.program for system in systems}
    packages = ["torch", *(package for program, package in PACKAGES.items() if program in programs)]
    found = {"settings": settings, "rows": rows, **environment_info(packages)}
    del found["command"]  # may contain private paths
    return found


def table(found: dict[str, Any]) -> str:
    """Return the measurements as aligned text, fastest first."""
    head = ["model", "program", "type", "beam", "words/s", "BLEU", "seconds", "memory (MB)"]
    rows = [
        [
            *(row["model"], row["program"], row["dtype"], str(row["beam"]), f"{row['words_per_second']:,.0f}"),
            f"{row['bleu']:.1f}" if "bleu" in row else "",
            *(f"{median(row['seconds']):.1f}", f"{row['memory_mb']:,}"),
        ]
        for row in sorted(found["rows"], key=lambda row: -row["words_per_second"])
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows])


def _run(system: System, lines: Sequence[str], threads: int) -> tuple[float, float, Sequence[str]]:
    """Run a system once. Returns wall seconds, peak memory in MB, and the translation."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with TemporaryDirectory() as temporary:
        source, output, report, said, errors = (
            os.path.join(temporary, name) for name in ("source", "output", "report", "said", "errors")
        )
        Path(source).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        command = [{SOURCE: source, OUTPUT: output}.get(word, word) for word in system.command]
        with open(said, "wb") as out, open(errors, "wb") as err:
            subprocess.run(
                [sys.executable, "-c", MEASURE, report, sys.executable, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                check=True,
            )
        seconds, memory, status = json.loads(Path(report).read_text(encoding="utf-8"))
        if status:
            reason = _reason(status, Path(errors).read_text("utf-8", "replace"))
            raise InputError(f"{system.program} with {system.name} failed: {reason}")
        if system.program != "fairseq-interactive":
            return seconds, memory, read_text(output).lines
        found = [line[2:].split("\t", 2) for line in Path(said).read_text("utf-8").split("\n") if line.startswith("D-")]
        return seconds, memory, [line for _, _, line in sorted(found, key=lambda fields: int(fields[0]))]


def _reason(status: int, errors: str) -> str:
    """Return why a command failed, in one line."""
    if status == -signal.SIGKILL:
        return "it was killed, perhaps because there was not enough memory"
    lines = [line.strip() for line in errors.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else f"exit status {status}"
