"""Commands that prepare training data."""

import json

import click

from fairseq_resmlp.cli.options import (
    Count,
    FiniteFloat,
    existing_file,
    max_lines_option,
    output_file,
    renamed_option,
)
from fairseq_resmlp.common.atomic_write import atomic_write, open_output, refuse_overwriting
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.threads import MAX_THREADS, available_cores


def _in_groups(words: tuple[str, ...], size: int, names: str) -> list[tuple[str, ...]]:
    if len(words) % size:
        raise InputError(f"{len(words)} arguments do not form groups of {names}")
    return [words[i : i + size] for i in range(0, len(words), size)]


@click.command("download")
@click.argument("files", nargs=-1, required=True, metavar="[URL CHECKSUM]...")
@click.option("--to", required=True, type=click.Path(file_okay=False), help="Directory for the files.")
@click.option("--mirror", help="Download every file from this address instead, by its name.")
def download(files: tuple[str, ...], to: str, mirror: str | None) -> None:
    """Download each URL into a directory, unless it exists, and verify its CHECKSUM.

    CHECKSUM is sha256:... or md5:..., or - if none is known. Interrupted downloads are continued.
    """
    from fairseq_resmlp.data.download import download_all

    pairs = [(url, checksum) for url, checksum in _in_groups(files, 2, "URL CHECKSUM")]
    download_all(pairs, to, mirror, click.echo)


@click.command("extract")
@click.argument("texts", nargs=-1, required=True, metavar="[SPLIT SOURCE TARGET]...")
@click.option("--languages", nargs=2, required=True, metavar="SOURCE TARGET", help="For example: en de.")
@click.option("--downloads", default=".", type=click.Path(file_okay=False), help="Directory of the archives.")
@click.option("--out-dir", required=True, type=click.Path(file_okay=False), help="Directory for SPLIT.LANGUAGE.")
def extract(texts: tuple[str, ...], languages: tuple[str, str], downloads: str, out_dir: str) -> None:
    """Extract the raw text of every split, from archives or local files, into one file per language.

    SOURCE and TARGET are text files, or ARCHIVE:PATH for a file inside an archive; .gz, .bz2, .xz and .sgm files are
    unpacked. In a document, both are FILE:COLUMN of a table (.tsv, .csv), or FILE:LANGUAGE (.tmx, .xlf). Several texts
    of one SPLIT are concatenated. SPLIT held-out N moves N sentences from train to SPLIT.
    """
    from fairseq_resmlp.data.corpus import extract_corpus

    groups = [(split, source, target) for split, source, target in _in_groups(texts, 3, "SPLIT SOURCE TARGET")]
    for split, count in extract_corpus(groups, languages, downloads, out_dir).items():
        click.echo(f"{split}: {count:,} pairs")


@click.command("spm-train")
@click.argument("files", nargs=-1, required=True, type=existing_file)
@click.option("--model", required=True, type=output_file, help="Output file.")
@click.option("--vocab-size", default=8000, type=Count(), show_default=True, help="Number of subwords.")
@max_lines_option(2_000_000)
def spm_train(files: tuple[str, ...], model: str, vocab_size: int, max_lines: int) -> None:
    """Train one SentencePiece BPE model on the raw text FILES of both languages."""
    from fairseq_resmlp.data.sentencepiece_files import train_sentencepiece

    refuse_overwriting([model], files)
    with atomic_write(model) as partial, open(partial, "wb") as out:
        lines = train_sentencepiece(files, out, vocab_size, max_lines)
    click.echo(f"{model}: {vocab_size} subwords from {lines:,} lines of {', '.join(files)}")


@click.command("spm-encode")
@click.argument("files", nargs=-1, required=True, type=existing_file)
@click.option("--model", required=True, type=existing_file, help="SentencePiece model.")
@click.option("--out-dir", required=True, type=click.Path(file_okay=False), help="Directory for the encoded files.")
@click.option("--clean", is_flag=True, help="FILES are the two sides of one text: drop unusable pairs, and report why.")
@click.option(
    "--max-length",
    default=250,
    type=Count(),
    show_default=True,
    help="With --clean: maximum number of tokens per side.",
)
@click.option(
    "--max-ratio",
    default=1.5,
    type=FiniteFloat(min=1),
    show_default=True,
    help="With --clean: maximum length ratio of the sides.",
)
@click.option(
    "--join-share",
    default=0.0,
    type=FiniteFloat(0, 1),
    help="With --clean: share of the pairs to join to lines of 2 to 4 neighbouring pairs.",
)
@click.option("--report", type=output_file, help="With --clean: JSON file for counts and time.")
@click.option("--workers", type=Count(max=MAX_THREADS), help="Number of processes (default: one per core).")
def spm_encode(
    files: tuple[str, ...],
    model: str,
    out_dir: str,
    clean: bool,
    max_length: int,
    max_ratio: float,
    join_share: float,
    report: str | None,
    workers: int | None,
) -> None:
    """Tokenize each of the raw text FILES, line by line, into a file of the same name in --out-dir.

    All lines are kept unless --clean is given. FILES are plain text; fairseq-resmlp extract reads other formats.
    """
    from fairseq_resmlp.data.cleaning import CleaningRules
    from fairseq_resmlp.data.sentencepiece_files import encode_to_directory, encoded_paths

    if report and not clean:
        raise InputError("--report requires --clean: without it, no pairs are dropped")
    if join_share and not clean:
        raise InputError("--join-share requires --clean: FILES must be the two sides of one text")
    if report:
        refuse_overwriting([report, *encoded_paths(files, out_dir)], [*files, model])
    cleaning = CleaningRules(max_length, max_ratio, join_share) if clean else None
    for done in encode_to_directory(files, out_dir, model, workers or available_cores(), cleaning):
        click.echo(f"{', '.join(done.targets)}: {done.lines:,} lines")
        for reason, count in done.dropped.most_common():
            click.echo(f"  dropped {count:,} pairs: {reason}")
        if join_share:
            click.echo(f"  joined {done.joined:,} pairs with their neighbours")
        if report:
            counts = {"kept": done.lines, "dropped": dict(done.dropped), "cpu_seconds": done.cpu_seconds}
            if join_share:
                counts["joined"] = done.joined
            with open_output(report) as out:
                json.dump(counts, out, indent=1)


@click.command("shortlist")
@click.argument("source", type=existing_file)
@click.argument("target", type=existing_file)
@click.option("--output", required=True, type=output_file, help="Output file, for fairseq-resmlp export --shortlist.")
@click.option(
    "--first",
    default=200,
    type=Count(min=0),
    show_default=True,
    help="Number of frequent target subwords that are always allowed.",
)
@click.option(
    "--best",
    default=50,
    type=Count(),
    show_default=True,
    help="Number of target subwords allowed per source subword.",
)
@renamed_option("--always", "--first")
@renamed_option("--each", "--best")
@max_lines_option(200_000)
def shortlist(source: str, target: str, output: str, first: int, best: int, max_lines: int) -> None:
    """Learn which target subwords may translate a source subword, to restrict the output layer to them.

    SOURCE and TARGET are the tokenized training text, as written by spm-encode.
    """
    from fairseq_resmlp.data.shortlist_learning import learn_shortlist, read_pairs

    refuse_overwriting([output], [source, target])
    pairs = read_pairs(source, target, max_lines)
    with open_output(output) as out:
        for subword, allowed in learn_shortlist(pairs, first, best):
            out.write(f"{subword}\t{' '.join(allowed)}\n")
    click.echo(f"{output}: from {len(pairs):,} pairs of lines")


COMMANDS = (download, extract, spm_train, spm_encode, shortlist)
