"""Measure BLEU by the length of the source for several models, including sentences longer than those in training.

    python scripts/bleu_by_length.py --models NAME=CHECKPOINT ... --data DATA-BIN --spm MODEL \\
        --text NAME=PREFIX ... --out FILE

Each model translates PREFIX.SOURCE of each text with beam 4. Lines are grouped by their number of source words; a group
of fewer than 20 lines is too small for a score and is skipped. PREFIX*K joins each K consecutive lines of PREFIX with
spaces, which gives longer lines of the same kind. --longest and --lines limit the lines of a text that are used.

For each group, FILE gets the number of lines and, for each model, sacreBLEU and the length ratio: the length of the
translations divided by that of the references, in sacreBLEU's tokens. A low ratio shows that a model stopped early.
"""

import argparse
import json
import re
from pathlib import Path

import sacrebleu
import torch
from fairseq import hub_utils
from sacrebleu.metrics.bleu import BLEUScore

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.evaluation.metrics import read_parallel
from fairseq_resmlp.evaluation.provenance import score_environment
from fairseq_resmlp.model.hub import HubTranslator

MIN_LINES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, type=pair, metavar="NAME=CHECKPOINT")
    parser.add_argument("--text", nargs="+", required=True, type=pair, metavar="NAME=PREFIX[*K]")
    parser.add_argument("--data", required=True, help="directory of binarized data, for its dictionaries")
    parser.add_argument("--spm", required=True, help="SentencePiece model")
    parser.add_argument("--edges", default="10,15,20,37,60,80", help="largest length of each group except the last")
    parser.add_argument("--longest", type=int, default=120, help="maximum number of source words (default: 120)")
    parser.add_argument("--lines", type=int, default=500, help="maximum number of lines per group (default: 500)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    edges = [edge for edge in map(int, args.edges.split(",")) if edge < args.longest]
    models = {}
    for name, path in args.models:
        if not Path(path).is_file():
            parser.error(f"--models {name}={path}: file not found")
        loaded = hub_utils.from_pretrained(
            *(str(Path(path).parent), Path(path).name, str(Path(args.data).absolute())),
            bpe="sentencepiece",
            sentencepiece_model=args.spm,
        )
        models[name] = HubTranslator(loaded["args"], loaded["task"], loaded["models"]).eval()
    task = next(iter(models.values())).task
    try:
        texts = [(name, read(prefix, task.cfg.source_lang, task.cfg.target_lang)) for name, prefix in args.text]
    except InputError as error:
        parser.error(f"--text: {error}")
    rows = []
    for name, pairs in texts:
        for first, last in zip([1] + [edge + 1 for edge in edges], [*edges, args.longest], strict=True):
            group = [pair for pair in pairs if first <= len(pair[0].split()) <= last][: args.lines]
            if len(group) < MIN_LINES:
                print(f"{name}, {first} to {last} words: skipped, only {len(group)} lines")
                continue
            sources, references = map(list, zip(*group, strict=True))
            scores = {other: score(model, sources, references) for other, model in models.items()}
            figures = {
                "bleu": {other: found.score for other, found in scores.items()},
                "length": {other: found.sys_len / found.ref_len for other, found in scores.items()},
            }
            rows.append({"text": name, "words": f"{first} to {last}", "lines": len(group), **figures})
            print(json.dumps(rows[-1]), flush=True)
    found = {"rows": rows, "models": ["=".join(model) for model in args.models], **score_environment()}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def pair(entry: str) -> tuple:
    """Split NAME=VALUE."""
    name, equals, value = entry.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{entry!r} does not have the form NAME=VALUE")
    return name, value


def read(prefix: str, source: str, target: str) -> list:
    """Read the sentence pairs of PREFIX, or of PREFIX*K with each K lines joined into one."""
    prefix, count = re.fullmatch(r"(.*?)(?:\*([1-9]\d*))?", prefix).groups()
    files = [f"{prefix}.{language}" for language in (source, target)]
    for file in files:
        if not Path(file).is_file():
            raise InputError(f"{file} not found")
    sides, K = [text.lines for text in read_parallel(*files)], int(count or 1)
    return [tuple(" ".join(side[i : i + K]) for side in sides) for i in range(0, len(sides[0]) - K + 1, K)]


@torch.inference_mode()
def score(model: HubTranslator, sources: list, references: list) -> BLEUScore:
    return sacrebleu.corpus_bleu(model.translate(sources, beam=4), [references])


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        raise SystemExit(f"error: {error}") from None
