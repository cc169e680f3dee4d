"""Translation of files: lines of text, and documents."""

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TextIO

from fairseq_resmlp.cli.options import progress_bar
from fairseq_resmlp.common.atomic_write import atomic_write, open_output
from fairseq_resmlp.common.compression import SUFFIX, compressed_if_named_so
from fairseq_resmlp.common.text import read_lines
from fairseq_resmlp.data.documents import Document, Filled, Link
from fairseq_resmlp.inference.output_format import Format
from fairseq_resmlp.inference.translation import TranslationOptions
from fairseq_resmlp.inference.translator import WINDOW, Translator


class Statistics:
    """Lines and words translated since it was created."""

    def __init__(self) -> None:
        self.start, self.lines, self.words = time.perf_counter(), 0, 0

    def add(self, line: str) -> None:
        """Count a line."""
        self.lines += 1
        self.words += len(line.split())

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.start
        lines = f"{self.lines:,} line{'s' * (self.lines != 1)}"
        return (
            f"{lines}, {self.words:,} words in {seconds:.1f} s: {self.words / max(seconds, 1e-9):,.0f} words per second"
        )


def translate_lines(
    translator: Translator, options: TranslationOptions, source: str, output: str, format_lines: Format
) -> Statistics:
    """Translate a text file or standard input ("-") line by line, and write the result of `format_lines`."""
    statistics = Statistics()
    with ExitStack() as stack:
        advance = stack.enter_context(progress_bar(_count_lines(source)))
        out = stack.enter_context(_open_text(output))
        for number, translation in enumerate(translator.stream(read_lines(source, WINDOW), options, advance)):
            statistics.add(translation.source)
            out.writelines(f"{line}\n" for line in format_lines(number, translation))
            if statistics.lines % WINDOW == 0:
                out.flush()
    return statistics


def translate_document(
    translator: Translator, options: TranslationOptions, document: Document, output: str
) -> Statistics:
    """Add the missing translations of a document, and write it."""
    statistics, filled = Statistics(), []
    options = replace(options, alignments=document.has_markup)
    texts = document.texts
    windows = [texts[start : start + WINDOW] for start in range(0, len(texts), WINDOW)]
    with progress_bar(len(texts)) as advance:
        for translation in translator.stream(windows, options, advance):
            statistics.add(translation.source)
            links = translation.hypotheses[0].strongest_alignments()
            filled.append(Filled(translation.text, [Link(link.source, link.target) for link in links]))
    document.fill(filled)
    path = "/dev/stdout" if output == "-" else output
    with (
        atomic_write(path) as temporary,
        open(temporary, "wb") as file,
        compressed_if_named_so(output, file) as out,
    ):
        document.write(out)
    return statistics


@contextmanager
def _open_text(path: str) -> Iterator[TextIO]:
    """Open an output for text, compressed if its name ends in .gz."""
    if not path.endswith(SUFFIX):
        with open_output(path) as out:
            yield out
        return
    with (
        atomic_write(path) as temporary,
        open(temporary, "wb") as file,
        compressed_if_named_so(path, file) as compressed,
        io.TextIOWrapper(compressed, "utf-8", newline="\n") as out,
    ):
        yield out


def _count_lines(path: str) -> int | None:
    """Return the number of lines for the progress bar, or None if nobody sees it or counting them takes long."""
    if not (os.path.isfile(path) and sys.stderr.isatty()) or path.endswith(SUFFIX):
        return None
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
