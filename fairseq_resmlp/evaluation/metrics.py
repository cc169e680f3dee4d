r"""Four scores of the same translations, each under its own name.

- sacreBLEU and chrF2 are computed on plain text, by sacreBLEU with its defaults for the language.
- Tokenized BLEU: both sides are tokenized with the Moses tokenizer (sacremoses) without its option -a, which would
  split hyphens, and sacreBLEU scores the tokens (`tok:none`). Omitted for languages that this tokenizer does not
  support.
- Compound-split tokenized BLEU, for German only: the same tokens after fairseq's compound_split_bleu.sh, on both sides:
  `perl -ple 's{(\S)-(\S)}{$1 ##AT##-##AT## $2}g'`. Text that was already split is rejected.

`paper_remark` states which of them the paper reports, for the corpora of the paper.
"""

import hashlib
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairseq_resmlp.common.environment import package_version
from fairseq_resmlp.common.errors import InputError

# BLEU of Table 5 of the paper, with 6 and 12 layers, by corpus
PAPER_BLEU = {"wmt14.en-de": (26.4, 26.8), "wmt14.en-fr": (40.3, 40.6)}
PAPER = (
    "The ResMLP paper (arXiv 2105.03404, section 3.6, Table 5) reports {} BLEU with 6 layers and {} with 12, probably "
    "tokenized BLEU. It follows the setup of Ott et al. (2018, arXiv 1806.00187), who report tokenized BLEU, with "
    "compound splitting for En-De and without for En-Fr (their En-Fr text was tokenized with -a, which splits hyphens: "
    "fairseq issue 2009), and also sacreBLEU. The ResMLP paper does not state whether compounds are split."
)
BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A score: its unrounded value, sacreBLEU's signature, and a note on what the signature does not cover."""

    name: str
    value: float
    signature: str
    note: str


@dataclass(frozen=True)
class Comparison:
    """A paired bootstrap test of one score: `value` of this system, `baseline` of the other, and their difference."""

    name: str
    value: float
    baseline: float
    difference: float
    p_value: float
    signature: str


@dataclass(frozen=True)
class Text:
    """A plain text file to score."""

    file: str
    sha256: str
    lines: list[str]


