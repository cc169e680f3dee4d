"""The test and validation text of a run, and what a model makes of it: translations, alignments, scores."""

import copy
from typing import Callable, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import LanguagePairDataset, encoders
from fairseq.tokenizer import tokenize_line
from sacrebleu.metrics import BLEU
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InputError
from .lines import Translator
from .pruning import prune
from .run_folder import RunFolder

BEAM = 4
LIMIT = {"max_len_a": 2, "max_len_b": 20}  # pieces of a translation: at most twice the source's and 20


class Alignment(NamedTuple):
    """A translation and the cross-attention that made it: of the last decoder layer, averaged over its heads.

    `attention` is T x S: row t says where target piece t looked, each row sums to 1. Both sides end with </s>.
    """

    text: str
    source: List[str]
    target: List[str]
    attention: np.ndarray


class Pruned(NamedTuple):
    """What is left of a model below a threshold: the share of weights removed (see `prune`), BLEU and perplexity."""

    threshold: float
    removed: float
    bleu: float
    perplexity: float


class HeldOut:
    """The first lines of the raw test and validation text of a run.

    Args:
        run: where the text lies
        cfg, task: as `RunFolder.load` gives them
        sentences: the most lines of either; validation pairs longer than N are left out

    Raises:
        InputError: there is no text, or nothing to cut it with
    """

    def __init__(self, run: RunFolder, cfg, task, sentences: int):
        self.cfg, self.task = cfg, task
        languages = (task.cfg.source_lang, task.cfg.target_lang)
        self.test, *test = run.text("test", languages)
        _, *valid = run.text("valid", languages)
        self.sources, self.references = (side[:sentences] for side in test)
        bpe = encoders.build_bpe(cfg.bpe)
        cut = [
            [dictionary.encode_line(bpe.encode(line), add_if_not_exist=False).long() for line in side[:sentences]]
            for dictionary, side in zip((task.source_dictionary, task.target_dictionary), valid)
        ]
        N = (cfg.model.encoder_max_positions, cfg.model.decoder_max_positions)
        self.pairs = [pair for pair in zip(*cut) if all(len(side) <= n for side, n in zip(pair, N))]
        if not self.pairs:
            raise InputError(f"no validation pair of {run.name} fits its model")

    @property
    def median_lengths(self) -> Tuple[int, int]:
        """Pieces of the median validation sentence with its end-of-sentence mark: source, target."""
        source, target = (int(np.median([len(side) for side in sides])) for sides in zip(*self.pairs))
        return source, target

    def translate(self, model: nn.Module, **options) -> List[Alignment]:
        """Translate the test sentences by beam search, with fairseq's options of generation."""
        translator = Translator(self.cfg, self.task, [copy.deepcopy(model)])  # it folds the Affs
        tokens = [translator.encode(line) for line in self.sources]
        hypotheses = translator.generate(tokens, beam=BEAM, **options)
        found = []
        for line, (best, *_) in zip(self.sources, hypotheses):
            pieces = tokenize_line(translator.apply_bpe(line))  # not from the dictionary, which lacks some
            attention = best["attention"].t().cpu().numpy()
            S = min(len(pieces) + 1, attention.shape[1])  # a line longer than N was cut
            source = [*pieces[: S - 1], "</s>"]
            target = [translator.tgt_dict[token] for token in best["tokens"]]
            text = translator.decode(best["tokens"])
            found.append(Alignment(text, source, target, attention[:, -S:]))  # the batch is padded on the left
        return found

    def bleu(self, translations: Sequence[Alignment]) -> Tuple[float, str]:
        """sacreBLEU of translations of the test sentences, and its signature."""
        bleu = BLEU()
        value = bleu.corpus_score([t.text for t in translations], [self.references]).score
        return value, str(bleu.get_signature())

    def perplexity(self, model: nn.Module) -> float:
        """2 to the bits a target piece of validation, end-of-sentence marks among them: fairseq's ppl."""
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
    ) -> Iterator[Pruned]:
        """Score copies of a model without the small entries of `weights(model)`, a threshold after the other.

        No translation is longer than LIMIT allows: a pruned model that finds no end would take a long time.
        """
        for threshold in thresholds:
            pruned = copy.deepcopy(model)
            removed = prune(weights(pruned), threshold)
            yield Pruned(threshold, removed, self.bleu(self.translate(pruned, **LIMIT))[0], self.perplexity(pruned))
