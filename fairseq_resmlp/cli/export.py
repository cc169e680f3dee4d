"""The command that exports models."""

import os

import click

from fairseq_resmlp.cli.options import (
    FiniteFloat,
    existing_directory,
    existing_file,
)


@click.command("export")
@click.argument("model", type=click.Path(exists=True))
@click.argument("out", type=click.Path())
@click.option("--data", type=existing_directory, help="Directory of dict.*.txt (default: found near MODEL).")
@click.option("--spm", type=existing_file, help="SentencePiece model (default: found near MODEL).")
@click.option(
    "--dtype",
    default="int8",
    type=click.Choice(["int8", "float32", "float16"]),
    show_default=True,
    help="Type of the matrices: int8 is the smallest and fastest on a CPU, float32 gives exactly the translations of "
    "fairseq-generate, float16 is for GPUs.",
)
@click.option("--shortlist", type=existing_file, help="Lexical shortlist, as written by fairseq-resmlp shortlist.")
@click.option(
    "--prune-mixing",
    default=0.0,
    type=FiniteFloat(0, 1),
    help="Zero the entries of each mixing matrix A smaller than this fraction of its largest, for example 0.05.",
)
def export(
    model: str, out: str, data: str | None, spm: str | None, dtype: str, shortlist: str | None, prune_mixing: float
) -> None:
    """Export a trained model to the directory OUT, for fairseq-resmlp translate, which needs no fairseq.

    MODEL is a run directory such as runs/multi30k.en-de/resmlp_small, whose averaged or best checkpoint is used, a
    directory with model.pt, or a checkpoint such as checkpoints/checkpoint_best.pt.
    """
    from fairseq_resmlp.model.export import export_model

    languages = export_model(model, out, data, spm, dtype, shortlist, prune_mixing)
    size = sum(entry.stat().st_size for entry in os.scandir(out))
    click.echo(f"{out}: {'-'.join(languages)}, {dtype}, {size / 1e6:,.1f} MB")


COMMANDS = (export,)
