"""Commands that export models and translate with them."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import click

from fairseq_resmlp.cli.options import existing_directory, existing_file, progress_bar, threads_option
from fairseq_resmlp.common.atomic_write import open_output
from fairseq_resmlp.common.environment import available_cores
from fairseq_resmlp.common.errors import InputError

DTYPES = click.Choice(["int8", "float32", "float16"])


@click.command("export")
@click.argument("model", type=click.Path(exists=True))
@click.argument("out", type=click.Path())
@click.option("--data", type=existing_directory, help="Directory of dict.*.txt (default: that of MODEL).")
@click.option("--spm", type=existing_file, help="SentencePiece model (default: sentencepiece.bpe.model next to MODEL).")
@click.option(
    "--dtype",
    default="int8",
    type=DTYPES,
    show_default=True,
    help="Type of the matrices: int8 is the smallest and fastest on a CPU, float32 gives exactly the translations of "
    "fairseq-generate, float16 is for GPUs.",
)
@click.option("--shortlist", type=existing_file, help="Lexical shortlist, as written by fairseq-resmlp shortlist.")
@click.option(
    "--prune-mixing",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Zero the entries of each mixing matrix A smaller than this fraction of its largest, for example 0.05.",
)
def export(
    model: str, out: str, data: str | None, spm: str | None, dtype: str, shortlist: str | None, prune_mixing: float
) -> None:
    """Export a trained model to the directory OUT, for fairseq-resmlp translate, which needs no fairseq.

    MODEL is a checkpoint such as checkpoints/checkpoint_best.pt, or a directory with model.pt.
    """
    from fairseq_resmlp.model.export import export_model

    languages = export_model(model, out, data, spm, dtype, shortlist, prune_mixing)
    size = sum(entry.stat().st_size for entry in os.scandir(out))
    click.echo(f"{out}: {'-'.join(languages)}, {dtype}, {size / 1e6:,.1f} MB")


@click.command("translate")
@click.argument("model", type=existing_directory)
@click.option(
    "--input",
    "source",
    default="-",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="UTF-8 text file (default: standard input).",
)
@click.option(
    "--output",
    default="-",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Output file, written atomically (default: standard output).",
)
@click.option("--beam", default=4, type=click.IntRange(min=1), show_default=True, help="Beam size; 1 is greedy search.")
@click.option("--lenpen", default=1.0, show_default=True, help="Length penalty; above 1 favors longer translations.")
@click.option(
    "--max-len-a",
    default=0.0,
    show_default=True,
    help="A: maximum translation length A x + B in tokens, where x is the length of the longest source of the batch.",
)
@click.option("--max-len-b", default=200, type=click.IntRange(min=0), show_default=True, help="B: see --max-len-a.")
@click.option(
    "--batch-size", default=64, type=click.IntRange(min=1), show_default=True, help="Maximum sentences per batch."
)
@click.option(
    "--max-tokens", default=4096, type=click.IntRange(min=1), show_default=True, help="Maximum source tokens per batch."
)
@threads_option()
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--dtype", type=DTYPES, help="Type of the matrices (default: as exported; float16 on a GPU).")
def translate(
    model: str,
    source: str,
    output: str,
    threads: int | None,
    device: str,
    dtype: str | None,
    batch_size: int,
    max_tokens: int,
    **options: Any,
) -> None:
    """Translate text with MODEL, a directory written by fairseq-resmlp export: one output line per input line.

    Empty lines stay empty. Lines are read and written a few thousand at a time, because lines of similar length are
    translated together.
    """
    import torch

    from fairseq_resmlp.common.text import read_lines
    from fairseq_resmlp.inference.beam_search import SearchOptions
    from fairseq_resmlp.inference.network import check_device
    from fairseq_resmlp.inference.translator import WINDOW, Translator

    torch.set_num_threads(threads or available_cores())
    check_device(device)
    translator = Translator.load(
        model,
        dtype=dtype,
        device=device,
        options=SearchOptions(**options),
        batch_size=batch_size,
        max_tokens=max_tokens,
    )
    if source != "-" and os.path.exists(output) and os.path.samefile(source, output):
        raise InputError(f"{output} would overwrite its own input: choose another --output")
    lines = None
    if os.path.isfile(source) and sys.stderr.isatty():  # a pipe can be read only once
        with open(source, "rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    with ExitStack() as stack:
        advance = stack.enter_context(progress_bar(lines))
        out = stack.enter_context(open_output(output))
        for number, line in enumerate(translator.stream(read_lines(source, WINDOW), advance), 1):
            out.write(f"{line}\n")
            if number % WINDOW == 0:
                out.flush()


@click.command("serve")
@click.argument("models", nargs=-1, required=True, type=existing_directory)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all interfaces."
)
@click.option(
    "--port", default=7860, type=click.IntRange(0, 65535), show_default=True, help="Port; 0 for any free one."
)
@click.option(
    "--beam",
    default=4,
    type=click.IntRange(min=1),
    show_default=True,
    help="Beam size, and number of translations shown.",
)
@click.option(
    "--rate",
    default=30,
    type=click.IntRange(min=1),
    show_default=True,
    help="Maximum translations per minute for each client.",
)
@click.option("--examples", type=existing_file, help="Up to 8 example sentences, one per line (default: the demo's).")
@threads_option()
def serve(
    models: tuple[str, ...], host: str, port: int, beam: int, rate: int, examples: str | None, threads: int | None
) -> None:
    """Serve a web page that translates with MODELS, side by side.

    A model is a directory written by fairseq-resmlp export, or one with model.pt, such as demo/model.
    """
    import torch

    from fairseq_resmlp.common.text import read_lines
    from fairseq_resmlp.common.unique_names import unique_names
    from fairseq_resmlp.server import app

    torch.set_num_threads(threads or available_cores())
    sentences = next(read_lines(examples, app.MAX_EXAMPLES), []) if examples else None
    named = list(zip(models, unique_names(models), strict=True))
    app.serve(_as_exported(named), host, port, beam, rate, sentences)


def _as_exported(models: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Export each directory with model.pt to a temporary directory, which is deleted before the next model."""
    for path, name in models:
        if os.path.exists(os.path.join(path, "config.json")) or not os.path.exists(os.path.join(path, "model.pt")):
            yield path, name
            continue
        from fairseq_resmlp.model.export import export_model  # loads fairseq

        with tempfile.TemporaryDirectory() as temporary:
            exported = os.path.join(temporary, "model")
            export_model(path, exported, dtype="float32")
            yield exported, name


COMMANDS = (export, translate, serve)
