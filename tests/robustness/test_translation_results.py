"""Results of `Translator` and `BatchQueue` for any text, any options and any order of requests."""

import random
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from fairseq_resmlp.inference import BatchQueue, TranslationOptions, Translator
from fairseq_resmlp.model.export import export_model
from support.paths import GOLDEN
from support.texts import EDGE_CASES, PLAIN

PARTS = [
    "The old king",
    " sees",
    " a",
    " dog",
    ".",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\u2028",
    ", ",
    "!",
    "?",
    "漢字",
    "。",
    "ﬁ",
    "½",
]
PARTS += ["e\u0301", "\ufffd", "\ud800", "▁", "\u200b", "\xa0", "x" * 40, "Dr. ", "\U0001f600", "\0", "\u202e", "שלום"]
TIMEOUT = 300  # seconds, of a test that hangs


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A translator with the golden model, N = 40."""
    directory = tmp_path_factory.mktemp("model") / "float32"
    export_model(str(GOLDEN), str(directory), dtype="float32")
    return Translator.load(str(directory), threads=1)


def random_text(rng):
    return "".join(rng.choices(PARTS, k=rng.randrange(12)))


def words_at(text, spans):
    return [text[start:end] for start, end in spans]


def test_alignments_are_words_of_source_and_translation(translator, request, record_promise):
    rng, count = random.Random(5), request.config.getoption("--fuzz-lines") // 20
    texts = [text for text in EDGE_CASES if len(text) < 300]
    texts += [random_text(rng) for _ in range(count)]
    for split in (True, False):
        found = translator.translate_batch(texts, beam=2, n_best=2, max_len_b=3, alignments=True, split_sentences=split)
        assert len(found) == len(texts)
        for text, translation in zip(texts, found):
            assert len(translation.source) == len(text) and "\ud800" not in translation.source
            for hypothesis in translation.hypotheses:
                if split:  # white space around the text is kept
                    assert hypothesis.text[: len(text) - len(text.lstrip())].strip() == ""
                else:
                    assert hypothesis.text == " ".join(hypothesis.text.split())
                aligned = {alignment.target for alignment in hypothesis.alignments}
                assert "".join(words_at(hypothesis.text, sorted(aligned))) == "".join(hypothesis.text.split())
                for word in words_at(translation.source, {alignment.source for alignment in hypothesis.alignments}):
                    assert word and word == word.strip()
                assert all(0 <= alignment.weight <= 1.001 for alignment in hypothesis.alignments)
    record_promise(
        "Every target word is aligned, and alignments are words of source and translation, for any text",
        f"{len(texts):,} texts, with and without splitting into sentences",
    )


def test_concurrent_requests_get_their_own_results(translator, request, record_promise):
    """Requests have one of three sets of options, up to five lines, and a fifth of them is cancelled."""
    rng, count = random.Random(7), request.config.getoption("--fuzz-lines")
    choices = [
        {"beam": 2, "max_len_b": 6},
        {"beam": 2, "max_len_b": 6, "split_sentences": True},
        {"beam": 1, "max_len_b": 4},
    ]
    requests = [
        ([random_text(rng) for _ in range(rng.randrange(6))], rng.choice(choices), rng.random() < 0.2)
        for _ in range(count // 6)
    ]
    batches = []
    queue = BatchQueue(translator, max_waiting=len(requests), on_batch=batches.append)

    def translate(item):
        lines, options, is_cancelled = item
        steps = []
        future = queue.submit(lines, TranslationOptions(**options), on_step=steps.append)
        if is_cancelled and (lines == [] or len(lines[0]) % 2 or steps):
            future.cancel()
        try:
            return future.result(TIMEOUT)
        except CancelledError:
            return None

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(translate, requests))
    assert len(queue) == 0
    queue.close()
    complete = [(item, result) for item, result in zip(requests, results) if result is not None]
    assert len(complete) >= 0.8 * len(requests) - 5 and max(batches) > 8
    for options in choices:
        lines = [line for (lines, chosen, _), result in complete if chosen is options for line in lines]
        texts = [found.text for (_, chosen, _), result in complete if chosen is options for found in result]
        assert texts == [found.text for found in translator.translate_batch(lines, **options)]
    record_promise(
        "Concurrent requests to a `BatchQueue` get the results that they get alone, while others are cancelled",
        f"{len(complete):,} of {len(complete):,} requests in float32, {len(requests) - len(complete):,} cancelled",
    )


def test_text_without_translation_is_kept(translator):
    for text in ("", " ", " \n\n\t", "\u2028"):
        (found,) = translator.translate_batch([text], split_sentences=True)
        assert (found.text, found.score, found.unknown) == (text, 0.0, 0)
    (found,) = translator.translate_batch([f"\n{PLAIN}\n\n"], beam=2, max_len_b=6, split_sentences=True)
    assert found.text.startswith("\n") and found.text.endswith("\n\n") and found.text.count("\n") == 3
