r"""Four scores of the same translations, each under a name of its own.

- sacreBLEU and chrF2 are computed on the text as it is, by sacreBLEU with its defaults for the language.
- tokenized BLEU: both sides go through the Moses tokenizer (sacremoses) without its option -a, which would split
  hyphens; sacreBLEU counts the tokens (`tok:none`). Left out for languages that this tokenizer does not know.
- compound-split tokenized BLEU, for German alone: the same tokens after fairseq's compound_split_bleu.sh, on both
  sides: `perl -ple 's{(\S)-(\S)}{$1 ##AT##-##AT## $2}g'`. Text that was split before is refused.

`PAPER` says which of them the paper's tables hold.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import re
import textwrap
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Dict, List, Optional, Sequence

import torch

from . import checkpoint
from .errors import InputError

PAPER = (
    "As far as known, the table of the ResMLP paper (arXiv 2105.03404, section 3.6, Table 5) is tokenized BLEU: the "
    "paper says that it follows the setup of Ott et al. (2018, arXiv 1806.00187), who report tokenized BLEU, for En-De "
    "with compound splitting and for En-Fr without (their En-Fr text was tokenized with -a, so that its hyphens were "
    "split already: fairseq issue 2009), and sacreBLEU besides; it does not itself say whether compounds are split."
)
SAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """One score: its value as a full float, sacreBLEU's signature, and what the signature does not say."""

    name: str
    value: float
    signature: str
    note: str


@dataclass(frozen=True)
class Comparison:
    """A paired bootstrap test in one score: `value` of this system, `against` of the other, their difference."""

    name: str
    value: float
    against: float
    difference: float
    p_value: float
    signature: str


@dataclass(frozen=True)
class Text:
    """A file of plain text to score."""

    file: str
    sha256: str
    lines: List[str]


