"""The command group, and how all commands report errors."""

from typing import Any

import click

from fairseq_resmlp import __version__
from fairseq_resmlp.cli import data, environment, evaluation, inference, training
from fairseq_resmlp.common.errors import InputError

RENAMED = {
    "collect": "collect was renamed to extract",
    "bench": "bench is not part of the installed package: in a checkout of the repository, run `make bench` or "
    "`python scripts/benchmark/bench.py`",
}


class OneLineErrors(click.Command):
    """A command that reports invalid input in one line, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise  # the reader of a pipe has seen enough; click ends without a message
        except (InputError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("fairseq_resmlp"):
                raise
            raise click.ClickException(
                f"this command requires {error.name}, which is not installed: install fairseq-resmlp with its "
                "dependencies"
            ) from error


class CommandGroup(OneLineErrors, click.Group):
    """A group that reports the new name of a renamed command."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in RENAMED:
            raise click.UsageError(RENAMED[args[0]])
        return super().resolve_command(context, args)


@click.group(cls=CommandGroup)
@click.version_option(__version__, prog_name="fairseq-resmlp")
def main() -> None:
    """Sequence-to-sequence ResMLP: the commands that fairseq does not have.

    Train with fairseq-train --user-dir fairseq_resmlp. Translate with fairseq-generate, or faster and without fairseq
    with the export and translate commands.
    """


for module in (data, training, evaluation, inference, environment):
    for command in module.COMMANDS:
        main.add_command(command)
