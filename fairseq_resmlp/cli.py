"""The command `fairseq-resmlp`: only what fairseq has no command for."""

import os
from contextlib import contextmanager
from typing import Iterator, Tuple

import click
import torch

from .average import average_checkpoints
from .errors import InputError


class OneLineErrors(click.Group):
    """Ends with the message of a bad input, without a traceback."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except (InputError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=OneLineErrors)
@click.version_option(package_name="fairseq-resmlp")
def main() -> None:
    """Sequence-to-sequence ResMLP: what fairseq has no command for.

    Training and translation are fairseq's own commands with --user-dir fairseq_resmlp.
    """


@contextmanager
def written_whole(path: str) -> Iterator[str]:
    """Give a temporary path that becomes `path` at the end, or is removed if the work fails."""
    partial = f"{path}.part"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


existing = click.Path(exists=True, dir_okay=False)


@main.command("spm-train")
@click.argument("files", nargs=-1, required=True, type=existing)
@click.option("--model", required=True, type=click.Path(dir_okay=False), help="File to write.")
@click.option("--vocab-size", default=8000, type=click.IntRange(min=1), show_default=True, help="Number of pieces.")
def spm_train(files: Tuple[str, ...], model: str, vocab_size: int) -> None:
    """Learn one SentencePiece BPE model from the raw text FILES of both languages."""
    import sentencepiece

    with written_whole(model) as partial, open(partial, "wb") as out:
        try:
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
            # SentencePiece's message begins with a place in its C++ source.
            reason = str(error).splitlines()[0].split("] ")[-1].strip()
            raise InputError(f"SentencePiece cannot learn {vocab_size} pieces from this text: {reason}") from error
    click.echo(f"{model}: {vocab_size} pieces from {', '.join(files)}")


@main.command("spm-encode")
@click.argument("files", nargs=-1, required=True, type=existing)
@click.option("--model", required=True, type=existing, help="SentencePiece model.")
@click.option("--out-dir", required=True, type=click.Path(file_okay=False), help="Folder for the encoded files.")
def spm_encode(files: Tuple[str, ...], model: str, out_dir: str) -> None:
    """Cut each of the raw text FILES into pieces, line by line, into a file of the same name in --out-dir."""
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=model)
    except RuntimeError as error:
        raise InputError(f"{model} is not a SentencePiece model") from error
    os.makedirs(out_dir, exist_ok=True)
    for file in files:
        target = os.path.join(out_dir, os.path.basename(file))
        if os.path.exists(target) and os.path.samefile(file, target):
            raise InputError(f"{target} would overwrite its own input: choose another --out-dir")
        with open(file, "rb") as source, written_whole(target) as partial, open(partial, "wb") as out:
            number = 0
            for number, line in enumerate(source, start=1):
                try:
                    text = line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise InputError(f"{file} is not UTF-8 in line {number}: {error.reason}") from error
                out.write((" ".join(pieces.encode(text, out_type=str)) + "\n").encode("utf-8"))
        click.echo(f"{target}: {number} lines")


@main.command("average")
@click.argument("checkpoints", nargs=-1, required=True, type=existing)
@click.option("--output", required=True, type=click.Path(dir_okay=False), help="Checkpoint to write.")
def average(checkpoints: Tuple[str, ...], output: str) -> None:
    """Average the parameters of CHECKPOINTS of one training, such as those of its last epochs."""
    with written_whole(output) as partial:
        torch.save(average_checkpoints(checkpoints), partial)
    click.echo(f"{output}: the mean of {len(checkpoints)} checkpoints")