def read_text(path: str) -> Text:
    """Read plain UTF-8 text, one sentence a line; only a line feed ends a line, since text may hold U+2028.

    Raises:
        InputError: the file is empty, not UTF-8, or its hyphens were split before
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
            raise InputError(f"{path} is not UTF-8 in line {number}: {error.reason}") from error
    _refuse_split(lines, f"{path}, ")
    return Text(path, hashlib.sha256(data).hexdigest(), lines)


def read_parallel(*paths: str) -> List[Text]:
    """Read files whose lines belong together; InputError if their numbers differ or as `read_text`."""
    first, *others = texts = [read_text(path) for path in paths]
    for other in others:
        if len(other.lines) != len(first.lines):
            raise InputError(
                f"{first.file} has {len(first.lines)} lines and {other.file} has {len(other.lines)}: "
                "line n of one must belong to line n of the other"
            )
    return texts


def why_not_tokenized(lang: str) -> str:
    """Why there is no tokenized BLEU in a language, '' where there is one; InputError if sacremoses is missing."""
    try:
        import sacremoses.corpus
    except ImportError as error:
        raise InputError("tokenized BLEU needs sacremoses: pip install 'fairseq-resmlp[reproduce]'") from error
    # sacremoses takes any name and applies English rules to those it does not know; Chinese it leaves whole.
    known = sorted(set(sacremoses.corpus.NonbreakingPrefixes().available_langs.values()) - {"zh", "yue"})
    if lang in known:
        return ""
    return f"the Moses tokenizer finds no words in language {lang}, only in {', '.join(known)}"


def moses_tokenize(lines: Sequence[str], lang: str) -> List[str]:
    """Tokenize plain text as Moses' tokenizer.perl does without -a: hyphenated words stay whole.

    Raises:
        InputError: the tokenizer does not know the language, or hyphens were split before
    """
    from sacremoses import MosesTokenizer

    unknown = why_not_tokenized(lang)
    if unknown:
        raise InputError(unknown)
    _refuse_split(lines)
    tokenizer = MosesTokenizer(lang)
    return [tokenizer.tokenize(line, aggressive_dash_splits=False, return_str=True) for line in lines]


def compound_split(tokenized: Sequence[str]) -> List[str]:
    """Split compounds at their hyphens, once; InputError if that was done before."""
    _refuse_split(tokenized)
    # On bytes, as perl does it: of 1-ä-3 both hyphens are split, of 1-2-3 the first alone.
    return [re.sub(rb"(\S)-(\S)", rb"\1 ##AT##-##AT## \2", line.encode()).decode() for line in tokenized]


def _refuse_split(lines: Sequence[str], where: str = "") -> None:
    for number, line in enumerate(lines, start=1):
        for mark in ("##AT##", "@-@"):
            if mark in line:
                raise InputError(f"{where}line {number} holds {mark}: its hyphens were split already, give plain text")


def score(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> List[Score]:
    """Score plain text: sacreBLEU, chrF2, tokenized BLEU and, for German, compound-split tokenized BLEU.

    Tokenized BLEU is left out where `why_not_tokenized` says why.

    Raises:
        InputError: the numbers of lines differ, hyphens were split before, or a package is missing
    """
    from sacrebleu.metrics import CHRF

    _check_parallel(hypotheses, references)
    plain = (hypotheses, references)
    scores = [
        _score("sacreBLEU", _bleu(target_lang), *plain, "on the text as it is, tokenized by sacreBLEU alone"),
        _score("chrF2", CHRF(), *plain, "character n-grams of the text as it is"),
    ]
    if why_not_tokenized(target_lang):
        return scores
    tokens = [moses_tokenize(side, target_lang) for side in plain]
    moses = f"Moses tokenizer of sacremoses {_sacremoses_version()}, language {target_lang}, hyphens kept whole"
    scores.append(_score("tokenized BLEU", _bleu_of_tokens(), *tokens, f"both sides: {moses}"))
    if target_lang == "de":
        note = f"both sides: {moses}, then each compound split once, a-b into a ##AT##-##AT## b"
        split = [compound_split(side) for side in tokens]
        scores.append(_score("compound-split tokenized BLEU", _bleu_of_tokens(), *split, note))
    return scores


def _bleu(lang: str):
    """sacreBLEU's, with the tokenizer that it takes for a language, such as one that parts Chinese characters."""
    from sacrebleu.metrics import BLEU

    try:
        return BLEU(trg_lang=lang)
    except RuntimeError as error:
        raise InputError(f"sacreBLEU of {lang} needs another package: pip install 'sacrebleu[{lang}]'") from error


def _bleu_of_tokens():
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="none", force=True)  # force: no warning that the text looks tokenized


def _score(name: str, metric, hypotheses: Sequence[str], references: Sequence[str], note: str) -> Score:
    value = metric.corpus_score(hypotheses, [references]).score
    return Score(name, value, metric.get_signature().format(), note)


def _check_parallel(*sides: Sequence[str]) -> None:
    # sacreBLEU stops at the shorter side without a word.
    if len({len(side) for side in sides}) != 1:
        raise InputError(f"the numbers of lines differ: {', '.join(str(len(side)) for side in sides)}")


def compare(
    hypotheses: Sequence[str], against: Sequence[str], references: Sequence[str], target_lang: str
) -> List[Comparison]:
    """Test by paired bootstrap whether two systems differ in sacreBLEU and chrF2.

    The seed is sacreBLEU's, 12345 or the environment variable SACREBLEU_SEED.
    """
    from sacrebleu.metrics import CHRF
    from sacrebleu.significance import PairedTest

    _check_parallel(hypotheses, against, references)
    systems = [("against", against), ("hypotheses", hypotheses)]  # the first is the baseline
    metrics = {"BLEU": _bleu(target_lang), "chrF2": CHRF()}
    signatures, results = PairedTest(systems, metrics, [references], test_type="bs", n_samples=SAMPLES, n_jobs=1)()
    comparisons = []
    for key, name in (("BLEU", "sacreBLEU"), ("chrF2", "chrF2")):
        other, own = results[key]
        difference = own.score - other.score
        # sacreBLEU gives a system against itself the smallest p it has, 1 / 1001.
        p_value = own.p_value if difference else 1.0
        comparisons.append(Comparison(name, own.score, other.score, difference, p_value, signatures[key].format()))
    return comparisons


