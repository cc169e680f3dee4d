"""Commands that evaluate models."""

import json
from contextlib import nullcontext

import click

from fairseq_resmlp.cli.exported_models import files_of_model
from fairseq_resmlp.cli.options import (
    Count,
    existing_directory,
    existing_file,
    existing_text,
    output_file,
    renamed_option,
    threads_option,
)
from fairseq_resmlp.common.atomic_write import open_output, refuse_overwriting
from fairseq_resmlp.common.threads import default_threads


@click.command("score")
@click.argument("hypotheses", type=existing_text)
@click.option("--reference", required=True, type=existing_text, help="Reference translations, parallel to HYPOTHESES.")
@click.option("--target-lang", required=True, help="Language of both files; de adds compound-split BLEU.")
@click.option("--baseline", type=existing_text, help="Output of another system, for a paired bootstrap test.")
@click.option("--json", "json_file", type=output_file, help="File for scores, hashes and versions.")
@click.option("--checkpoint", type=existing_file, help="With --json: the model, to record its hash and options.")
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="With --json: a string, for example a command.")
@click.option("--metadata-json", multiple=True, metavar="NAME=FILE", help="With --json: the content of a JSON file.")
@renamed_option("--against", "--baseline")
@renamed_option("--record", "--metadata")
@renamed_option("--record-json", "--metadata-json")
def score(
    hypotheses: str,
    reference: str,
    target_lang: str,
    baseline: str | None,
    json_file: str | None,
    checkpoint: str | None,
    metadata: tuple[str, ...],
    metadata_json: tuple[str, ...],
) -> None:
    """Score the translations in HYPOTHESES: plain detokenized text, one sentence per line."""
    from fairseq_resmlp.evaluation import metrics, provenance

    if not json_file and (checkpoint or metadata or metadata_json):
        raise click.UsageError("--checkpoint, --metadata and --metadata-json require --json")
    if json_file:
        files = [pair.partition("=")[2] for pair in metadata_json]
        refuse_overwriting([json_file], [hypotheses, reference, *filter(None, (baseline, checkpoint)), *files])
    added = provenance.read_metadata(metadata, metadata_json)
    system, references, *others = metrics.read_parallel(hypotheses, reference, *([baseline] if baseline else []))
    other = others[0] if others else None
    scores = metrics.score(system.lines, references.lines, target_lang)
    comparisons = metrics.compare(system.lines, other.lines, references.lines, target_lang) if other else []
    if json_file:
        report = provenance.score_report(system, references, other, scores, comparisons, target_lang, checkpoint, added)
        with open_output(json_file) as out:
            out.write(provenance.to_json(report))
    click.echo(metrics.table(scores, comparisons, baseline, metrics.paper_remark(added.get("corpus"))))
    reason = metrics.why_not_tokenized(target_lang)
    if reason:
        click.echo(f"\nNo tokenized BLEU: {reason}.")


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True), metavar="RUN...")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Directory for index.html and its plots.")
@click.option(
    "--sentences",
    default=200,
    type=Count(min=0),
    show_default=True,
    help="Number of test and validation sentences for sample translations and pruning; 0 omits both.",
)
@click.option("--no-pruning", is_flag=True, help="Omit the pruning curves, which take most of the time.")
def report(runs: tuple[str, ...], out: str, sentences: int, no_pruning: bool) -> None:
    """Show what trained models have learned on one page of plots, OUT/index.html, which needs no network.

    A RUN is a directory that scripts/train.sh and evaluate.sh or make demo have written, for example
    runs/multi30k.en-de/resmlp_small or demo/linear, or a checkpoint in it. Several are compared. The page omits what a
    run lacks, and explains how to obtain it. Next to the page are its plots as PNG and SVG, and the numbers of each as
    JSON.
    """
    from fairseq_resmlp.report.builder import build_report

    click.echo(build_report(runs, out, sentences, not no_pruning, lambda line: click.echo(line, err=True)))


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=existing_directory, metavar="MODEL...")
@click.option("--text", required=True, type=existing_file, help="Text to translate, one sentence per line.")
@click.option("--reference", type=existing_file, help="Its reference translations, for BLEU.")
@click.option(
    "--ctranslate2",
    "converted",
    multiple=True,
    type=existing_directory,
    metavar="DIRECTORY",
    help="Compare with CTranslate2 and a model converted for it, with the SentencePiece model of MODEL. Repeatable.",
)
@click.option(
    "--fairseq",
    "runs",
    multiple=True,
    type=click.Path(exists=True),
    metavar="RUN",
    help="Compare with fairseq-interactive and a trained model: a run directory or a checkpoint. Repeatable.",
)
@click.option("--repeats", default=3, type=Count(), show_default=True, help="Timed runs of each system.")
@threads_option()
@click.option("--json", "json_file", type=output_file, help="File for all measurements.")
def bench(
    models: tuple[str, ...],
    text: str,
    reference: str | None,
    converted: tuple[str, ...],
    runs: tuple[str, ...],
    repeats: int,
    threads: int | None,
    json_file: str | None,
) -> None:
    """Measure words per second, BLEU and memory of translation on this machine.

    Each MODEL, written by fairseq-resmlp export, translates the text with beam 4 and greedily, in the type that it is
    stored in. Every run is a complete process, from its start to the written translation. The systems take turns.
    """
    from fairseq_resmlp.evaluation.translation_speed import make_systems, measure, table

    if json_file:
        inputs = [path for model in models for path in files_of_model(model)]
        refuse_overwriting([json_file], [*inputs, text, *([reference] if reference else [])])
    threads = threads or default_threads()
    systems, language = make_systems(models, converted, runs, threads)
    with open_output(json_file) if json_file else nullcontext() as out:  # a path that cannot be written fails now
        found = measure(systems, text, reference, language, threads, repeats, lambda line: click.echo(line, err=True))
        click.echo(table(found))
        if out:
            json.dump(found, out, indent=1)


COMMANDS = (score, report, bench)
