"""Waiting for translations while the client is connected, and sending them as server-sent events."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.translation import Translation
from fairseq_resmlp.server.guard import UNEXPECTED
from fairseq_resmlp.server.models import ServedModel

logger = logging.getLogger(__name__)

UPDATE_INTERVAL = 0.1  # seconds


class ClientGone(Exception):
    """The client has closed the connection."""


@asynccontextmanager
async def submitted(
    model: ServedModel, texts: Sequence[str], **options: Any
) -> AsyncIterator["Future[list[Translation]]"]:
    """Submit texts to a model. If they are not translated on exit, they are withdrawn.

    Arguments and errors are those of `ServedModel.submit`.
    """
    futures: list[Future[list[Translation]]] = []
    try:
        # In a thread, because tokenization takes time. It ends even if this task is cancelled meanwhile.
        await run_in_threadpool(lambda: futures.append(model.submit(texts, **options)))
        yield futures[0]
    finally:
        for future in futures:
            future.cancel()


async def while_connected(task: "asyncio.Future[Any]", receive: Receive) -> Any:
    """Return the result of a task. The body of the request must have been read.

    Raises:
        ClientGone: the client has closed the connection; the task is cancelled
    """
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.wait([task, gone])


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A translation as server-sent events.

    Args:
        model: the model
        texts: what to translate
        start: data of the first event
        partial: returns the data of a partial event from the latest translations
        result: returns the data of the last event from the result
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        model: ServedModel,
        texts: Sequence[str],
        start: Mapping[str, Any],
        partial: Callable[[list[str]], Mapping[str, Any]],
        result: Callable[[list[Translation]], Mapping[str, Any]],
    ):
        super().__init__(headers={"x-accel-buffering": "no"})  # else nginx collects the events
        del self.headers["content-length"]
        self.model, self.texts = model, texts
        self.start, self.partial, self.result = start, partial, result

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        latest: deque[list[str]] = deque(maxlen=1)  # a slow client gets fewer events
        async with submitted(
            self.model, self.texts, n_best=self.model.beam, alignments=True, on_step=latest.append
        ) as future:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with suppress(ClientGone):  # the status has been sent, so no handler of this error can answer
                await while_connected(asyncio.ensure_future(self._send_events(send, future, latest)), receive)

    async def _send_events(self, send: Send, future: "Future[list[Translation]]", latest: deque[list[str]]) -> None:
        async def send_event(name: str, data: Mapping[str, Any], is_last: bool = False) -> None:
            event = f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
            await send({"type": "http.response.body", "body": event.encode(), "more_body": not is_last})

        start = time.perf_counter()
        await send_event("start", self.start)
        translations = asyncio.wrap_future(future)
        while not translations.done():
            await asyncio.wait([translations], timeout=UPDATE_INTERVAL)
            if latest and not translations.done():
                await send_event("partial", self.partial(latest.pop()))
        try:
            result = self.result(translations.result())
        except InputError as error:
            await send_event("error", {"error": str(error), "status": 400}, is_last=True)
        except Exception:
            logger.exception("a translation failed")
            await send_event("error", {"error": UNEXPECTED, "status": 500}, is_last=True)
        else:
            await send_event("result", {**result, "seconds": round(time.perf_counter() - start, 3)}, is_last=True)