def table(scores: Sequence[Score], comparisons: Sequence[Comparison] = (), against: Optional[str] = None) -> str:
    """The scores as text: name, value, signature, the note below, and at the end what the paper's table holds."""
    lines = []
    for s in scores:
        lines += [f"{s.name:<30}{s.value:>5.1f}  {s.signature}", f"    {s.note}"]
    if comparisons:
        lines += ["", f"Paired bootstrap against {against}, {SAMPLES} samples:"]
        lines += [f"{'':<30}{'this':>5}{'other':>7}{'difference':>12}{'p':>8}"]
    for c in comparisons:
        lines += [f"{c.name:<30}{c.value:>5.1f}{c.against:>7.1f}{c.difference:>+12.1f}{c.p_value:>8.3f}  {c.signature}"]
    return "\n".join([*lines, "", textwrap.fill(PAPER, 110)])


# Names under which a checkpoint may hold one matrix several times.
_TIED = ("embed_tokens.weight", "output_projection.weight")
# What fairseq's own models keep among their parameters without training it.
_BUFFERS = (".version", "._float_tensor", ".dictionary_version")


def describe_checkpoint(path: str) -> Dict[str, Any]:
    """What identifies a fairseq checkpoint: its hash, updates, parameters, and how it was trained.

    Raises:
        InputError: it is not a checkpoint
    """
    state = checkpoint.read(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    history = state.get("optimizer_history") or [{}]
    return {
        "file": path,
        "sha256": digest.hexdigest(),
        "updates": history[-1].get("num_updates"),
        "parameters": count_parameters(state["model"]),
        "training_seconds": state.get("extra_state", {}).get("previous_training_time"),
        "options": state.get("cfg") or state.get("args"),
    }


def count_parameters(parameters: Dict[str, torch.Tensor]) -> int:
    """The number of trained values; tied embeddings count once, though an averaged checkpoint holds copies."""
    embeddings: List[torch.Tensor] = []
    total = 0
    for name, value in parameters.items():
        if name.endswith(_BUFFERS) or (name.endswith(_TIED) and any(torch.equal(value, e) for e in embeddings)):
            continue
        if name.endswith(_TIED):
            embeddings.append(value)
        total += value.numel()
    return total


def surroundings() -> Dict[str, Any]:
    """Versions, machine and date: what else a score may depend on."""
    import fairseq
    import sacrebleu
    import sentencepiece

    from . import __version__

    return {
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "fairseq": fairseq.__version__,
            "fairseq-resmlp": __version__,
            "sacrebleu": sacrebleu.__version__,
            "sacremoses": _sacremoses_version(),
            "sentencepiece": sentencepiece.__version__,
        },
        "machine": {
            "platform": platform.platform(),
            "cpu": _cpu(),
            "cpus": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _sacremoses_version() -> str:
    import sacremoses

    return sacremoses.__version__


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def read_records(texts: Sequence[str], files: Sequence[str]) -> Dict[str, Any]:
    """What a user adds to the JSON: NAME=VALUE each of `texts`, NAME=FILE with JSON each of `files`.

    Raises:
        InputError: no name, a name twice, or a file that is not JSON
    """
    records: Dict[str, Any] = {}
    for option, pairs, read in (("--record", texts, str), ("--record-json", files, _read_json)):
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not name or not equals:
                raise InputError(f"{option} {pair}: write NAME=..., the name under which it stands in the JSON")
            if name in records:
                raise InputError(f"{option} {pair}: there is a record of the name {name} already")
            records[name] = read(value)
    return records


def _read_json(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from error


def to_json(report: Any) -> str:
    """JSON text of scores, texts (without their lines) and plain data, with what JSON lacks as text."""
    return json.dumps(_plain(report), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Text):
        return {"file": value.file, "sha256": value.sha256}
    if isinstance(value, (Score, Comparison, argparse.Namespace)):  # some checkpoints hold options in a Namespace
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
