"""The command `fairseq-resmlp`: only what fairseq has no command for."""

import itertools
import json
import os
import resource
import sys
from contextlib import ExitStack, contextmanager
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import click

from .collection import collect as collect_texts
from .errors import InputError
from .files import written_whole


class OneLineErrors(click.Group):
    """Ends with the message of a bad input, without a traceback."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except (InputError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith(__package__):
                raise
            raise click.ClickException(
                f"this command needs {error.name}, which is not installed: install fairseq-resmlp with its dependencies"
            ) from error


@click.group(cls=OneLineErrors)
@click.version_option(package_name="fairseq-resmlp")
def main() -> None:
    """Sequence-to-sequence ResMLP: what fairseq has no command for.

    Training is fairseq's own command with --user-dir fairseq_resmlp, and so is translation by fairseq-generate; export
    and translate are the fast way, which needs no fairseq.
    """


def in_groups(words: Sequence[str], size: int, names: str) -> List[Sequence[str]]:
    """Cut a list of arguments into groups of `size`."""
    if len(words) % size:
        raise InputError(f"{len(words)} arguments are not groups of {names}")
    return [words[i : i + size] for i in range(0, len(words), size)]


existing = click.Path(exists=True, dir_okay=False)


def max_lines_option(default: int):
    """--max-lines, for what learns from a text."""
    return click.option(
        "--max-lines",
        default=default,
        type=click.IntRange(min=1),
        show_default=True,
        help="Of more lines, take evenly spaced ones: memory grows with this number.",
    )


@main.command("download")
@click.argument("files", nargs=-1, required=True, metavar="[URL CHECKSUM]...")
@click.option("--to", required=True, type=click.Path(file_okay=False), help="Folder for the files.")
@click.option("--mirror", help="Fetch every file from this address, by its name, instead.")
def download(files: Tuple[str, ...], to: str, mirror: Optional[str]) -> None:
    """Fetch each URL into a folder, unless it is there, and compare it with its CHECKSUM.

    CHECKSUM is sha256:... or md5:..., or - where none is known. What an interruption left is continued.
    """
    from .download import download as fetch

    wanted = in_groups(files, 2, "URL CHECKSUM")
    paths = [os.path.join(to, os.path.basename(url)) for url, _ in wanted]
    refuse_one_file_for_two(
        [url for url, _ in wanted], paths, "fetch one of them yourself, and name it as file:///PATH/ANOTHER-NAME"
    )
    for (url, checksum), path in zip(wanted, paths):
        name = os.path.basename(path)
        address = f"{mirror.rstrip('/')}/{name}" if mirror else url
        click.echo(f"{name} from {address}")
        sha256 = fetch(address, path, checksum)
        click.echo(f"{name}: sha256 {sha256}, {'no checksum to compare with' if checksum == '-' else 'as recorded'}")


@main.command("collect")
@click.argument("texts", nargs=-1, required=True, metavar="[SPLIT SOURCE TARGET]...")
@click.option("--languages", nargs=2, required=True, metavar="SOURCE TARGET", help="Such as: en de.")
@click.option("--downloads", default=".", type=click.Path(file_okay=False), help="Folder of the archives.")
@click.option("--out-dir", required=True, type=click.Path(file_okay=False), help="Folder for SPLIT.LANGUAGE.")
def collect(texts: Tuple[str, ...], languages: Tuple[str, str], downloads: str, out_dir: str) -> None:
    """Write the raw text of every split, from archives or local files, into one file a language.

    SOURCE and TARGET are files, or ARCHIVE:PATH for a file inside an archive; .gz and .sgm are unpacked. Several of
    one SPLIT are joined. SPLIT held-out N takes N sentences out of train.
    """
    pairs = collect_texts(in_groups(texts, 3, "SPLIT SOURCE TARGET"), languages, downloads, out_dir)
    for split, count in pairs.items():
        click.echo(f"{split}: {count:,} pairs")


@main.command("spm-train")
@click.argument("files", nargs=-1, required=True, type=existing)
@click.option("--model", required=True, type=click.Path(dir_okay=False), help="File to write.")
@click.option("--vocab-size", default=8000, type=click.IntRange(min=1), show_default=True, help="Number of pieces.")
@max_lines_option(2_000_000)
def spm_train(files: Tuple[str, ...], model: str, vocab_size: int, max_lines: int) -> None:
    """Learn one SentencePiece BPE model from the raw text FILES of both languages."""
    from .pieces import train_pieces

    with written_whole(model) as partial, open(partial, "wb") as out:
        lines = train_pieces(files, out, vocab_size, max_lines)
    click.echo(f"{model}: {vocab_size} pieces from {lines:,} lines of {', '.join(files)}")


@main.command("spm-encode")
@click.argument("files", nargs=-1, required=True, type=existing)
@click.option("--model", required=True, type=existing, help="SentencePiece model.")
@click.option("--out-dir", required=True, type=click.Path(file_okay=False), help="Folder for the encoded files.")
@click.option("--clean", is_flag=True, help="FILES are the two sides of a text: drop pairs of no use, and say why.")
@click.option("--max-length", default=250, show_default=True, help="With --clean: the most pieces of a side.")
@click.option("--max-ratio", default=1.5, show_default=True, help="With --clean: longer to shorter side, in pieces.")
@click.option("--report", type=click.Path(dir_okay=False), help="With --clean: JSON file for counts and time.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes (default: one a core).")
def spm_encode(files, model, out_dir, clean, max_length, max_ratio, report, workers) -> None:
    """Cut each of the raw text FILES into pieces, line by line, into a file of the same name in --out-dir.

    Every line is kept unless --clean is given.
    """
    from .pieces import Cleaning, Encoder, encode_files

    Encoder(model)  # an error in the model is told once, before the workers start
    targets = [os.path.join(out_dir, os.path.basename(file)) for file in files]
    for file, target in zip(files, targets):
        if os.path.exists(target) and os.path.samefile(file, target):
            raise InputError(f"{target} would overwrite its own input: choose another --out-dir")
    refuse_one_file_for_two(files, targets, "rename one, such as to train.de")
    if clean and len(files) != 2:
        raise InputError(f"--clean takes two files, the sides of one text, not {len(files)}")
    if report and not clean:
        raise InputError("--report is for --clean: without it nothing is dropped")
    workers = workers or len(os.sched_getaffinity(0))
    cleaning = Cleaning(max_length, max_ratio) if clean else None
    groups = [(files, targets)] if clean else [([file], [target]) for file, target in zip(files, targets)]
    for sources, outs in groups:
        before = cpu_seconds()
        with ExitStack() as stack:
            partial = [stack.enter_context(written_whole(out)) for out in outs]
            lines, dropped = encode_files(sources, partial, model, workers, cleaning)
        click.echo(f"{', '.join(outs)}: {lines:,} lines")
        for reason, count in dropped.most_common():
            click.echo(f"  dropped {count:,} pairs: {reason}")
        if report:
            counts = {"kept": lines, "dropped": dict(dropped), "cpu_seconds": cpu_seconds() - before}
            with written_whole(report) as partial_report, open(partial_report, "w") as out:
                json.dump(counts, out, indent=1)


def refuse_one_file_for_two(sources: Sequence[str], targets: Sequence[str], remedy: str) -> None:
    """Raise InputError if two of `sources` would be written to one of `targets`."""
    first: Dict[str, str] = {}
    for source, target in zip(sources, targets):
        if target in first:
            raise InputError(f"{first[target]} and {source} would both be written to {target}: {remedy}")
        first[target] = source


def cpu_seconds() -> float:
    """Seconds of all cores used so far by this process and those that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@main.command("average")
