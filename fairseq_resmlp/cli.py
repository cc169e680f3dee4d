"""The command `fairseq-resmlp`: only what fairseq has no command for."""

import os
import sys
from typing import Tuple

import click

from .errors import InputError


class OneLineErrors(click.Group):
    """Ends with the message of a bad input, without a traceback."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except (InputError, OSError, UnicodeDecodeError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=OneLineErrors)
@click.version_option(package_name="fairseq-resmlp")
def main() -> None:
    """Sequence-to-sequence ResMLP: what fairseq has no command for.

    Training and translation are fairseq's own commands with --user-dir fairseq_resmlp.
    """


existing = click.Path(exists=True, dir_okay=False)


@main.command("spm-train")
@click.argument("files", nargs=-1, required=True, type=existing)
@click.option("--model", required=True, type=click.Path(dir_okay=False), help="File to write.")
@click.option("--vocab-size", default=8000, show_default=True, help="Number of pieces.")
def spm_train(files: Tuple[str, ...], model: str, vocab_size: int) -> None:
    """Learn one SentencePiece BPE model from the raw text FILES of both languages."""
    import sentencepiece

    partial = f"{model}.part"
    try:
        with open(partial, "wb") as out:
            sentencepiece.SentencePieceTrainer.train(
                input=list(files),
                model_writer=out,
                vocab_size=vocab_size,
                model_type="bpe",  # as in the paper's setup, which follows Ott et al. (2018)
                character_coverage=1.0,
                # fairseq's dictionary has its own <s> and </s>.
                bos_id=-1,
                eos_id=-1,
                minloglevel=2,
            )
    except RuntimeError as error:
        os.remove(partial)
        # SentencePiece's message begins with a place in its C++ source.
        reason = str(error).splitlines()[0].split("] ")[-1].strip()
        raise InputError(f"SentencePiece cannot learn {vocab_size} pieces from this text: {reason}") from error
    os.replace(partial, model)
    click.echo(f"{model}: {vocab_size} pieces from {', '.join(files)}")


@main.command("spm-encode")
@click.argument("files", nargs=-1, required=True, type=existing)
@click.option("--model", required=True, type=existing, help="SentencePiece model.")
@click.option("--out-dir", required=True, type=click.Path(file_okay=False), help="Folder for the encoded files.")
def spm_encode(files: Tuple[str, ...], model: str, out_dir: str) -> None:
    """Cut each of the raw text FILES into pieces, line by line, into a file of the same name in --out-dir."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=model)
    os.makedirs(out_dir, exist_ok=True)
    for file in files:
        target = os.path.join(out_dir, os.path.basename(file))
        if os.path.exists(target) and os.path.samefile(file, target):
            raise InputError(f"{target} would overwrite its own input: choose another --out-dir")
        lines = 0
        with open(file, encoding="utf-8", newline="\n") as source, open(
            f"{target}.part", "w", encoding="utf-8", newline="\n"
        ) as out:
            for line in source:
                out.write(" ".join(pieces.encode(line.rstrip("\r\n"), out_type=str)) + "\n")
                lines += 1
        os.replace(f"{target}.part", target)
        click.echo(f"{target}: {lines} lines")


if __name__ == "__main__":
    sys.exit(main())
