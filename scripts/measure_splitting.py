"""Measure what --split-sentences does to lines of several sentences: BLEU of joined lines, with and without it.

    python scripts/measure_splitting.py MODEL --source FILE --reference FILE --json FILE

Neighbouring lines of the text are joined with a space. The reference point is the translation of each line by itself,
joined in the same way afterwards. The end of a line without a full stop, "!" or "?" cannot be found once lines are
joined. Therefore, the measurement is repeated without these lines. --joined 1 2 4 also measures single lines.
"""

import argparse
import json
from collections.abc import Sequence
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
    parser.add_argument("--joined", type=int, nargs="+", default=[2, 4], help="lines to join (default: %(default)s)")
    parser.add_argument("--label", help="how the model was trained, for a table of several")
    args = parser.parse_args()
    sources, references = (path.read_text(encoding="utf-8").split("\n")[:-1] for path in (args.source, args.reference))
    if len(sources) != len(references):
        parser.error(f"{args.source} has {len(sources)} lines, {args.reference} has {len(references)}")
    translator = Translator.load(args.model)

    def translate(lines: list[str], split_sentences: bool = False) -> list[str]:
        return [found.text for found in translator.translate_batch(lines, split_sentences=split_sentences)]

    one_by_one, rows = translate(sources), []
    everything = list(zip(sources, references, one_by_one))
    complete = [line for line in everything if line[0].rstrip().endswith((".", "!", "?"))]
    for name, lines in (("complete sentences", complete), ("all lines", everything)):
        for count in args.joined:
            source, reference, separately = (join(texts, count) for texts in zip(*lines))
            found = {"one by one": separately, "split": translate(source, True), "not split": translate(source)}
            bleu = {way: sacrebleu.corpus_bleu(text, [reference]).score for way, text in found.items()}
            rows.append({"lines": name, "joined": count, "count": len(source), "bleu": bleu})
    label = {"label": args.label} if args.label else {}
    about = {**label, "text": args.source.stem, "languages": "-".join(translator.languages)}
    about |= environment_info(["torch", "sacrebleu"])
    del about["command"]  # with paths of this machine
    args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def join(lines: Sequence[str], count: int) -> list[str]:
    """Join every `count` neighbouring lines with a space."""
    return [" ".join(lines[i : i + count]) for i in range(0, len(lines), count)]


if __name__ == "__main__":
    main()