@click.argument("checkpoints", nargs=-1, required=True, type=existing)
@click.option("--output", required=True, type=click.Path(dir_okay=False), help="Checkpoint to write.")
def average(checkpoints: Tuple[str, ...], output: str) -> None:
    """Average the parameters of CHECKPOINTS of one training, such as those of its last epochs."""
    from .average import average_checkpoints
    from .checkpoint import write as write_checkpoint

    write_checkpoint(average_checkpoints(checkpoints), output)
    click.echo(f"{output}: the mean of {len(checkpoints)} checkpoints")


@main.command("score")
@click.argument("hypotheses", type=existing)
@click.option("--reference", required=True, type=existing, help="Plain text, line by line what HYPOTHESES should be.")
@click.option("--target-lang", required=True, help="Language of both; for de one more score splits compounds.")
@click.option("--against", type=existing, help="Another system's output, for a paired bootstrap test.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="File for scores, hashes and versions.")
@click.option("--checkpoint", type=existing, help="For --json: the model, to record its hash and training options.")
@click.option("--record", multiple=True, metavar="NAME=VALUE", help="For --json: a text, such as a command.")
@click.option("--record-json", multiple=True, metavar="NAME=FILE", help="For --json: the content of a JSON file.")
def score_text(hypotheses, reference, target_lang, against, json_file, checkpoint, record, record_json) -> None:
    """Score the translations in HYPOTHESES: plain text, without pieces or tokenization, one sentence a line."""
    from . import score

    if not json_file and (checkpoint or record or record_json):
        raise click.UsageError("--checkpoint, --record and --record-json add to the file of --json: name one")
    records = score.read_records(record, record_json)
    own, right, *other = score.read_parallel(hypotheses, reference, *([against] if against else []))
    scores = score.score(own.lines, right.lines, target_lang)
    comparisons = score.compare(own.lines, other[0].lines, right.lines, target_lang) if other else []
    if json_file:
        report = {
            "scores": scores,
            "comparisons": comparisons,
            "paper": score.PAPER,
            "target_lang": target_lang,
            "lines": len(own.lines),
            "hypotheses": own,
            "reference": right,
            "against": other[0] if other else None,
            "checkpoint": score.describe_checkpoint(checkpoint) if checkpoint else None,
            "records": records,
            **score.surroundings(),
        }
        with written_whole(json_file) as partial, open(partial, "w", encoding="utf-8") as out:
            out.write(score.to_json(report))
    click.echo(score.table(scores, comparisons, against))
    left_out = score.why_not_tokenized(target_lang)
    if left_out:
        click.echo(f"\nNo tokenized BLEU: {left_out}.")


@main.command("bench")
@click.option("--out", type=click.Path(dir_okay=False), help="JSON file for all that was measured.")
@click.option(
    "--only", help="Parts, joined by commas, to measure anew: train,generate,fast,memory,growth,loading,profile."
)
@click.option("--pairs", default=5, type=click.IntRange(min=1), show_default=True, help="Timings of either side.")
@click.option("--threads", type=click.IntRange(min=1), help="Cores for either side (default: those available).")
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]), show_default=True, help="Where it runs.")
@click.option("--data", default="runs/multi30k.en-de/data-bin", show_default=True, help="For loading: fairseq's data.")
@click.option("--without-ctranslate2", is_flag=True, help="Leave out the rows against CTranslate2.")
@click.option("--d", default=512, show_default=True, help="Channels of both models.")
@click.option("--hidden", default=2048, show_default=True, help="Hidden size of their feed-forward layers.")
@click.option("--layers", default=6, show_default=True, help="Layers of encoder and decoder.")
@click.option("--heads", default=8, show_default=True, help="Heads of attention.")
@click.option("--vocabulary", default=32_000, show_default=True, help="Entries of their one dictionary.")
@click.option("--resmlp", default="", help="More options of ResMLP, as '--token-mixing toeplitz --mixing-heads 16'.")
def bench(out, only, threads, without_ctranslate2, **settings) -> None:
    """Measure speed and memory against fairseq's Transformer of the same dimensions, and against CTranslate2.

    Both sides of a row are timed in turn, A B A B; its figure is the median of the ratios of these pairs. All of it
    takes some twenty minutes on two cores. Nothing is read but --data, and the models have random weights.
    """
    from . import bench

    need_device(settings["device"])
    threads = threads or len(os.sched_getaffinity(0))
    parts = only.split(",") if only else [*bench.PARTS, "profile"]
    settings = bench.Settings(threads=threads, **settings)
    stay = {"rows": [], "breakdown": []}
    if out and only and os.path.exists(out):
        with open(out, encoding="utf-8") as file:
            stay = bench.staying(json.load(file), settings, parts)
    found = bench.renew(stay, bench.measure(settings, parts, without_ctranslate2))
    if out:
        with written_whole(out) as partial, open(partial, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    click.echo(bench.table(found))


@main.command("export")
@click.argument("model", type=click.Path(exists=True))
@click.argument("out", type=click.Path())
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder of dict.*.txt (default: MODEL's).")
@click.option("--spm", type=existing, help="SentencePiece model (default: sentencepiece.bpe.model beside MODEL).")
@click.option(
    "--dtype",
    default="int8",
    type=click.Choice(["int8", "float32", "float16"]),
    show_default=True,
    help="Of the matrices: int8 is the smallest and on a CPU the fastest, float32 translates exactly as "
    "fairseq-generate does, float16 is for a GPU.",
)
@click.option("--shortlist", type=existing, help="Target pieces by source piece, as fairseq-resmlp shortlist writes.")
@click.option(
    "--prune-mixing",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Zero the entries of each mixing matrix A smaller than this share of its largest, such as 0.05.",
)
def export(model, out, data, spm, dtype, shortlist, prune_mixing) -> None:
    """Make the folder OUT, with which fairseq-resmlp translate translates, from a trained model.

    MODEL is a checkpoint such as checkpoints/checkpoint_best.pt, or a folder with model.pt. OUT needs no fairseq.
    """
    from .export import export as export_model

    languages = export_model(model, out, data, spm, dtype, shortlist, prune_mixing)
    size = sum(entry.stat().st_size for entry in os.scandir(out))
    click.echo(f"{out}: {'-'.join(languages)}, {dtype}, {size / 1e6:,.1f} MB")


@main.command("report")
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False),
    metavar="RUN_FOLDER...",
)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for index.html and its pictures.")
@click.option(
    "--sentences",
    default=200,
    type=click.IntRange(min=0),
    show_default=True,
    help="Of the test and the validation text, for sample translations and pruning; 0 leaves both out.",
)
@click.option("--no-pruning", is_flag=True, help="Leave out the pruning curves, which take most of the time.")
def report(folders, out, sentences, no_pruning) -> None:
    """Show what trained models have learned, as one page of pictures that needs no network: OUT/index.html.

    A RUN_FOLDER is what scripts/train.sh and evaluate.sh or make demo wrote, such as runs/multi30k.en-de/resmlp_small
    or demo/linear; several are compared. What a folder lacks is left out, and the page says how to get it. Beside the
    page lie its pictures as PNG and SVG and the numbers behind each as JSON.
    """
    from .report import make

    click.echo(make(folders, out, sentences, not no_pruning, lambda line: click.echo(line, err=True)))


