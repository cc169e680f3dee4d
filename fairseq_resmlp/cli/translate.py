"""The command that translates files."""

import os
from typing import Any

import click

from fairseq_resmlp.cli.exported_models import exported_model, files_of_model
from fairseq_resmlp.cli.options import Count, threads_option
from fairseq_resmlp.common.atomic_write import refuse_overwriting
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.garbage_collection import import_without_garbage_collection
from fairseq_resmlp.common.threads import MAX_THREADS, default_threads

DTYPES = click.Choice(["int8", "float32", "float16"])


@click.command("translate")
@click.argument("model", type=click.Path(exists=True))
@click.option(
    "--input",
    "source",
    default="-",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="UTF-8 text, or a document: .tsv, .csv, .tmx, .xlf; also with .gz (default: standard input).",
)
@click.option(
    "--output",
    default="-",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Output file, written atomically (default: standard output).",
)
@click.option(
    "--format",
    "output_format",
    default="text",
    type=click.Choice(["text", "jsonl", "tsv"]),
    show_default=True,
    help="Translations as lines of text, as a JSON object per input line, or as source, tab and translation.",
)
@click.option("--n-best", default=1, type=Count(), show_default=True, help="Translations per line, at most --beam.")
@click.option("--scores", is_flag=True, help="Add the score of each translation.")
@click.option("--alignments", is_flag=True, help="Add word alignments: pairs of source and target word, from 0.")
@click.option(
    "--split-sentences/--no-split-sentences",
    default=None,
    help="Translate each sentence of a line by itself (default: only in documents).",
)
@click.option("--source-column", help="Column of a .tsv or .csv with the texts: a name in its first line, or a number.")
@click.option("--target-column", help="Column of a .tsv or .csv for the translations, likewise.")
@click.option("--beam", default=4, type=Count(), show_default=True, help="Beam size; 1 is greedy search.")
@click.option(
    "--lenpen",
    default=1.0,
    show_default=True,
    help="Length penalty; above 1 favors longer translations.",
)
@click.option(
    "--max-len-a",
    default=0.0,
    show_default=True,
    help="A: maximum translation length A x + B in tokens, where x is the length of the longest source of the batch.",
)
@click.option("--max-len-b", default=200, type=Count(min=0), show_default=True, help="B: see --max-len-a.")
@click.option("--batch-size", default=64, type=Count(), show_default=True, help="Maximum sentences per batch.")
@click.option("--max-tokens", default=4096, type=Count(), show_default=True, help="Maximum source tokens per batch.")
@threads_option()
@click.option(
    "--workers",
    type=Count(max=MAX_THREADS),
    help="On a CPU, batches translated at the same time if there are twice as many, at most one per thread. They share "
    "the threads.  [default: 2]",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--dtype", type=DTYPES, help="Type of the matrices (default: as exported; float16 on a GPU).")
@click.option(
    "--cuda-graphs", is_flag=True, help="On a GPU, launch the kernels of a decoding step at once (not run yet)."
)
def translate(
    model: str,
    source: str,
    output: str,
    output_format: str,
    scores: bool,
    split_sentences: bool | None,
    source_column: str | None,
    target_column: str | None,
    threads: int | None,
    workers: int | None,
    device: str,
    dtype: str | None,
    cuda_graphs: bool,
    batch_size: int,
    max_tokens: int,
    **options: Any,
) -> None:
    """Translate text with MODEL, a directory written by fairseq-resmlp export: one output line per input line.

    MODEL may also be a run directory, a directory with model.pt, or a checkpoint, which is exported each time.
    Empty lines stay empty. Lines are read and written a few thousand at a time, because lines of similar length are
    translated together. At the end, the number of lines and the speed are written to standard error.

    A document remains as it is, except that translations are added where they are missing.
    """
    with import_without_garbage_collection():
        from fairseq_resmlp.cli.file_translation import translate_document, translate_lines
        from fairseq_resmlp.data.documents import document_type, read_document
        from fairseq_resmlp.data.plain_text import check_plain_text
        from fairseq_resmlp.inference.network import check_device
        from fairseq_resmlp.inference.output_format import make_format
        from fairseq_resmlp.inference.translation import TranslationOptions
        from fairseq_resmlp.inference.translator import Translator

    kind = document_type(source)
    search = TranslationOptions(**options, split_sentences=bool(kind) if split_sentences is None else split_sentences)
    refuse_overwriting([output], [source, *files_of_model(model)])
    if kind:
        if output_format != "text" or scores or search.n_best > 1 or search.alignments:
            raise InputError(f"--format, --n-best, --alignments and --scores are for text, but {source} is a document")
        if document_type(output) not in (None, kind):
            raise InputError(f"{output} would have the format of the input: choose a name that ends in .{kind}")
    elif source_column or target_column:
        raise InputError("--source-column and --target-column require a table as --input: .tsv or .csv")
    elif document_type(output) not in (None, "tsv"):
        raise InputError(
            f"{output} would not have the format of its name, because the input is text: choose .txt or .tsv"
        )
    elif os.path.isfile(source):
        check_plain_text(source)
    check_device(device)
    with exported_model(model) as exported:
        translator = Translator.load(
            exported,
            threads=threads or default_threads(),
            workers=workers,
            device=device,
            dtype=dtype,
            max_batch=batch_size,
            max_tokens=max_tokens,
            cuda_graphs=cuda_graphs,
        )
    if kind:
        document = read_document(source, translator.languages, source_column, target_column)
        statistics = translate_document(translator, search, document, output)
    else:
        format_lines = make_format(output_format, search.n_best, search.alignments, scores)
        statistics = translate_lines(translator, search, source, output, format_lines)
    click.echo(statistics, err=True)


COMMANDS = (translate,)
