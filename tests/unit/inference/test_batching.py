"""The queue translates requests that arrive together in shared batches, and each gets its own result."""

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference import BatchQueue, QueueFull, TranslationOptions
from fairseq_resmlp.inference.beam_search import NOT_FINITE
from support.inference import SHORT, translate
from support.texts import PLAIN

OPTIONS = TranslationOptions(**SHORT)
LINES = [PLAIN, "Two dogs.", "", "A boy hopes."]
TIMEOUT = 60  # seconds, of a test that hangs


class Gate:
    """Holds a search at its first step until it is opened. Pass it as `on_step`."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, texts):
        self.reached.set()
        assert self.opened.wait(TIMEOUT)


@pytest.fixture
def batches():
    """The sizes of the batches of `queue`."""
    return []


@pytest.fixture
def queue(translator, batches):
    queue = BatchQueue(translator, max_waiting=40, on_batch=batches.append)
    yield queue
    queue.close()


@pytest.fixture
def held(queue):
    """A gate at which the queue waits within the search of a request, and the future of this request."""
    gate = Gate()
    future = queue.submit(["A man sees a dog."], OPTIONS, on_step=gate)
    assert gate.reached.wait(TIMEOUT)
    yield gate, future
    gate.opened.set()


def test_requests_that_wait_share_a_batch_and_get_their_own_results(queue, held, translator, batches):
    gate, _ = held
    futures = [
        queue.submit([line, PLAIN], TranslationOptions(**SHORT, n_best=1 + i % 2)) for i, line in enumerate(LINES)
    ]
    gate.opened.set()
    for i, (line, future) in enumerate(zip(LINES, futures)):
        found = future.result(TIMEOUT)
        assert [translation.text for translation in found] == translate(translator, [line, PLAIN])
        assert len(found[1].hypotheses) == 1 + i % 2
    assert batches == [1, 7]  # the empty line is not searched


def test_requests_with_other_search_options_have_their_own_batch(queue, held, translator, batches):
    gate, _ = held
    first, other, third = (queue.submit([PLAIN], TranslationOptions(beam=2, max_len_b=n)) for n in (10, 5, 10))
    gate.opened.set()
    expected = [translator.translate_batch([PLAIN], beam=2, max_len_b=n)[0].text for n in (10, 5)]
    assert [future.result(TIMEOUT)[0].text for future in (first, other, third)] == [*expected, expected[0]]
    assert batches == [1, 2, 1]


@pytest.mark.parametrize("max_len_b, after", [(10, 2), (9, 3)])
def test_a_short_request_does_not_wait_for_a_long_one(max_len_b, after, queue, held, translator, batches):
    gate, _ = held
    long = queue.submit([f"A boy sees {i} dogs." for i in range(translator.max_batch * 3)], OPTIONS)
    short = queue.submit([PLAIN], TranslationOptions(beam=2, max_len_b=max_len_b))
    finished = []
    long.add_done_callback(lambda future: finished.append(("long", len(batches))))
    short.add_done_callback(lambda future: finished.append(("short", len(batches))))
    gate.opened.set()
    wait([long, short], TIMEOUT)
    assert finished == [("short", after), ("long", 5)]
    assert len(long.result()) == translator.max_batch * 3


def test_every_concurrent_request_gets_its_own_result(queue, translator):
    texts = [f"{line} {i}" for i in range(8) for line in LINES]
    expected = translate(translator, texts)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: queue.submit([text], OPTIONS).result(TIMEOUT)[0].text, texts))
    assert found == expected
    assert len(queue) == 0


def test_a_full_queue_refuses_requests_until_one_is_finished_or_cancelled(translator):
    queue, gate = BatchQueue(translator, max_waiting=2), Gate()
    running = queue.submit([PLAIN], OPTIONS, on_step=gate)
    waiting = queue.submit([PLAIN], OPTIONS)
    assert gate.reached.wait(TIMEOUT)
    with pytest.raises(QueueFull, match="2 requests are waiting already: try again later"):
        queue.submit([PLAIN], OPTIONS)
    assert waiting.cancel() and len(queue) == 1
    again = queue.submit([PLAIN], OPTIONS)
    assert running.cancel() and len(queue) == 1  # also in the middle of its search
    gate.opened.set()
    assert [translation.text for translation in again.result(TIMEOUT)] == translate(translator, [PLAIN])
    for future in (running, waiting):
        with pytest.raises(CancelledError):
            future.result()
    queue.close()


def test_a_cancelled_request_leaves_the_search_and_the_others_continue(queue, held, translator, monkeypatch):
    rows, steps = [], []
    step = translator.network.step
    monkeypatch.setattr(
        translator.network, "step", lambda tokens, *rest: rows.append(len(tokens)) or step(tokens, *rest)
    )
    gate, _ = held

    def cancel_at_step_3(texts):
        steps.append(texts)
        if len(steps) == 3:
            assert cancelled.cancel()

    cancelled = queue.submit(["A boy hopes.", "Two dogs."], OPTIONS, on_step=cancel_at_step_3)
    other = queue.submit([PLAIN], OPTIONS)
    rows.clear()
    gate.opened.set()
    assert other.result(TIMEOUT)[0].text == translate(translator, [PLAIN])[0]
    assert cancelled.cancelled() and len(steps) == 3
    shared = rows[rows.index(3) :]  # the first step of the three sentences
    beam = OPTIONS.beam
    assert shared[:4] == [3, 3 * beam, 3 * beam, beam] and set(shared[3:11]) == {beam}


def test_on_step_receives_the_growing_translation_of_each_line(queue, translator):
    seen, expected = [], []
    queue.submit([PLAIN], OPTIONS, on_step=seen.extend).result(TIMEOUT)
    (sentence,) = translator.prepare(PLAIN, OPTIONS).sentences
    translator.search([sentence.ids], OPTIONS, lambda targets: expected.append(translator.decode(targets[0])))
    assert seen == expected and len(seen[2]) < len(seen[-1])


def test_on_step_joins_the_sentences_of_a_line(queue, translator):
    seen = []
    lines = [f"{PLAIN} \n {PLAIN}", ""]
    options = TranslationOptions(**SHORT, split_sentences=True)
    found = queue.submit(lines, options, on_step=lambda texts: seen.append(list(texts))).result(TIMEOUT)
    assert found == translator.translate_batch(lines, **SHORT, split_sentences=True)
    for texts in seen:
        first, _, second = texts[0].partition(" \n ")
        assert first == second and texts[1] == ""
    assert first


def test_an_error_concerns_only_the_request_that_caused_it(queue, held, translator, monkeypatch):
    search = translator.search

    def fail_for_two_dogs(sources, *more):
        if any(source == refused for source in sources):
            raise InputError(NOT_FINITE)
        return search(sources, *more)

    (refused,) = (sentence.ids for sentence in translator.prepare("Two dogs.", OPTIONS).sentences)
    monkeypatch.setattr(translator, "search", fail_for_two_dogs)
    gate, _ = held

    def broken(texts):
        raise RuntimeError("the client is gone")

    good, bad, raising = (
        queue.submit([PLAIN, line], OPTIONS, on_step=on_step)
        for line, on_step in (("A boy hopes.", None), ("Two dogs.", None), ("A dog.", broken))
    )
    gate.opened.set()
    with pytest.raises(InputError, match="no translation with a finite score"):
        bad.result(TIMEOUT)
    with pytest.raises(RuntimeError, match="the client is gone"):
        raising.result(TIMEOUT)
    assert good.result(TIMEOUT)[0].text == translate(translator, [PLAIN])[0]
    assert queue.submit([PLAIN], OPTIONS).result(TIMEOUT)


def test_closing_cancels_all_requests_within_a_step(translator):
    queue, gate = BatchQueue(translator), Gate()
    steps = []
    running = queue.submit([PLAIN], OPTIONS, on_step=lambda texts: steps.append(texts) or gate(texts))
    waiting = queue.submit([PLAIN], OPTIONS)
    assert gate.reached.wait(TIMEOUT)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(queue.close)
        while not (running.cancelled() and waiting.cancelled()):
            time.sleep(0.001)
        gate.opened.set()
        closing.result(TIMEOUT)
    assert running.cancelled() and waiting.cancelled() and len(steps) == 1
    with pytest.raises(RuntimeError, match="the queue was closed"):
        queue.submit([PLAIN], OPTIONS)
