"""BLEU by the length of the source, beyond what training has seen, for several models side by side.

    python scripts/lengths.py --models NAME=CHECKPOINT ... --data DATA-BIN --spm MODEL --text NAME=PREFIX ... --out FILE

The models translate PREFIX.SOURCE of each text with beam 4; lines go into buckets by the number of their words, and a
bucket of fewer than 20 lines, which say nothing, is left out. A text PREFIX*K is K lines of PREFIX after one another,
joined by spaces: longer sentences of the same kind. --longest and --lines limit what is taken of a text. For each
bucket FILE gets the number of lines and, of each model, the sacreBLEU and the length of its translation as a part of
the reference's, in sacreBLEU's tokens: a model may end before the source does.
"""

import argparse
import json
import re
from pathlib import Path

import sacrebleu
import torch
from fairseq import hub_utils
from sacrebleu.metrics.bleu import BLEUScore

from fairseq_resmlp.errors import InputError
from fairseq_resmlp.lines import Translator
from fairseq_resmlp.score import read_parallel, surroundings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, type=pair, metavar="NAME=CHECKPOINT")
    parser.add_argument("--text", nargs="+", required=True, type=pair, metavar="NAME=PREFIX[*K]")
    parser.add_argument("--data", required=True, help="fairseq's data, for its dictionaries")
    parser.add_argument("--spm", required=True, help="SentencePiece model")
    parser.add_argument("--edges", default="10,15,20,37,60,80", help="last length of each bucket but the last")
    parser.add_argument("--longest", type=int, default=120, help="words of the longest line taken (default: 120)")
    parser.add_argument("--lines", type=int, default=500, help="lines taken of a bucket at most (default: 500)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    edges = [edge for edge in map(int, args.edges.split(",")) if edge < args.longest]
    models = {}
    for name, path in args.models:
        if not Path(path).is_file():
            parser.error(f"--models {name}={path}: there is no such file")
        loaded = hub_utils.from_pretrained(
            *(str(Path(path).parent), Path(path).name, str(Path(args.data).absolute())),
            bpe="sentencepiece",
            sentencepiece_model=args.spm,
        )
        models[name] = Translator(loaded["args"], loaded["task"], loaded["models"]).eval()
    task = next(iter(models.values())).task
    try:
        texts = [(name, read(prefix, task.cfg.source_lang, task.cfg.target_lang)) for name, prefix in args.text]
    except InputError as error:
        parser.error(f"--text: {error}")
    rows = []
    for name, pairs in texts:
        for first, last in zip([1] + [edge + 1 for edge in edges], [*edges, args.longest]):
            bucket = [pair for pair in pairs if first <= len(pair[0].split()) <= last][: args.lines]
            if len(bucket) < 20:
                print(f"{name}, {first} to {last} words: left out, it has {len(bucket)} lines")
                continue
            sources, references = map(list, zip(*bucket))
            scores = {other: score(model, sources, references) for other, model in models.items()}
            figures = {
                "bleu": {other: found.score for other, found in scores.items()},
                "length": {other: found.sys_len / found.ref_len for other, found in scores.items()},
            }
            rows.append({"text": name, "words": f"{first} to {last}", "lines": len(bucket), **figures})
            print(json.dumps(rows[-1]), flush=True)
    found = {"rows": rows, "models": ["=".join(model) for model in args.models], **surroundings()}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def pair(entry: str) -> tuple:
    """(NAME, what it names)."""
    name, equals, rest = entry.partition("=")
    if not (name and equals and rest):
        raise argparse.ArgumentTypeError(f"{entry!r} is not NAME=...")
    return name, rest


def read(prefix: str, source: str, target: str) -> list:
    """Pairs of lines, K joined into one for PREFIX*K."""
    prefix, count = re.fullmatch(r"(.*?)(?:\*([1-9]\d*))?", prefix).groups()
    files = [f"{prefix}.{language}" for language in (source, target)]
    for file in files:
        if not Path(file).is_file():
            raise InputError(f"there is no {file}")
    sides, K = [text.lines for text in read_parallel(*files)], int(count or 1)
    return [tuple(" ".join(side[i : i + K]) for side in sides) for i in range(0, len(sides[0]) - K + 1, K)]


@torch.inference_mode()
def score(model: Translator, sources: list, references: list) -> BLEUScore:
    return sacrebleu.corpus_bleu(model.translate(sources, beam=4), [references])


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        raise SystemExit(f"error: {error}") from None
