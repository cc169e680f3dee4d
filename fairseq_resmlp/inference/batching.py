"""A queue that translates the requests of concurrent callers together.

queue = BatchQueue(Translator.load("model"), max_waiting=100)
future = queue.submit(["The old king sees a dog."], TranslationOptions(beam=4))
future.result()    # [Translation(...)]
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from fairseq_resmlp.inference.line import Line, Sentence
from fairseq_resmlp.inference.translation import Translation, TranslationOptions
from fairseq_resmlp.inference.translator import Translator


class QueueFull(Exception):
    """The queue has as many requests as it may have. Try again later."""


class BatchQueue:
    """A thread that translates requests, several of them in one batch.

    Requests share a batch if their search options are equal (`TranslationOptions.search`). Each gets its turn in every
    batch, so a short request does not wait for a long one. An error in one request does not affect the others.

    Args:
        translator: the model
        max_waiting: maximum number of unfinished requests
        on_batch: called before each batch with its number of sentences, for statistics
    """

    def __init__(
        self, translator: Translator, max_waiting: int = 64, on_batch: Callable[[int], object] = lambda sentences: None
    ):
        self.translator, self.max_waiting, self.on_batch = translator, max_waiting, on_batch
        self._requests: list[_Request] = []
        self._is_closed = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._run, name="translation", daemon=True)
        self._worker.start()

    def submit(
        self,
        lines: Sequence[str],
        options: TranslationOptions,
        *,
        on_step: Callable[[list[str]], object] | None = None,
    ) -> "Future[list[Translation]]":
        """Add a request.

        Args:
            lines: any text
            options: options of the search and of the result
            on_step: called from the thread of the queue after each step of the search with the best translation of
                each line so far. It delays all requests until it returns. If it raises an exception, the request fails
                with it.

        Returns:
            a future with one result per line. `cancel` works at any time before the result is there, and frees the
            place; a search that is in progress continues without the request. Errors are those of
            `Translator.translate_batch`.

        Raises:
            QueueFull: `max_waiting` requests are not finished
            RuntimeError: the queue was closed
        """
        request = _Request([self.translator.prepare(line, options) for line in lines], options, on_step)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the queue was closed")
            if len(self) >= self.max_waiting:
                raise QueueFull(f"{self.max_waiting} requests are waiting already: try again later")
            self._requests.append(request)
            self._changed.notify()
        return request.future

    def __len__(self) -> int:
        """Return the number of unfinished requests."""
        with self._changed:
            return sum(not request.future.done() for request in self._requests)

    def close(self) -> None:
        """Cancel all requests and end the thread. A search in progress ends after its current step."""
        with self._changed:
            self._is_closed = True
            for request in self._requests:
                request.future.cancel()
            self._changed.notify()
        self._worker.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requests or self._is_closed)
                if not self._requests:
                    return
                batch = self._next_batch()
            if batch:
                self._translate(batch)
            finished = [request for request in list(self._requests) if request.settle()]
            with self._changed:
                self._requests = [request for request in self._requests if request not in finished]

    def _next_batch(self) -> "list[tuple[_Request, Sentence]]":
        """Take a sentence from each request that can share a batch, in turn, until the batch is full."""
        requests = [request for request in self._requests if request.todo and not request.is_over]
        sharing = deque(request for request in requests if request.options.search == requests[0].options.search)
        batch: list[tuple[_Request, Sentence]] = []
        while sharing:
            request = sharing.popleft()
            if batch and not self.translator.fits([sentence for _, sentence in batch], request.todo[0]):
                break
            batch.append((request, request.todo.popleft()))
            if request.todo:
                sharing.append(request)
        served = {id(request) for request, _ in batch}
        self._requests.sort(key=lambda request: id(request) in served)  # next time, the others come first
        return batch

    def _translate(self, batch: "list[tuple[_Request, Sentence]]") -> None:
        requests = {id(request): request for request, _ in batch}.values()

        def step_callback(targets: list[list[int]]) -> list[int]:
            for (request, sentence), tokens in zip(batch, targets):
                if request.on_step:
                    sentence.partial = self.translator.decode(tokens)
            for request in requests:
                request.step()
            return [i for i, (request, _) in enumerate(batch) if request.is_over]

        try:
            self.on_batch(len(batch))
            self.translator.translate_sentences([sentence for _, sentence in batch], step_callback)
        except Exception as error:
            if len(requests) == 1:
                batch[0][0].error = error
                return
            for failed in requests:
                self._translate([(request, sentence) for request, sentence in batch if request is failed])


class _Request:
    """Lines to translate, and the future of their translations.

    The future is not marked as running, so that `Future.cancel` works until the result is there.
    """

    def __init__(
        self,
        lines: list[Line],
        options: TranslationOptions,
        on_step: Callable[[list[str]], object] | None,
    ):
        self.lines, self.options, self.on_step = lines, options, on_step
        self.future: Future[list[Translation]] = Future()
        self.error: Exception | None = None
        waiting = (sentence for line in lines for sentence in line.sentences if sentence.is_waiting)
        self.todo = deque(sorted(waiting, key=lambda sentence: -len(sentence.ids)))

    @property
    def is_over(self) -> bool:
        """Whether nobody needs further results."""
        return self.error is not None or self.future.done()

    def step(self) -> None:
        """Call `on_step`."""
        if self.on_step and not self.is_over:
            try:
                self.on_step([line.partial for line in self.lines])
            except Exception as error:
                self.error = error

    def settle(self) -> bool:
        """Set the result of the future if it is known. Returns whether the request is finished."""
        if not self.is_over and not all(line.is_complete for line in self.lines):
            return False
        if self.future.set_running_or_notify_cancel():
            if self.error:
                self.future.set_exception(self.error)
            else:
                self.future.set_result([line.translation() for line in self.lines])
        return True
