"""Measure what --split-sentences does to lines of several sentences: BLEU of joined lines, with and without it.

    python scripts/measure_splitting.py MODEL --source FILE --reference FILE --json FILE

Neighbouring lines of the text are joined with a space. The reference point is the translation of each line by itself,
joined in the same way afterwards.
"""

import argparse
import json
from pathlib import Path

import sacrebleu

from fairseq_resmlp.common.environment import environment_info
from fairseq_resmlp.inference import Translator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="exported model")
    parser.add_argument("--source", type=Path, required=True, help="text, one sentence per line")
    parser.add_argument("--reference", type=Path, required=True, help="its translation")
    parser.add_argument("--json", type=Path, required=True, help="output file")
    parser.add_argument("--joined", type=int, nargs="+", default=[1, 2, 4], help="lines to join (default: %(default)s)")
    args = parser.parse_args()
    sources, references = (path.read_text(encoding="utf-8").split("\n")[:-1] for path in (args.source, args.reference))
    if len(sources) != len(references):
        parser.error(f"{args.source} has {len(sources)} lines, {args.reference} has {len(references)}")
    translator = Translator.load(args.model)

    def translate(lines: list[str], split_sentences: bool = False) -> list[str]:
        return [found.text for found in translator.translate_batch(lines, split_sentences=split_sentences)]

    one_by_one, rows = translate(sources), []
    for count in args.joined:
        reference, line = join(references, count), join(sources, count)
        found = {"one by one": join(one_by_one, count), "split": translate(line, True), "not split": translate(line)}
        bleu = {name: sacrebleu.corpus_bleu(text, [reference]).score for name, text in found.items()}
        rows.append({"joined": count, "lines": len(line), "bleu": bleu})
    languages = "-".join(translator.languages)
    found = {"text": args.source.stem, "languages": languages, "rows": rows, **environment_info(["torch", "sacrebleu"])}
    args.json.write_text(json.dumps(found, indent=1) + "\n")


def join(lines: list[str], count: int) -> list[str]:
    """Join every `count` neighbouring lines with a space."""
    return [" ".join(lines[i : i + count]) for i in range(0, len(lines), count)]


if __name__ == "__main__":
    main()
