"""Requests and responses of the API, as in its OpenAPI document."""

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import FormData, QueryParams
from starlette.requests import Request

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.text import replace_surrogates


class DetectRequest(BaseModel):
    """A request with one text."""

    model_config = ConfigDict(strict=True)

    q: str = Field(description="Text")
    api_key: str | None = Field(None, description="Required if the server has API keys")

    @field_validator("*")
    @classmethod
    def _replace_surrogates(cls, value: Any) -> Any:
        """JSON can contain unpaired surrogates, which are not valid text."""
        if isinstance(value, list):
            return [replace_surrogates(text) for text in value]
        return replace_surrogates(value) if isinstance(value, str) else value

    @property
    def texts(self) -> list[str]:
        """The texts of the request."""
        return [self.q]


class StreamRequest(DetectRequest):
    """A request to translate one text."""

    source: str = Field(description="Language code, or auto to detect the language")
    target: str = Field(description="Language code")
    model: str | None = Field(None, description="Name of a model, if several translate this pair")


class TranslateRequest(StreamRequest):
    """A request to translate one or several texts."""

    q: str | list[str] = Field(description="Text, or list of texts")  # type: ignore[assignment]
    alternatives: int = Field(0, ge=0, description="Number of further translations")
    format: Literal["text"] = Field("text", description="Only text")

    @field_validator("alternatives", mode="before")
    @classmethod
    def _accept_integral_float(cls, value: Any) -> Any:
        """In JSON, 1.0 is an integer."""
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @property
    def texts(self) -> list[str]:
        """The texts of the request."""
        return [self.q] if isinstance(self.q, str) else self.q


class DetectedLanguage(BaseModel):
    """A language with its probability in percent."""

    language: str
    confidence: float


class TranslateResponse(BaseModel):
    """Translations; lists if `q` was a list."""

    translatedText: str | list[str]
    alternatives: list[str] | list[list[str]] | None = None
    detectedLanguage: DetectedLanguage | list[DetectedLanguage] | None = None


class Language(BaseModel):
    """A language, and the languages into which it can be translated."""

    code: str
    name: str
    targets: list[str]


class Stacks(BaseModel):
    """A number for the encoder and for the decoder."""

    encoder: int
    decoder: int


class ModelDescription(BaseModel):
    """Name, languages and sizes of a model."""

    name: str
    source: str
    target: str
    parameters: int
    dtype: str
    d: int
    layers: Stacks
    N: Stacks
    beam: int


class MixingLayerDescription(BaseModel):
    """A layer that mixes tokens."""

    stack: str
    layer: int
    heads: int
    positions: int


class MixingMap(MixingLayerDescription):
    """A layer with its matrices A: heads x positions x positions."""

    A: list[list[list[float]]]


class Health(BaseModel):
    """The server works."""

    status: Literal["ok"] = "ok"


class LanguageName(BaseModel):
    """A language."""

    code: str
    name: str


class LanguagePair(BaseModel):
    """The pair of the first model."""

    source: LanguageName
    target: LanguageName


class FrontendSettings(BaseModel):
    """Limits and examples, for pages."""

    charLimit: int
    lineLimit: int
    apiKeys: bool
    keyRequired: bool
    beam: int
    examples: list[str]
    language: LanguagePair


class Event(BaseModel):
    """A server-sent event. The data is JSON, see docs/server.md."""

    event: Literal["start", "partial", "result", "error"]
    data: str


class Error(BaseModel):
    """An error: cause and remedy."""

    error: str


RequestType = TypeVar("RequestType", bound=DetectRequest)


async def read_request(request: Request, schema: type[RequestType]) -> RequestType:
    """Read the parameters of a request from its body (JSON or a form) and its query string.

    Raises:
        InputError: a parameter is missing or invalid
        HTTPException: the body is too large or late, see `Guard`
    """
    parameters = _from_form(request.query_params)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        async with request.form(max_files=0, max_fields=1000) as form:
            parameters |= _from_form(form)
    else:
        body = await request.body()
        if body:
            return _validate(schema, {**parameters, **_from_json(body)}, strict=not parameters)
    return _validate(schema, parameters, strict=False)


def _from_form(form: FormData | QueryParams) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name in form:
        values = form.getlist(name)
        parameters[name] = values if len(values) > 1 else values[0]
    return parameters


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = f": {error}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"the body is not JSON{reason}; for a form, set its Content-Type") from error
    if not isinstance(content, dict):
        raise InputError('the body is not a JSON object such as {"q": "..."}')
    return content


def _validate(schema: type[RequestType], parameters: dict[str, Any], strict: bool) -> RequestType:
    if parameters.get("format") == "html":
        raise InputError("format html is not supported: send text without markup")
    try:
        return schema.model_validate(parameters, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name, message = first["loc"][0], first["msg"]
        raise InputError(f"invalid parameter {name}: {message[:1].lower()}{message[1:]}") from error
