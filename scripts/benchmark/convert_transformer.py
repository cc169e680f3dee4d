"""Convert a trained fairseq Transformer to the format of CTranslate2, for fairseq-resmlp bench --ctranslate2.

    python scripts/benchmark/convert_transformer.py RUN OUT [--shortlist FILE]

CTranslate2's own ct2-fairseq-converter refuses the checkpoints of fairseq, or runs any code that they contain with
--unsafe_deserialization. Here, fairseq-resmlp loads them.
"""

import os
from argparse import Namespace
from tempfile import TemporaryDirectory

import click
import torch

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.cli.main import one_line_errors
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.model_files import find_model_files
from systems import import_ctranslate2


@click.command()
@click.argument("run", type=click.Path(exists=True))
@click.argument("out", type=click.Path(exists=False))
@click.option("--shortlist", type=click.Path(exists=True, dir_okay=False), help="Target tokens of each source token.")
def main(run: str, out: str, shortlist: str | None) -> None:
    """Convert the Transformer in the directory or checkpoint RUN to the directory OUT."""
    with one_line_errors():
        files = find_model_files(run)
        if files.dictionaries is None:
            raise InputError(f"dict.*.txt not found in {files.home}, or in data-bin there or above")
        checkpoint = files.require_checkpoint()
        ctranslate2 = import_ctranslate2()
        state = read_checkpoint(checkpoint)
        args = state["cfg"]["model"]
        if "transformer" not in str(getattr(args, "arch", "")):
            raise InputError(f"{checkpoint} is not a Transformer of fairseq")
        if os.path.exists(out):
            raise InputError(f"{out} exists already: remove it, or choose another directory")
        with TemporaryDirectory() as directory, torch.serialization.safe_globals([Namespace]):
            plain = os.path.join(directory, "model.pt")
            torch.save({"args": args, "model": state["model"]}, plain)
            languages = (state["cfg"]["task"][f"{side}_lang"] for side in ("source", "target"))
            converter = ctranslate2.converters.FairseqConverter(plain, files.dictionaries, *languages)
            converter.convert(out, vmap=shortlist)


if __name__ == "__main__":
    main()
