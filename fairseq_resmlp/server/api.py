"""The answers to requests, see docs/server.md."""

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from hmac import compare_digest
from itertools import chain
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.translation import Translation
from fairseq_resmlp.server import schemas
from fairseq_resmlp.server.clients import client_name
from fairseq_resmlp.server.languages import LanguageDetector, language_name
from fairseq_resmlp.server.limits import RateLimit
from fairseq_resmlp.server.metrics import Metrics
from fairseq_resmlp.server.models import Models, ServedModel
from fairseq_resmlp.server.settings import Settings
from fairseq_resmlp.server.streaming import EventStream, submitted, while_connected

AUTO = "auto"
_LINE_BREAK = re.compile("(\r\n|\r|\n)")


class Api:
    """The answers to requests.

    Args:
        models: the models
        settings: settings of the server
        metrics: where to count characters and batches
    """

    def __init__(self, models: Models, settings: Settings, metrics: Metrics):
        self.models, self.settings, self.metrics = models, settings, metrics
        self.detector = LanguageDetector(models.sources)
        self.character_rate = RateLimit(settings.character_rate) if settings.character_rate else None

    async def translate(self, request: Request) -> Any:
        """Translate a text, or a list of texts."""
        parameters = await schemas.read_request(request, schemas.TranslateRequest)
        texts = self._accepted_texts(request, parameters)
        if parameters.alternatives >= self.settings.beam:
            raise InputError(
                f"alternatives is {parameters.alternatives:.6g}, but the maximum is {self.settings.beam - 1}, one less "
                "than the beam size: request fewer"
            )
        models = self._models(parameters)
        detected = [await self._detect(text, models) for text in texts] if parameters.source == AUTO else []
        by_source: dict[str, list[int]] = {}  # numbers of the texts in each language
        for number in range(len(texts)):
            source = detected[number].language if detected else parameters.source
            by_source.setdefault(source, []).append(number)
        parts = [(models[source], numbers) for source, numbers in by_source.items()]
        found = await self._translations(request, texts, parts, parameters.alternatives + 1)
        best = [translation.text for translation in found]
        others = [[hypothesis.text for hypothesis in translation.hypotheses[1:]] for translation in found]
        is_list = isinstance(parameters.q, list)
        answer: dict[str, Any] = {"translatedText": best if is_list else best[0]}
        if parameters.alternatives:
            answer["alternatives"] = others if is_list else others[0]
        if parameters.source == AUTO:
            answer["detectedLanguage"] = detected if is_list else detected[0]
        return answer

    async def _translations(
        self, request: Request, texts: Sequence[str], parts: Sequence[tuple[ServedModel, list[int]]], n_best: int
    ) -> list[Translation]:
        """Translate texts. Each part is a model and the numbers of its texts."""
        found: dict[int, Translation] = {}
        async with AsyncExitStack() as stack:
            futures = []
            for model, numbers in parts:
                own = [texts[number] for number in numbers]
                self._count_characters(model, own)
                futures.append(await stack.enter_async_context(submitted(model, own, n_best=n_best)))
            results = await while_connected(asyncio.gather(*map(asyncio.wrap_future, futures)), request.receive)
            for (_, numbers), translations in zip(parts, results, strict=True):
                found.update(zip(numbers, translations, strict=True))
        return [found[number] for number in range(len(texts))]

    async def stream(self, request: Request) -> Response:
        """Translate a text and send the translation while it grows."""
        parameters = await schemas.read_request(request, schemas.StreamRequest)
        (text,) = self._accepted_texts(request, parameters)
        models = self._models(parameters)
        detected = await self._detect(text, models) if parameters.source == AUTO else None
        model = models[detected.language if detected else parameters.source]
        self._count_characters(model, [text])
        lines = _LINE_BREAK.split(text)  # lines and, in between, the line breaks

        def join(translations: Sequence[str]) -> dict[str, str]:
            return {"translatedText": "".join(chain(*zip(translations, [*lines[1::2], ""])))}

        def result(translations: Sequence[Translation]) -> dict[str, Any]:
            return {
                **join([translation.text for translation in translations]),
                "lines": [_to_json(translation) for translation in translations],
            }

        start: dict[str, Any] = {"model": model.name, "source": model.source, "target": model.target}
        if detected:
            start["detectedLanguage"] = detected.model_dump()
        return EventStream(model, lines[::2], start, join, result)

    async def detect(self, request: Request) -> Any:
        """Detect the language of a text, among the source languages of the models."""
        parameters = await schemas.read_request(request, schemas.DetectRequest)
        (text,) = self._accepted_texts(request, parameters)
        ranked = await run_in_threadpool(self.detector.rank, text)
        return [{"language": code, "confidence": confidence} for code, confidence in ranked]

    async def languages(self) -> Any:
        """List the languages, and the languages into which each can be translated."""
        return self.models.languages()

    async def list_models(self) -> Any:
        """List the models with their languages and sizes."""
        return [model.description() for model in self.models.models]

    async def list_maps(self, name: str) -> Any:
        """List the layers of a model that mix tokens."""
        return [layer._asdict() for layer in self._named(name).maps.layers]

    def get_map(self, name: str, stack: str, layer: int) -> Any:
        """Return the mixing matrices A of a layer."""
        maps = self._named(name).maps
        for found in maps.layers:
            if (found.stack, found.layer) == (stack, layer):
                return JSONResponse({**found._asdict(), "A": maps.matrices(stack, layer)})
        raise HTTPException(404, "this layer was not found, or does not mix tokens: see the list of maps")

    async def frontend_settings(self) -> Any:
        """Return limits and examples, for pages."""
        first = self.models.models[0]
        return {
            "charLimit": self.settings.max_characters,
            "lineLimit": self.settings.max_lines,
            "apiKeys": bool(self.settings.api_keys),
            "keyRequired": bool(self.settings.api_keys),
            "beam": self.settings.beam,
            "examples": list(self.settings.examples),
            "language": {
                side: {"code": code, "name": language_name(code)}
                for side, code in (("source", first.source), ("target", first.target))
            },
        }

    async def health(self) -> Any:
        """Report that the server works."""
        return {"status": "ok"}

    async def show_metrics(self) -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(self.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _named(self, name: str) -> ServedModel:
        model = self.models.named(name)
        if model is None:
            raise HTTPException(404, f"model {name!r:.40} not found: see /models")
        return model

    def _accepted_texts(self, request: Request, parameters: schemas.DetectRequest) -> list[str]:
        """Return the texts of a request.

        Raises:
            HTTPException: the API key is missing or unknown, or a limit is exceeded
        """
        settings, texts = self.settings, parameters.texts
        key = (parameters.api_key or "").encode()
        if settings.api_keys and not any(compare_digest(key, known.encode()) for known in settings.api_keys):
            raise HTTPException(403, "the API key is missing or unknown: send a valid api_key")
        characters = sum(map(len, texts))
        lines = sum(len(_LINE_BREAK.findall(text)) + 1 for text in texts)
        for count, limit, unit in (
            (characters, settings.max_characters, "characters"),
            (lines, settings.max_lines, "lines"),
        ):
            if count > limit:
                raise HTTPException(413, f"the request has {count:,} {unit}, but the limit is {limit:,}: send fewer")
        if self.character_rate is not None:
            client = client_name(request.scope, settings.trusted_proxies)
            wait = math.ceil(self.character_rate.acquire(client, characters))
            if wait:
                raise HTTPException(
                    429,
                    f"the limit is {self.character_rate.count:,} characters per minute: try again in {wait} seconds",
                    {"retry-after": str(wait)},
                )
        return texts

    def _count_characters(self, model: ServedModel, texts: Sequence[str]) -> None:
        self.metrics.characters.labels(model.name).inc(sum(map(len, texts)))

    def _models(self, parameters: schemas.StreamRequest) -> dict[str, ServedModel]:
        """Return the models that can translate a request, by source language.

        Raises:
            InputError: there is none
        """
        target, name = parameters.target, parameters.model
        if parameters.source != AUTO:
            return {parameters.source: self.models.choose(parameters.source, target, name)}
        suitable = self.models.pairs.values() if name is None else [self.models.named(name)]
        found = {model.source: model for model in suitable if model is not None and model.target == target}
        return found or {AUTO: self.models.choose(AUTO, target, name)}

    async def _detect(self, text: str, models: Mapping[str, ServedModel]) -> schemas.DetectedLanguage:
        """Return the most likely of the source languages for which there is a model."""
        ranked = await run_in_threadpool(self.detector.rank, text)
        code, confidence = next(pair for pair in ranked if pair[0] in models)
        return schemas.DetectedLanguage(language=code, confidence=confidence)


def _to_json(translation: Translation) -> dict[str, Any]:
    return {
        "source": translation.source,
        "tokens": translation.source_tokens,
        "unknown": translation.unknown,
        "hypotheses": [
            {
                "text": hypothesis.text,
                "score": round(hypothesis.score, 4),
                "tokens": hypothesis.tokens,
                "alignments": [alignment._asdict() for alignment in hypothesis.alignments or ()],
            }
            for hypothesis in translation.hypotheses
        ],
    }