@main.command("shortlist")
@click.argument("source", type=existing)
@click.argument("target", type=existing)
@click.option("--output", required=True, type=click.Path(dir_okay=False), help="File for fairseq-resmlp export.")
@click.option(
    "--always",
    default=200,
    type=click.IntRange(min=0),
    show_default=True,
    help="Frequent target pieces allowed anywhere.",
)
@click.option(
    "--each", default=50, type=click.IntRange(min=1), show_default=True, help="Target pieces a source piece adds."
)
@max_lines_option(200_000)
def shortlist(source, target, output, always, each, max_lines) -> None:
    """Learn which target pieces a source piece may become, so that translation looks at these alone.

    SOURCE and TARGET are the training text in pieces, as spm-encode writes it, line by line.
    """
    from .shortlist import learn

    # Pieces of text that is no UTF-8 are in no dictionary, and so in no shortlist.
    options = {"encoding": "utf-8", "errors": "replace", "newline": "\n"}
    with open(source, **options) as left, open(target, **options) as right:
        lengths = [sum(1 for _ in file) for file in (left, right)]
        if lengths[0] != lengths[1]:
            raise InputError(f"{source} has {lengths[0]:,} lines, {target} {lengths[1]:,}: they are not one text")
        left.seek(0)
        right.seek(0)
        pairs = list(itertools.islice(zip(left, right), 0, None, max(1, -(-lengths[0] // max_lines))))
    with written_whole(output) as partial, open(partial, "w", encoding="utf-8", newline="\n") as out:
        for piece, allowed in learn(pairs, always, each):
            out.write(f"{piece}\t{' '.join(allowed)}\n")
    click.echo(f"{output}: from {len(pairs):,} pairs of lines")


@main.command("translate")
@click.argument("model", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--input", "source", default="-", type=click.Path(exists=True, dir_okay=False, allow_dash=True), help="Text, UTF-8."
)
@click.option("--output", default="-", type=click.Path(dir_okay=False, allow_dash=True), help="File, written whole.")
@click.option("--beam", default=4, type=click.IntRange(min=1), show_default=True, help="Hypotheses kept: 1 is greedy.")
@click.option("--lenpen", default=1.0, show_default=True, help="Above 1 favours longer translations.")
@click.option(
    "--max-len-a",
    default=0.0,
    show_default=True,
    help="A: no translation is longer than A x + B pieces, x those of the longest source of its batch.",
)
@click.option("--max-len-b", default=200, type=click.IntRange(min=0), show_default=True, help="B: see --max-len-a.")
@click.option("--batch-size", default=64, type=click.IntRange(min=1), show_default=True, help="Sentences at a time.")
@click.option(
    "--max-tokens", default=4096, type=click.IntRange(min=1), show_default=True, help="Source pieces at a time."
)
@click.option("--threads", type=click.IntRange(min=1), help="Cores to use (default: all available).")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--dtype",
    type=click.Choice(["int8", "float32", "float16"]),
    help="Of the matrices (default: as exported; float16 on a GPU).",
)
def translate(model, source, output, threads, device, dtype, batch_size, max_tokens, **options) -> None:
    """Translate text with MODEL, a folder that fairseq-resmlp export made: one line for each line, in order.

    From --input, or the standard input, to --output, or the standard output. Empty lines stay empty. Lines are read
    and written some thousands at a time, for those of a length are translated together.
    """
    import torch

    from .search import Options
    from .text import read
    from .translate import WINDOW, Translator

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    need_device(device)
    translator = Translator.load(
        model, dtype=dtype, device=device, options=Options(**options), batch_size=batch_size, max_tokens=max_tokens
    )
    if source != "-" and os.path.exists(output) and os.path.samefile(source, output):
        raise InputError(f"{output} would overwrite its own input: choose another --output")
    lines = None
    if os.path.isfile(source) and sys.stderr.isatty():  # a pipe can be read only once
        with open(source, "rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    with ExitStack() as stack:
        done = stack.enter_context(progress_bar(lines))
        if output == "-":
            out = stack.enter_context(open(1, "w", encoding="utf-8", newline="\n", closefd=False))
        elif os.path.exists(output) and not os.path.isfile(output):  # a pipe or a device is no file to replace
            out = stack.enter_context(open(output, "w", encoding="utf-8", newline="\n"))
        else:
            partial = stack.enter_context(written_whole(output))
            out = stack.enter_context(open(partial, "w", encoding="utf-8", newline="\n"))
        for number, line in enumerate(translator.stream(read(source, WINDOW), done), 1):
            out.write(f"{line}\n")
            if number % WINDOW == 0:
                out.flush()


@main.command("serve")
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is for everybody.")
@click.option("--port", default=7860, type=click.IntRange(0, 65535), show_default=True, help="0: any that is free.")
@click.option("--beam", default=4, type=click.IntRange(min=1), show_default=True, help="Translations that are shown.")
@click.option(
    "--rate", default=30, type=click.IntRange(min=1), show_default=True, help="Translations a minute of one client."
)
@click.option("--examples", type=existing, help="Up to 8 sentences to click, one a line (default: the demo's).")
@click.option("--threads", type=click.IntRange(min=1), help="Cores to use (default: all available).")
def serve(models, host, port, beam, rate, examples, threads) -> None:
    """Open a page for the browser that translates with MODELS, side by side.

    A model is a folder that fairseq-resmlp export made, or one with model.pt, such as demo/model.
    """
    import torch

    from . import page
    from .text import read

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    lines = next(read(examples, page.EXAMPLES_SHOWN), []) if examples else None
    page.serve(models, host, port, beam, rate, lines)


def need_device(device: str) -> None:
    """Raise InputError if torch cannot use a device."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        raise InputError(f"--device {device} is not here: {str(error).splitlines()[0]}") from error


@contextmanager
def progress_bar(length: Optional[int]) -> Iterator[Callable[[int], None]]:
    """Give a function that adds to a progress bar on a terminal, and does nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    # Not an empty iterator: where the length is not known, click would take that of the iterator, zero.
    with click.progressbar(iter(int, 1), length=length, label="lines", show_pos=True, file=sys.stderr) as bar:
        yield bar.update
