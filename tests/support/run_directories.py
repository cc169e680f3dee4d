"""A run directory with the golden model, text that could break an HTML page, and logs."""

import itertools
import json
import shutil

from support.paths import GOLDEN

HOSTILE = "<script>document.title = 'taken over'</script><img src=x onerror=\"document.title = 'taken over'\">"
ARABIC = "\u0627\u0644\u0645\u0644\u0643 \u064a\u0631\u0649 \u0627\u0644\u0643\u0644\u0628."
MATH = "$x^2$ \\frac_{ % costs $5"
SOURCES = [
    "Two women said that a child bought the book.",
    HOSTILE,
    ARABIC,
    MATH,
    "",
    "A" * 30,
    "A man sees a dog and a cat.",
]
REFERENCES = [
    "Zwei Frauen haben gesagt, dass ein Kind das Buch gekauft hat.",
    HOSTILE,
    ARABIC,
    "$x^2$",
    "",
    "A" * 300,  # exceeds N
    "Ein Mann sieht einen Hund und eine Katze.",
]


def write_run_directory(directory, offset=0.0):
    """Create a run directory like those of the scripts.

    Args:
        offset: added to the loss and to the score
    """
    directory.mkdir(parents=True)
    for file in ("model.pt", "dict.en.txt", "dict.de.txt", "sentencepiece.bpe.model"):
        shutil.copy(GOLDEN / file, directory)
    raw = directory / "raw"
    raw.mkdir()
    for split, language in itertools.product(("valid", "test2016"), ("en", "de")):
        lines = SOURCES if language == "en" else REFERENCES
        (raw / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    scores = [{"name": "sacreBLEU", "value": 36.71 + offset, "signature": "nrefs:1|" + "tok:13a|" * 20}]
    (directory / "test2016").mkdir()
    (directory / "test2016" / "scores.json").write_text(json.dumps({"lines": 1000, "scores": scores}))
    lines = []
    for update in range(10, 200, 10):
        stats = {"loss": 9 / update + offset, "ppl": 2 ** (9 / update), "lr": 0.1, "gnorm": 1.5, "wps": 900}
        stats = {**{name: str(value) for name, value in stats.items()}, "num_updates": str(update)}
        lines.append(f"x | INFO | train_inner | {json.dumps(stats)}")
    lines.append(
        'x | INFO | valid | {"valid_loss": "3", "valid_ppl": "8", "valid_bleu": "21", "valid_num_updates": "99"}'
    )
    (directory / "train.log").write_text("\n".join(lines))
    return directory
