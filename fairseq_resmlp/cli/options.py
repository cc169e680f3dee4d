"""Options and helpers that several commands share."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import check_regular_file
from fairseq_resmlp.common.threads import MAX_THREADS

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

MAX_COUNT = 2**31 - 1  # the largest number that torch and SentencePiece accept everywhere


class RegularFile(click.Path):
    """An existing regular file. A pipe is accepted only from the shell, as in `score <(command)`, and if `pipes`."""

    def __init__(self, pipes: bool = False):
        super().__init__(exists=True, dir_okay=False)
        self.pipes = pipes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        try:
            check_regular_file(os.fsdecode(path), self.pipes)
        except InputError as error:
            self.fail(str(error), param, ctx)
        return path


class Count(click.IntRange):
    """An integer from `min` to `max`."""

    def __init__(self, min: int = 1, max: int = MAX_COUNT):
        super().__init__(min=min)  # the help shows no maximum that nobody reaches
        self.largest = max

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number > self.largest:
            self.fail(f"the number exceeds the maximum, {self.largest}.", param, ctx)
        return number


class FiniteFloat(click.FloatRange):
    """A number in a range that is neither infinite nor NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


existing_file = RegularFile()
existing_text = RegularFile(pipes=True)  # for commands that read it once
existing_directory = click.Path(exists=True, file_okay=False)
output_file = click.Path(dir_okay=False)


def max_lines_option(default: int) -> Decorator:
    """--max-lines, for commands that learn from text."""
    return click.option(
        "--max-lines",
        default=default,
        type=Count(),
        show_default=True,
        help="Maximum number of lines; from longer text, evenly spaced lines are used. Memory grows with this number.",
    )


def threads_option() -> Decorator:
    """--threads, the number of threads of torch."""
    return click.option(
        "--threads",
        type=Count(max=MAX_THREADS),
        help="Number of CPU threads (default: OMP_NUM_THREADS, else all available cores).",
    )


def renamed_option(old: str, new: str) -> Decorator:
    """A hidden option that ends with an error naming the new one."""

    def reject(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value not in (None, ()):
            raise click.UsageError(f"{old} was renamed to {new}")

    return click.option(old, hidden=True, expose_value=False, multiple=True, callback=reject)


@contextmanager
def progress_bar(length: int | None) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a progress bar on a terminal, and does nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    # Not an empty iterator: if the length is unknown, click would use that of the iterator, zero.
    with click.progressbar(iter(int, 1), length=length, label="lines", show_pos=True, file=sys.stderr) as bar:
        yield bar.update
