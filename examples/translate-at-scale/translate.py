"""Translate a text of any size with Ray Data, on all cores or GPUs of a machine or of a Ray cluster.

The text is divided into shards of whole lines. Each is translated by one actor and written to a file of its own, which
appears only when it is complete. A shard whose actor or machine fails is translated again by another actor. Shards that
are complete are skipped, so running the same command again continues an interrupted run.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: it sends nothing to its authors

import click
import ray

from fairseq_resmlp.cli.main import one_line_errors
from fairseq_resmlp.cli.options import FiniteFloat
from fairseq_resmlp.common.atomic_write import open_output
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference import TranslationOptions, Translator
from fairseq_resmlp.inference.model_format import load_exported_model
from fairseq_resmlp.inference.translator import WINDOW

Shard = dict[str, Any]  # a row of the dataset: input, begin, end, output


def find_shards(text: Path, out: Path, size: int) -> list[Shard]:
    """Divide a file into ranges of bytes. The lines of a shard are those that begin in its range."""
    end = text.stat().st_size
    return [
        {
            "input": str(text),
            "begin": begin,
            "end": min(begin + size, end),
            "output": str(out / f"shard-{number:08}.txt"),
        }
        for number, begin in enumerate(range(0, end, size))
    ]


def read_shard(shard: Shard) -> Iterator[str]:
    """Yield the lines that begin in the range of a shard. The last one may end after it."""
    with open(shard["input"], "rb") as file:
        if shard["begin"]:
            file.seek(shard["begin"] - 1)
            file.readline()  # belongs to an earlier shard
        while file.tell() < shard["end"] and (line := file.readline()):
            yield line.decode("utf-8", "replace").strip()


class ShardTranslator:
    """An actor that translates shards.

    Args:
        model: exported directory, on a path that all machines can read
        device: cpu or cuda
        options: options of the search
    """

    def __init__(self, model: str, device: str, options: TranslationOptions):
        self.translator, self.options = Translator.load(model, threads=1, device=device), options

    def __call__(self, shard: Shard) -> dict[str, Any]:
        source, lines = read_shard(shard), 0
        windows = iter(lambda: list(islice(source, WINDOW)), [])
        try:
            with open_output(shard["output"]) as file:
                for translation in self.translator.stream(windows, self.options):
                    file.write(f"{translation.text}\n")
                    lines += 1
        except InputError as error:  # Ray would hide it in a traceback
            return {"output": shard["output"], "lines": 0, "error": str(error)}
        return {"output": shard["output"], "lines": lines, "error": ""}


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a run, or refuse to continue a run that had others."""
    path = out / "settings.json"
    if not any(out.glob("shard-*")):
        with open_output(str(path)) as file:
            json.dump(settings, file, indent=1)
    elif not path.exists() or json.loads(path.read_text(encoding="utf-8")) != settings:
        raise InputError(f"{out} was written with another model, text or options: choose another directory")


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.argument("text", type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, resolve_path=True, path_type=Path))
@click.option("--beam", default=4, show_default=True, help="Beam size.")
@click.option("--split-sentences", is_flag=True, help="Translate each sentence of a line by itself.")
@click.option(
    "--shard-mib",
    default=1.0,
    type=FiniteFloat(min=0, min_open=True),
    show_default=True,
    help="Size of the source text of a shard, in MiB.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Number of actors (default: one per core, or per GPU).")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
def main(model: Path, text: Path, out: Path, shard_mib: float, workers: int | None, device: str, **search: Any) -> None:
    """Translate TEXT with the exported MODEL to OUT/shard-*.txt, which have one line per line of TEXT, in order.

    All machines need MODEL, TEXT and OUT under the same paths, for example on a shared file system.
    """
    with one_line_errors():
        if text.suffix == ".gz":
            raise InputError(f"{text} is compressed, so it cannot be divided: decompress it first")
        load_exported_model(str(model))  # reports damage before Ray starts
        config, found = model / "config.json", text.stat()  # config.json has the checksums of the other files
        settings = {
            "model": hashlib.sha256(config.read_bytes()).hexdigest(),
            "text": [str(text), found.st_size, found.st_mtime_ns],
            "shard_mib": shard_mib,
            "device": device,
            **search,
        }
        check_settings(out, settings)
        shards = find_shards(text, out, max(1, round(shard_mib * 2**20)))
        missing = [shard for shard in shards if not os.path.exists(shard["output"])]
        if missing:
            translate(missing, str(model), device, TranslationOptions(**search), workers)
        click.echo(f"{len(shards)} shards, of which {len(missing)} were translated now. All lines: cat {out}/shard-*")


def translate(shards: list[Shard], model: str, device: str, options: TranslationOptions, workers: int | None) -> None:
    """Translate shards with a pool of actors."""
    ray.init(log_to_driver=False, logging_level=logging.WARNING)
    kind = "CPU" if device == "cpu" else "GPU"
    available = int(ray.cluster_resources().get(kind, 0))
    if available < (workers or 1):
        raise InputError(f"Ray found {available} {kind}s: use fewer --workers, or another --device")
    done = ray.data.from_items(shards, override_num_blocks=len(shards)).map(
        ShardTranslator,
        fn_constructor_args=[model, device, options],
        compute=ray.data.ActorPoolStrategy(size=min(workers or available, len(shards))),
        **{f"num_{kind.lower()}s": 1},
    )
    for number, row in enumerate(done.iter_rows(), 1):
        if row["error"]:
            raise InputError(row["error"])
        click.echo(f"{number} of {len(shards)}: {row['output']}, {row['lines']} lines")


if __name__ == "__main__":
    main()
