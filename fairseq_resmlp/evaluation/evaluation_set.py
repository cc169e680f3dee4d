"""Translations, alignments and scores of a model on the test and validation text of its run."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import LanguagePairDataset, encoders
from fairseq.tokenizer import tokenize_line
from sacrebleu.metrics import BLEU
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.evaluation.run_directory import RunDirectory
from fairseq_resmlp.model.hub import HubTranslator
from fairseq_resmlp.model.pruning import prune

BEAM = 4
# Tokens of a translation: at most twice those of the source plus 20
MAX_LENGTH: dict[str, Any] = {"max_len_a": 2, "max_len_b": 20}


class AlignedTranslation(NamedTuple):
    """A translation and the cross-attention of the last decoder layer, averaged over its heads.

    `attention` is T x S; row t is the distribution of target token t over the source tokens. Both sides end with </s>.
    """

    text: str
    source: list[str]
    target: list[str]
    attention: np.ndarray


class PrunedScores(NamedTuple):
    """Scores of a model pruned with a threshold: fraction of weights removed (see `prune`), BLEU and perplexity."""

    threshold: float
    removed: float
    bleu: float
    perplexity: float


class EvaluationSet:
    """The first lines of the raw test and validation text of a run.

    Args:
        run: the run directory
        cfg, task: from `RunDirectory.load`
        sentences: maximum number of lines of either text; validation pairs longer than N are skipped

    Raises:
        InputError: the text or the SentencePiece model is missing, or all validation pairs are longer than N
    """

    def __init__(self, run: RunDirectory, cfg, task, sentences: int):
        self.cfg, self.task = cfg, task
        languages = (task.cfg.source_lang, task.cfg.target_lang)
        self.test, *test = run.text("test", languages)
        _, *valid = run.text("valid", languages)
        self.sources, self.references = (side[:sentences] for side in test)
        bpe = encoders.build_bpe(cfg.bpe)
        encoded = [
            [dictionary.encode_line(bpe.encode(line), add_if_not_exist=False).long() for line in side[:sentences]]
            for dictionary, side in zip((task.source_dictionary, task.target_dictionary), valid)
        ]
        N = (cfg.model.encoder_max_positions, cfg.model.decoder_max_positions)
        self.pairs = [pair for pair in zip(*encoded) if all(len(side) <= n for side, n in zip(pair, N))]
        if not self.pairs:
            raise InputError(f"all validation pairs of {run.name} exceed the N of its model")

    @property
    def median_lengths(self) -> tuple[int, int]:
        """Median number of tokens of the validation sentences, including the end-of-sentence token: source, target."""
        source, target = (int(np.median([len(side) for side in sides])) for sides in zip(*self.pairs))
        return source, target

    def translate(self, model: nn.Module) -> list[AlignedTranslation]:
        """Translate the test sentences with beam search.

        The length is limited to `MAX_LENGTH`, because a damaged model may never predict the end of a sentence.
        """
        # A copy, because generation folds the Affs.
        translator = HubTranslator(self.cfg, self.task, [copy.deepcopy(model)])
        tokens = [translator.encode(line) for line in self.sources]
        hypotheses = translator.generate(tokens, beam=BEAM, **MAX_LENGTH)
        found = []
        for line, (best, *_) in zip(self.sources, hypotheses):
            subwords = tokenize_line(translator.apply_bpe(line))  # including those that the dictionary lacks
            attention = best["attention"].t().cpu().numpy()
            S = min(len(subwords) + 1, attention.shape[1])  # a line longer than N was truncated
            source = [*subwords[: S - 1], "</s>"]
            target = [translator.tgt_dict[token] for token in best["tokens"]]
            text = translator.decode(best["tokens"])
            found.append(AlignedTranslation(text, source, target, attention[:, -S:]))  # the batch is padded on the left
        return found

    def bleu(self, translations: Sequence[AlignedTranslation]) -> tuple[float, str]:
        """Return the sacreBLEU score of translations of the test sentences, and its signature."""
        bleu = BLEU()
        value = bleu.corpus_score([t.text for t in translations], [self.references]).score
        return value, str(bleu.get_signature())

    def perplexity(self, model: nn.Module) -> float:
        """Return fairseq's ppl: 2^(bits per validation target token), including end-of-sentence tokens."""
        sources, targets = (list(side) for side in zip(*sorted(self.pairs, key=lambda pair: len(pair[1]))))
        dataset = LanguagePairDataset(
            *(sources, [len(side) for side in sources], self.task.source_dictionary),
            *(targets, [len(side) for side in targets], self.task.target_dictionary),
            shuffle=False,
        )
        pad = self.task.target_dictionary.pad()
        loss, count = 0.0, 0
        for start in range(0, len(dataset), 64):
            sample = dataset.collater([dataset[i] for i in range(start, min(start + 64, len(dataset)))])
            target = sample["target"].flatten()
            with torch.inference_mode():
                logits, _ = model(**sample["net_input"])
                loss += float(F.cross_entropy(logits.flatten(0, 1), target, ignore_index=pad, reduction="sum"))
            count += int(target.ne(pad).sum())
        return float(np.exp(loss / count))

    def prune(
        self, model: nn.Module, weights: Callable[[nn.Module], Iterable[Tensor]], thresholds: Sequence[float]
    ) -> Iterator[PrunedScores]:
        """Score copies of a model without the small entries of `weights(model)`, for each threshold."""
        for threshold in thresholds:
            pruned = copy.deepcopy(model)
            removed = prune(weights(pruned), threshold)
            yield PrunedScores(threshold, removed, self.bleu(self.translate(pruned))[0], self.perplexity(pruned))
