"""Options and helpers that several commands share."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

existing_file = click.Path(exists=True, dir_okay=False)
existing_directory = click.Path(exists=True, file_okay=False)
output_file = click.Path(dir_okay=False)


def max_lines_option(default: int) -> Decorator:
    """--max-lines, for commands that learn from text."""
    return click.option(
        "--max-lines",
        default=default,
        type=click.IntRange(min=1),
        show_default=True,
        help="Maximum number of lines; from longer text, evenly spaced lines are used. Memory grows with this number.",
    )


def threads_option() -> Decorator:
    """--threads, the number of threads of torch."""
    return click.option("--threads", type=click.IntRange(min=1), help="Number of CPU threads (default: all cores).")


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
