"""Commands for image models."""

import click

from fairseq_resmlp.cli.options import existing_file, output_file
from fairseq_resmlp.common.atomic_write import refuse_overwriting


@click.command("convert")
@click.argument("file", type=existing_file)
@click.argument("out", type=output_file)
@click.option("--to", type=click.Choice(["deit", "timm"]), help="Convert a checkpoint to weights with these names.")
def convert(file: str, out: str, to: str | None) -> None:
    """Convert published image weights to a checkpoint for fairseq's commands, or back with --to.

    FILE contains weights of ResMLP-S12, -S24, -S36 or -B24 as published by the authors (DeiT's repository) or by timm,
    or with --to a checkpoint of --arch resmlp_s12 and so on. Weights may be .safetensors files.
    """
    from fairseq_resmlp.vision.published_weights import convert as convert_file

    refuse_overwriting([out], [file])
    click.echo(f"{out}: {convert_file(file, out, to)}")


COMMANDS = (convert,)
