"""Translation of text with an exported model.

translator = Translator.load("model")
(result,) = translator.translate_batch(["The old king sees a dog."], beam=4, n_best=2, alignments=True)
result.text, result.score, result.hypotheses, result.alignments
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.sentencepiece_model import check_fits_dictionaries, load_sentencepiece
from fairseq_resmlp.common.text import replace_surrogates
from fairseq_resmlp.inference.beam_search import Hypothesis, SearchOptions, StepCallback, beam_search
from fairseq_resmlp.inference.config import BOS, EOS, UNK
from fairseq_resmlp.inference.line import Line, Sentence
from fairseq_resmlp.inference.model_format import ExportedModel, load_exported_model
from fairseq_resmlp.inference.network import Network, check_device
from fairseq_resmlp.inference.sentences import SentenceSplitter
from fairseq_resmlp.inference.shortlist import Shortlist
from fairseq_resmlp.inference.translation import Translation, TranslationHypothesis, TranslationOptions, align
from fairseq_resmlp.inference.words import detokenize, encode_pieces, source_words, target_words

WINDOW = 4096  # lines that are read, sorted by length, translated, and written in their original order
_DEFAULTS = TranslationOptions()


class _TorchThreads:
    """The number of threads of torch, which translators change while they compute.

    It belongs to the process, and new threads start with it. So a thread that starts meanwhile must not take the
    changed number for the original one.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._original = threading.Lock(), 0, 0

    def number(self) -> int:
        """Return the number that nobody has changed."""
        with self._lock:
            return self._original if self._users else torch.get_num_threads()

    @contextmanager
    def changed(self, threads: int | None) -> Iterator[None]:
        """Use another number, unless it is None, and afterwards the original one."""
        with self._lock:
            if not self._users:
                self._original = torch.get_num_threads()
            self._users += 1
        try:
            torch.set_num_threads(threads or self._original)
            yield
        finally:
            with self._lock:
                self._users -= 1
                torch.set_num_threads(self._original)


_torch_threads = _TorchThreads()


