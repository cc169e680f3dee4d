"""The command group, and how all commands report errors."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from fairseq_resmlp import __version__
from fairseq_resmlp.cli import data, environment, evaluation, export, server, training, translate, vision
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.streams import open_closed_streams
from fairseq_resmlp.common.threads import set_thread_environment

RENAMED = {
    "collect": "collect was renamed to extract",
}
INTERRUPTED = 130  # exit status of a command that Ctrl + C has ended, as in shells
NO_ARGUMENTS: type[Exception] = getattr(click.exceptions, "NoArgsIsHelpError", click.exceptions.Exit)  # click < 8.2
UNEXPECTED = "This is a bug of fairseq-resmlp: report it with this traceback and the output of fairseq-resmlp doctor."
WRITE_ERRORS = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)  # of files, the writer adds the name
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # in messages of torch


class CommandGroup(click.Group):
    """A group whose commands report what users can fix in one line, and that knows the new names of renamed commands.

    Other errors keep their traceback, with a request to report them.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_closed_streams()
        set_thread_environment()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names contain any bytes, a locale few characters
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, context: click.Context) -> Any:
        with one_line_errors():
            return super().invoke(context)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in RENAMED:
            raise click.UsageError(RENAMED[args[0]])
        return super().resolve_command(context, args)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the errors that users can fix into a `click.ClickException` of one line."""
    try:
        yield
    except (click.exceptions.Exit, NO_ARGUMENTS, click.Abort, BrokenPipeError):
        raise  # for the last, the reader of a pipe has seen enough; click ends without a message
    except KeyboardInterrupt as error:
        raise click.exceptions.Exit(INTERRUPTED) from error
    except click.ClickException as error:
        error.message = in_one_line(error.message)  # type: ignore[misc]
        raise
    except Exception as error:
        message = cause(error)
        if message is None:
            error.add_note(UNEXPECTED)
            raise
        raise click.ClickException(in_one_line(message)) from error


def cause(error: Exception) -> str | None:
    """Return why a command failed, if users can fix it, or None if the error is a bug."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return _cause_in_system(error)
    if isinstance(error, UnicodeError):
        return f"invalid text: {error}"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _is_out_of_memory(str(error))):
        return "not enough memory: process fewer lines at a time, or use fewer --workers or a smaller --batch-size"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("fairseq_resmlp"):
        return (
            f"this command requires {error.name}, which is not installed: install fairseq-resmlp with its dependencies"
        )
    return None


def _cause_in_system(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {reason}"
    if error.errno in WRITE_ERRORS:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes what is left again when it exits
        return f"cannot write standard output: {reason}"
    return reason


def _is_out_of_memory(message: str) -> bool:
    return any(part in message for part in OUT_OF_MEMORY)


def in_one_line(message: str) -> str:
    """Escape line feeds and other control characters, which file names may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


@click.group(cls=CommandGroup)
@click.version_option(__version__, prog_name="fairseq-resmlp")
def main() -> None:
    """Sequence-to-sequence ResMLP: the commands that fairseq does not have.

    Train with fairseq-train --user-dir fairseq_resmlp. Translate with fairseq-generate, or faster and without fairseq
    with the export and translate commands.
    """


for module in (data, training, evaluation, export, translate, server, vision, environment):
    for command in module.COMMANDS:
        main.add_command(command)