def read_text(path: str) -> Text:
    """Read plain UTF-8 text, one sentence per line. Only a line feed ends a line, because text may contain U+2028.

    Raises:
        InputError: the file is empty, not UTF-8, or has split hyphens
    """
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise InputError(f"{path} is empty")
    parts = data.split(b"\n")
    if not parts[-1]:
        parts.pop()
    lines = []
    for number, part in enumerate(parts, start=1):
        try:
            lines.append(part.rstrip(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} has invalid UTF-8 in line {number}: {error.reason}") from error
    _reject_split_hyphens(lines, f"{path}, ")
    return Text(path, hashlib.sha256(data).hexdigest(), lines)


def read_parallel(*paths: str) -> list[Text]:
    """Read parallel files.

    Raises:
        InputError: the numbers of lines differ; see also `read_text`
    """
    first, *others = texts = [read_text(path) for path in paths]
    for other in others:
        if len(other.lines) != len(first.lines):
            raise InputError(
                f"{first.file} has {len(first.lines)} lines and {other.file} has {len(other.lines)}: "
                "the files must be parallel, line by line"
            )
    return texts


def why_not_tokenized(lang: str) -> str:
    """Return why a language has no tokenized BLEU, or "" if it has one.

    Raises:
        InputError: sacremoses is not installed
    """
    try:
        import sacremoses.corpus
    except ImportError as error:
        raise InputError("tokenized BLEU requires sacremoses: pip install 'fairseq-resmlp[reproduce]'") from error
    # sacremoses accepts any name and applies English rules to unknown ones; it does not segment Chinese.
    known = sorted(set(sacremoses.corpus.NonbreakingPrefixes().available_langs.values()) - {"zh", "yue"})
    if lang in known:
        return ""
    return f"the Moses tokenizer does not support language {lang}, only {', '.join(known)}"


def moses_tokenize(lines: Sequence[str], lang: str) -> list[str]:
    """Tokenize plain text like Moses' tokenizer.perl without -a: hyphenated words are not split.

    Raises:
        InputError: the tokenizer does not support the language, or hyphens are already split
    """
    from sacremoses import MosesTokenizer

    unknown = why_not_tokenized(lang)
    if unknown:
        raise InputError(unknown)
    _reject_split_hyphens(lines)
    tokenizer = MosesTokenizer(lang)
    return [tokenizer.tokenize(line, aggressive_dash_splits=False, return_str=True) for line in lines]


def compound_split(tokenized: Sequence[str]) -> list[str]:
    """Split compounds at their hyphens. Raises InputError if they are already split."""
    _reject_split_hyphens(tokenized)
    # On bytes, like perl: both hyphens of 1-ä-3 are split, but only the first of 1-2-3.
    return [re.sub(rb"(\S)-(\S)", rb"\1 ##AT##-##AT## \2", line.encode()).decode() for line in tokenized]


def _reject_split_hyphens(lines: Sequence[str], where: str = "") -> None:
    for number, line in enumerate(lines, start=1):
        for mark in ("##AT##", "@-@"):
            if mark in line:
                raise InputError(f"{where}line {number} contains {mark}: its hyphens are already split; use plain text")


def score(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> list[Score]:
    """Score plain text: sacreBLEU, chrF2, tokenized BLEU and, for German, compound-split tokenized BLEU.

    Tokenized BLEU is omitted if `why_not_tokenized` gives a reason.

    Raises:
        InputError: the numbers of lines differ, hyphens are already split, or a package is missing
    """
    from sacrebleu.metrics import CHRF

    _check_parallel(hypotheses, references)
    scores = [
        _score("sacreBLEU", _bleu(target_lang), hypotheses, references, "plain text, tokenized by sacreBLEU"),
        _score("chrF2", CHRF(), hypotheses, references, "character n-grams of plain text"),
    ]
    if why_not_tokenized(target_lang):
        return scores
    tokens = (moses_tokenize(hypotheses, target_lang), moses_tokenize(references, target_lang))
    moses = f"Moses tokenizer of sacremoses {package_version('sacremoses')}, language {target_lang}, hyphens not split"
    scores.append(_score("tokenized BLEU", _bleu_of_tokens(), *tokens, f"both sides: {moses}"))
    if target_lang == "de":
        note = f"both sides: {moses}, then compounds split, a-b to a ##AT##-##AT## b"
        split = (compound_split(tokens[0]), compound_split(tokens[1]))
        scores.append(_score("compound-split tokenized BLEU", _bleu_of_tokens(), *split, note))
    return scores


def sacrebleu(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> float:
    """Return the sacreBLEU of `score` alone.

    Raises:
        InputError: the numbers of lines differ, or a package is missing
    """
    _check_parallel(hypotheses, references)
    value: float = _bleu(target_lang).corpus_score(hypotheses, [references]).score
    return value


def _bleu(lang: str):
    """Return sacreBLEU's metric with its tokenizer for the language."""
    from sacrebleu.metrics import BLEU

    try:
        return BLEU(trg_lang=lang)
    except RuntimeError as error:
        raise InputError(f"sacreBLEU for {lang} requires another package: pip install 'sacrebleu[{lang}]'") from error


def _bleu_of_tokens():
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="none", force=True)  # force: no warning that the text looks tokenized


def _score(name: str, metric, hypotheses: Sequence[str], references: Sequence[str], note: str) -> Score:
    value = metric.corpus_score(hypotheses, [references]).score
    return Score(name, value, metric.get_signature().format(), note)


def _check_parallel(*sides: Sequence[str]) -> None:
    # sacreBLEU silently stops at the shorter side.
    if len({len(side) for side in sides}) != 1:
        raise InputError(f"the numbers of lines differ: {', '.join(str(len(side)) for side in sides)}")


def compare(
    hypotheses: Sequence[str], baseline: Sequence[str], references: Sequence[str], target_lang: str
) -> list[Comparison]:
    """Test with a paired bootstrap whether two systems differ in sacreBLEU and chrF2.

    The seed is sacreBLEU's, 12345 or the environment variable SACREBLEU_SEED.
    """
    from sacrebleu.metrics import CHRF
    from sacrebleu.significance import PairedTest

    _check_parallel(hypotheses, baseline, references)
    systems = [("baseline", baseline), ("hypotheses", hypotheses)]
    metrics = {"BLEU": _bleu(target_lang), "chrF2": CHRF()}
    results: Any
    signatures, results = PairedTest(
        systems, metrics, [references], test_type="bs", n_samples=BOOTSTRAP_SAMPLES, n_jobs=1
    )()
    comparisons = []
    for key, name in (("BLEU", "sacreBLEU"), ("chrF2", "chrF2")):
        other, own = results[key]
        difference = own.score - other.score
        # Comparing a system with itself, sacreBLEU returns its smallest p, 1 / 1001.
        p_value = own.p_value if difference else 1.0
        comparisons.append(Comparison(name, own.score, other.score, difference, p_value, signatures[key].format()))
    return comparisons


def paper_remark(corpus: object) -> str | None:
    """Return what the paper reports on a corpus such as wmt14.en-de, or None if it does not use the corpus."""
    return PAPER.format(*PAPER_BLEU[corpus]) if isinstance(corpus, str) and corpus in PAPER_BLEU else None


def table(
    scores: Sequence[Score],
    comparisons: Sequence[Comparison] = (),
    baseline: str | None = None,
    remark: str | None = None,
) -> str:
    """Format scores as text: name, value, signature and note, followed by comparisons and a remark."""
    lines = []
    for s in scores:
        lines += [f"{s.name:<30}{s.value:>5.1f}  {s.signature}", f"    {s.note}"]
    if comparisons:
        lines += ["", f"Paired bootstrap test against {baseline}, {BOOTSTRAP_SAMPLES} samples:"]
        lines += [f"{'':<30}{'this':>5}{'baseline':>10}{'difference':>12}{'p':>8}"]
    for c in comparisons:
        lines += [
            f"{c.name:<30}{c.value:>5.1f}{c.baseline:>10.1f}{c.difference:>+12.1f}{c.p_value:>8.3f}  {c.signature}"
        ]
    if remark:
        lines += ["", textwrap.fill(remark, 110)]
    return "\n".join(lines)