class Translator:
    """An exported model, ready to translate. Threads can share it; they translate one after the other.

    Args:
        exported: from `load_exported_model`
        threads: CPU threads of torch while this translator computes; None: torch's own setting
        device: a torch device
        dtype: of the matrices; None: as stored on a CPU, float16 on a GPU
        max_batch: maximum number of sentences in a batch
        max_tokens: maximum number of source tokens in a batch, including padding; a single sentence may have more
        cuda_graphs: on a GPU, launch the kernels of a decoding step at once
        workers: on a CPU, batches of a text that are translated at the same time, each with its share of the threads,
            but not more than there are threads; None: two

    Raises:
        InputError: an option is out of range or not possible on the device
    """

    def __init__(
        self,
        exported: ExportedModel,
        threads: int | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        max_batch: int = 64,
        max_tokens: int = 4096,
        cuda_graphs: bool = False,
        workers: int | None = None,
    ):
        check_device(device)
        on_cpu = torch.device(device).type == "cpu"
        if dtype is None:
            dtype = exported.dtype if on_cpu and exported.dtype != "float16" else "float32" if on_cpu else "float16"
        self.network = Network(exported.config, exported.weights, dtype, device, cuda_graphs)
        self.threads, self.max_batch, self.max_tokens = threads, max_batch, max_tokens
        self.workers = (2 if on_cpu else 1) if workers is None else workers
        if self.workers < 1:
            raise InputError(f"--workers {workers} is out of range: use at least 1")
        if self.workers > 1 and not on_cpu:
            raise InputError(f"--workers {workers} is for CPUs: with --device {device}, use --workers 1")
        self._lock = threading.RLock()  # threads that compete for the same cores slow each other down
        self.source_ids = {entry: number for number, entry in enumerate(exported.source)}
        self.target = exported.target
        self.languages: tuple[str, str] = (exported.languages[0], exported.languages[1])
        self.sentencepiece = load_sentencepiece(exported.sentencepiece)
        check_fits_dictionaries(self.sentencepiece, exported.sentencepiece, exported.source, exported.target)
        limit = exported.config.encoder_max_positions - 1  # without the end-of-sentence token
        self.splitter = SentenceSplitter(self.languages[0], limit, lambda text: len(self.tokenize(text)))
        self.shortlist = None
        if exported.shortlist is not None:
            self.shortlist = Shortlist.read(exported.shortlist, exported.source, exported.target)

    @classmethod
    def load(cls, path: str, **kwargs: Any) -> "Translator":
        """Read an exported model from a directory. Further arguments are those of the class.

        Raises:
            InputError: see `load_exported_model` and `Network`
        """
        return cls(load_exported_model(path), **kwargs)

    def translate_batch(
        self,
        lines: Sequence[str],
        *,
        beam: int = _DEFAULTS.beam,
        n_best: int = _DEFAULTS.n_best,
        alignments: bool = _DEFAULTS.alignments,
        split_sentences: bool = _DEFAULTS.split_sentences,
        lenpen: float = _DEFAULTS.lenpen,
        unkpen: float = _DEFAULTS.unkpen,
        min_len: int = _DEFAULTS.min_len,
        max_len_a: float = _DEFAULTS.max_len_a,
        max_len_b: int = _DEFAULTS.max_len_b,
    ) -> list[Translation]:
        """Translate any number of lines. Lines of similar length are translated together.

        A line of N or more tokens is split, see `SentenceSplitter`.

        Args:
            lines: any text
            n_best, alignments, split_sentences: see `TranslationOptions`
            beam, lenpen, unkpen, min_len, max_len_a, max_len_b: see `SearchOptions`

        Returns:
            one result per line, in order

        Raises:
            InputError: an option is out of range or not possible with this model, or a sentence has no translation with
                a finite score
        """
        if isinstance(lines, str):
            raise InputError("translate_batch needs a list of lines: use [text] for a single one")
        options = TranslationOptions(
            beam, lenpen, unkpen, min_len, max_len_a, max_len_b, n_best, alignments, split_sentences
        )
        return list(self.stream([lines], options))

    def stream(
        self,
        windows: Iterable[Sequence[str]],
        options: TranslationOptions = _DEFAULTS,
        progress_callback: Callable[[int], object] = lambda lines: None,
    ) -> Iterator[Translation]:
        """Translate lists of lines, in order. Within a list, lines of similar length are translated together.

        Args:
            windows: lists of lines, for example from `read_lines`
            options: options of the search and of the result
            progress_callback: called after each batch with the number of lines that it completed. It must not wait for
                another translation

        Raises:
            InputError: see `translate_batch`
        """
        for window in windows:
            lines = [self.prepare(line, options) for line in window]
            done = sum(line.is_complete for line in lines)  # those without tokens
            progress_callback(done)
            batches = list(self.batches([sentence for line in lines for sentence in line.sentences]))
            for _ in self._translate_all(batches):
                before, done = done, sum(line.is_complete for line in lines)
                progress_callback(done - before)
            yield from (line.translation() for line in lines)

    def tokenize(self, text: str) -> list[str]:
        """Split a text into subword tokens."""
        # Like fairseq's dictionary, split at unusual spaces within subwords.
        return " ".join(self.sentencepiece.encode(replace_surrogates(text).strip(), out_type=str)).split()

    def prepare(self, line: str, options: TranslationOptions) -> Line:
        """Split a line into sentences and tokens."""
        text, sentences = replace_surrogates(line), []
        for start, end in self.splitter.split(text, options.split_sentences):
            part = text[start:end]
            tokens = self.tokenize(part)[: self.splitter.limit]
            ids = [*(self.source_ids.get(token, UNK) for token in tokens), EOS]
            sentences.append(Sentence(part, start, tokens, ids, options))
        return Line(text, sentences, options)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of entries of the target dictionary."""
        return detokenize(self._target_tokens(ids))

    def batches(self, sentences: Iterable[Sentence]) -> Iterator[list[Sentence]]:
        """Yield batches of the sentences that are to be translated, longest sentences first."""
        batch: list[Sentence] = []
        for sentence in sorted((s for s in sentences if s.is_waiting), key=lambda s: -len(s.ids)):
            if batch and not self.fits(batch, sentence):
                yield batch
                batch = []
            batch.append(sentence)
        if batch:
            yield batch

    def fits(self, batch: Sequence[Sentence], sentence: Sentence) -> bool:
        """Return whether a batch with one more sentence is within the limits."""
        longest = max(len(sentence.ids), *(len(other.ids) for other in batch), 0)
        return len(batch) < self.max_batch and (len(batch) + 1) * longest <= self.max_tokens

    def translate_sentences(self, batch: Sequence[Sentence], step_callback: StepCallback | None = None) -> None:
        """Translate a batch and store the hypotheses in its sentences, except in abandoned ones.

        Args:
            batch: sentences with equal `options.search`, from `batches`
            step_callback: see `StepCallback`

        Raises:
            InputError: see `translate_batch`
        """
        with self._lock, _torch_threads.changed(self.threads):
            self._translate(batch, step_callback)

    def _translate(
        self,
        batch: Sequence[Sentence],
        step_callback: StepCallback | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        found = self.search([sentence.ids for sentence in batch], batch[0].options.search, step_callback, stop)
        for sentence, hypotheses in zip(batch, found):
            kept = hypotheses[: sentence.options.n_best]
            sentence.hypotheses = [self._hypothesis(sentence, hypothesis) for hypothesis in kept]

    def _translate_all(self, batches: Sequence[Sequence[Sentence]]) -> Iterator[None]:
        """Translate batches, several at the same time if that keeps every worker busy. Yields after each batch.

        Small operations gain little from a second thread. Two batches with one thread each are translated faster than
        one after the other with two threads (docs/performance.md, "Threads").
        """
        threads = self.threads or _torch_threads.number()
        workers = min(self.workers, threads)
        if workers == 1 or len(batches) < 2 * workers:
            for batch in batches:
                self.translate_sentences(batch)
                yield
            return
        if self.shortlist is None:
            _ = self.network.output  # built once, not by each worker
        shares = iter([threads // workers + (i < threads % workers) for i in range(workers)])
        stop = threading.Event()
        with (
            self._lock,
            _torch_threads.changed(self.threads),
            ThreadPoolExecutor(workers, "translation", lambda: torch.set_num_threads(next(shares))) as pool,
        ):
            try:
                for done in as_completed([pool.submit(self._translate, batch, stop=stop) for batch in batches]):
                    done.result()
                    yield
            except BaseException:  # also if the caller does not continue
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def search(
        self,
        sources: Sequence[Sequence[int]],
        options: SearchOptions,
        step_callback: StepCallback | None = None,
        stop: threading.Event | None = None,
    ) -> list[list[Hypothesis]]:
        """Translate entries of the source dictionary. Arguments, result and errors are those of `beam_search`."""
        allowed = None if self.shortlist is None else self.shortlist.allowed(sources)
        return beam_search(self.network, sources, options, allowed, step_callback, stop)

    def _hypothesis(self, sentence: Sentence, found: Hypothesis) -> TranslationHypothesis:
        tokens = self._target_tokens(found.tokens)
        alignments = None
        if sentence.options.alignments:
            attention = self.network.attention(sentence.ids, found.tokens)
            pieces = encode_pieces(self.sentencepiece, sentence.text)[: self.splitter.limit]
            alignments = align(attention, source_words(sentence.text, pieces), target_words(tokens))
        return TranslationHypothesis(detokenize(tokens), found.score, tokens, alignments)

    def _target_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.target[entry] for entry in ids if entry not in (BOS, EOS)]
