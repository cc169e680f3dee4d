"""The application: addresses, errors and the OpenAPI document."""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from fairseq_resmlp import __version__, common
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.batching import QueueFull
from fairseq_resmlp.server import schemas
from fairseq_resmlp.server.api import AUTO, Api
from fairseq_resmlp.server.guard import UNEXPECTED, Guard, error_response
from fairseq_resmlp.server.hosts import HostCheck
from fairseq_resmlp.server.metrics import Metrics
from fairseq_resmlp.server.models import Models
from fairseq_resmlp.server.settings import Settings
from fairseq_resmlp.server.streaming import ClientGone, EventStream

STATIC = Path(__file__).with_name("static")
PALETTE = Path(common.__file__).with_name("palette.css")
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left before the answer
DEFAULT_MESSAGES = {
    404: "this address was not found: see /docs",
    405: "this address does not have this method: see /docs",
}
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": schemas.Error}, "5XX": {"model": schemas.Error}}


class BodySchemas:
    """The OpenAPI schemas of request bodies, with the languages and limits of this server."""

    def __init__(self, models: Models, settings: Settings):
        text = {"type": "string", "maxLength": settings.max_characters}
        self.properties: dict[str, dict[str, Any]] = {
            "q": text,
            "source": {"type": "string", "enum": [AUTO, *models.sources]},
            "target": {"type": "string", "enum": models.targets},
            "model": {"type": "string", "enum": [model.name for model in models.models]},
            "alternatives": {"type": "integer", "minimum": 0, "maximum": settings.beam - 1},
        }

    def content(self, request: type[BaseModel]) -> dict[str, Any]:
        """Return the content of a request body, by media type."""
        json, form = self._schema(request), self._schema(request)
        for schema in form["properties"].values():  # in a form, null and an empty list cannot be expressed
            schema["anyOf"] = [choice for choice in schema.get("anyOf", [{}]) if choice != {"type": "null"}]
            for choice in schema["anyOf"]:
                if choice.get("type") == "array":
                    choice["minItems"] = 1
        return {"application/json": {"schema": json}, "application/x-www-form-urlencoded": {"schema": form}}

    def _schema(self, request: type[BaseModel]) -> dict[str, Any]:
        schema = request.model_json_schema()
        for name, known in self.properties.items():
            found = schema["properties"].get(name, {})
            for choice in (found, *found.get("anyOf", ())):
                if choice.get("type") == known["type"]:
                    choice.update(known)
        return schema


def create_app(models: Models, settings: Settings, listening: str) -> ASGIApp:
    """Return the application.

    Args:
        models: the models
        settings: settings of the server
        listening: the address that the server listens on, see `HostCheck`
    """
    metrics = Metrics()
    for model in models.models:
        metrics.watch_queue(model.name, model.queue.__len__)
        model.queue.on_batch = metrics.batch_sizes.labels(model.name).observe
    api = Api(models, settings, metrics)

    app = FastAPI(
        title="Translation with sequence-to-sequence ResMLP",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        exception_handlers=dict.fromkeys(
            (InputError, QueueFull, ClientGone, ClientDisconnect, RequestValidationError, HTTPException, Exception),
            _answer_error,
        ),
    )
    _add_routes(app, api, BodySchemas(models, settings))
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["content-type"],
        )
    return Guard(app, settings, HostCheck(listening, settings.allowed_hosts), metrics)


def _add_routes(app: FastAPI, api: Api, bodies: BodySchemas) -> None:
    def add(method: str, path: str, endpoint: Callable[..., Any], answer: Any, **options: Any) -> None:
        """Add an address. The answer is a schema, or the content of something other than JSON."""
        if isinstance(answer, dict):
            options |= {"response_class": Response, "responses": {200: {"content": answer}, **ERRORS}}
        else:
            options |= {"response_model": answer, "response_model_exclude_none": True, "responses": ERRORS}
        app.add_api_route(path, endpoint, methods=[method], **options)

    def post(path: str, endpoint: Callable[..., Any], request: type[BaseModel], answer: Any) -> None:
        body = {"requestBody": {"content": bodies.content(request), "required": True}}
        add("POST", path, endpoint, answer, openapi_extra=body)

    post("/translate", api.translate, schemas.TranslateRequest, schemas.TranslateResponse)
    events = {EventStream.media_type: {"schema": schemas.Event.model_json_schema()}}
    post("/stream", api.stream, schemas.StreamRequest, events)
    post("/detect", api.detect, schemas.DetectRequest, list[schemas.DetectedLanguage])
    add("GET", "/languages", api.languages, list[schemas.Language])
    add("GET", "/models", api.list_models, list[schemas.ModelDescription])
    add("GET", "/models/{name}/maps", api.list_maps, list[schemas.MixingLayerDescription])
    add("GET", "/models/{name}/maps/{stack}/{layer}", api.get_map, schemas.MixingMap)
    add("GET", "/frontend/settings", api.frontend_settings, schemas.FrontendSettings)
    add("GET", "/health", api.health, schemas.Health)
    add("GET", "/metrics", api.show_metrics, {"text/plain": {"schema": {"type": "string"}}})
    for path, file in (
        ("/", STATIC / "index.html"),
        ("/docs", STATIC / "docs.html"),
        ("/static/palette.css", PALETTE),
    ):
        app.add_route(path, partial(_send_file, file), include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))


async def _send_file(path: Path, request: Request) -> Response:
    return FileResponse(path)


async def _answer_error(request: Request, error: Exception) -> Response:
    match error:
        case InputError():
            return error_response(400, str(error))
        case QueueFull():
            return error_response(503, "too many requests wait: try again later", 1)
        case ClientGone() | ClientDisconnect():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        case RequestValidationError():  # of the address, such as a layer that is not a number
            return error_response(404, DEFAULT_MESSAGES[404])
        case HTTPException():
            is_default = error.detail == HTTPStatus(error.status_code).phrase
            message = DEFAULT_MESSAGES.get(error.status_code, error.detail) if is_default else error.detail
            return JSONResponse({"error": message}, error.status_code, error.headers)
    return error_response(500, UNEXPECTED)
