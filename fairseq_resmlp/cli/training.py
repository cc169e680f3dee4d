"""Commands that process checkpoints."""

import click

from fairseq_resmlp.cli.options import existing_file, output_file
from fairseq_resmlp.common.atomic_write import refuse_overwriting


@click.command("average")
@click.argument("checkpoints", nargs=-1, required=True, type=existing_file)
@click.option("--output", required=True, type=output_file, help="Checkpoint to write.")
def average(checkpoints: tuple[str, ...], output: str) -> None:
    """Average the parameters of CHECKPOINTS of one training run, for example of its last epochs."""
    from fairseq_resmlp.checkpoints.averaging import average_checkpoints
    from fairseq_resmlp.checkpoints.checkpoint_file import write_checkpoint

    refuse_overwriting([output], checkpoints)
    write_checkpoint(average_checkpoints(checkpoints), output)
    click.echo(f"{output}: average of {len(checkpoints)} checkpoints")


COMMANDS = (average,)
