"""Speed and quality of translation from text to text: `fairseq-resmlp bench`.

Every measurement is a complete process, from its start to the written translation. The systems take turns, so that
other load on the machine affects all of them.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import fairseq_resmlp
from fairseq_resmlp.common.environment import environment_info, package_version
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.model_files import find_model_files
from fairseq_resmlp.evaluation.metrics import read_parallel, read_text, score

PLUGIN = str(Path(fairseq_resmlp.__file__).parent)
TYPES, BEAMS, BATCH = ("int8", "float32"), (4, 1), 64
TRANSLATE = "from fairseq_resmlp.cli.main import main; main()"
SOURCE, OUTPUT = "{source}", "{output}"
CTRANSLATE2 = "fairseq_resmlp.evaluation.ctranslate2_program"
INTERACTIVE = "from fairseq_cli.interactive import cli_main; cli_main()"


@dataclass(frozen=True)
class System:
    """A command that translates a file.

    Args:
        name: label of the model
        program: inference engine, CTranslate2 or fairseq
        dtype: type of the matrices
        beam: beam size
        command: arguments of Python, with `SOURCE` and `OUTPUT` in place of the paths
    """

    name: str
    program: str
    dtype: str
    beam: int
    command: list[str]


def exported_systems(path: str, threads: int) -> Iterator[System]:
    """Yield the inference engine with an exported model, in each type and beam size."""
    for dtype, beam in product(TYPES, BEAMS):
        command = [
            "-c",
            TRANSLATE,
            "translate",
            os.path.abspath(path),
            "--input",
            SOURCE,
            "--output",
            OUTPUT,
            "--dtype",
            dtype,
        ]
        command += ["--beam", str(beam), "--threads", str(threads), "--batch-size", str(BATCH)]
        yield System(_name(path), "inference engine", dtype, beam, command)


def ctranslate2_systems(path: str, sentencepiece: str, threads: int) -> Iterator[System]:
    """Yield CTranslate2 with a converted model, in each type and beam size.

    Raises:
        InputError: CTranslate2 is not installed, or the directory is not one of its models
    """
    if package_version("ctranslate2") is None:
        raise InputError("--ctranslate2 requires the package: pip install ctranslate2")
    if not os.path.isfile(os.path.join(path, "model.bin")):
        raise InputError(f"--ctranslate2 {path} is not a CTranslate2 model, because it has no model.bin")
    for dtype, beam in product(TYPES, BEAMS):
        command = ["-m", CTRANSLATE2, path, sentencepiece, SOURCE, OUTPUT, dtype, str(beam), str(threads)]
        yield System(_name(path), "CTranslate2", dtype, beam, command)


def fairseq_systems(path: str, languages: list[str]) -> Iterator[System]:
    """Yield fairseq-interactive with a trained model, with each beam size.

    Raises:
        InputError: files of the model are missing
    """
    files = find_model_files(path)
    checkpoint = files.require_checkpoint()
    if files.dictionaries is None or files.sentencepiece is None:
        raise InputError(f"--fairseq {path}: dict.*.txt or the SentencePiece model not found there or above")
    source, target = languages
    for beam in BEAMS:
        command = ["-c", INTERACTIVE, files.dictionaries, "--path", checkpoint, "--user-dir", PLUGIN, "--cpu"]
        command += ["--bpe", "sentencepiece", "--sentencepiece-model", files.sentencepiece, "--input", SOURCE]
        command += ["--beam", str(beam), "--buffer-size", "1000000", "--batch-size", str(BATCH)]
        command += ["--source-lang", source, "--target-lang", target]
        yield System(_name(path), "fairseq-interactive", "float32", beam, command)


def measure(
    systems: Sequence[System],
    text: str,
    reference: str | None,
    language: str,
    threads: int,
    repeats: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Time each system `repeats` times in turn, after a first round that is not timed.

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
    words = sum(len(line.split()) for line in lines)
    rows: list[dict[str, Any]] = [
        {"model": x.name, "program": x.program, "dtype": x.dtype, "beam": x.beam, "seconds": []} for x in systems
    ]
    with TemporaryDirectory() as temporary:
        output = os.path.join(temporary, "translation")
        for turn in range(1 + repeats):
            log(f"round {turn} of {repeats}{' (not timed)' if not turn else ''}")
            for system, row in zip(systems, rows, strict=True):
                seconds, memory, said = _run(system, text, output, threads)
                if turn:
                    row["seconds"].append(round(seconds, 3))
                    continue
                row["memory_mb"] = round(memory)
                translation = _translation(system, output, said)
                if len(translation) != len(lines):
                    raise InputError(f"{system.program}, {system.name}: {len(translation)} lines of {len(lines)}")
                if references is not None:
                    row["bleu"] = score(translation, references, language)[0].value
    for row in rows:
        row["words_per_second"] = words / median(row["seconds"])
    settings = {"lines": len(lines), "words": words, "threads": threads, "repeats": repeats, "batch": BATCH}
    found = {"settings": settings, "rows": rows, **environment_info(["torch", "fairseq", "ctranslate2"])}
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


def _run(system: System, text: str, output: str, threads: int) -> tuple[float, float, str]:
    """Run a system once. Returns wall seconds, peak memory in MB and standard output."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(output)
    command = [{SOURCE: os.path.abspath(text), OUTPUT: output}.get(word, word) for word in system.command]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with TemporaryFile() as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *command], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            assert process.stdout is not None
            said = process.stdout.read().decode("utf-8", "replace")
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            reason = errors.read().decode("utf-8", "replace").strip().split("\n")[-1]
            raise InputError(f"{system.program} with {system.name} failed: {reason}")
    return seconds, usage.ru_maxrss / 1024, said


def _translation(system: System, output: str, said: str) -> Sequence[str]:
    """Return the translated lines of a system in the order of the input."""
    if system.program != "fairseq-interactive":
        return read_text(output).lines
    found = [line[2:].split("\t", 2) for line in said.split("\n") if line.startswith("D-")]
    return [translation for _, _, translation in sorted(found, key=lambda fields: int(fields[0]))]


def _name(path: str) -> str:
    """Return a short name for a model: the last directory that is not a general one."""
    parts = Path(path).resolve().parts
    return next((part for part in reversed(parts) if part not in ("exported", "checkpoints")), path)
