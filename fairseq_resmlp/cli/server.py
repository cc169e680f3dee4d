"""The command that serves models over HTTP."""

import os
import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import click

from fairseq_resmlp.cli.exported_models import exported_model
from fairseq_resmlp.cli.options import Count, existing_file, threads_option
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.threads import default_threads

Network = IPv4Network | IPv6Network

MAX_EXAMPLES = 8
MAX_API_KEYS = 10_000
# Sentences of the demo's grammar (examples/grammar), for any model that translates from English
EXAMPLES = (
    "The old king sees a small dog.",
    "Two women said that a child bought the book.",
    "In the beautiful kitchen the pigs found my small tired bear.",
    "A woman who my uncle listens to can praise a neighbour.",
)


def _networks(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[Network]:
    try:
        return [ip_network(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _origins(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    for value in values:
        if not re.fullmatch(r"https?://[^/?#\s]+", value):
            raise click.BadParameter(f"{value!r} is not an origin such as https://example.org")
    return [value.lower() for value in values]


@click.command("serve")
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL...")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all interfaces."
)
@click.option(
    "--port", default=7860, type=click.IntRange(0, 65535), show_default=True, help="Port; 0 for any free one."
)
@click.option(
    "--beam",
    default=4,
    type=Count(),
    show_default=True,
    help="Beam size, and maximum number of translations of a text.",
)
@click.option(
    "--max-batch",
    default=64,
    type=Count(),
    show_default=True,
    help="Maximum number of sentences that are translated together.",
)
@click.option(
    "--max-waiting",
    default=256,
    type=Count(),
    show_default=True,
    help="Maximum number of waiting requests for each model.",
)
@click.option(
    "--max-characters",
    default=5000,
    type=Count(),
    show_default=True,
    help="Maximum number of characters per request.",
)
@click.option(
    "--max-lines",
    default=200,
    type=Count(),
    show_default=True,
    help="Maximum number of lines per request.",
)
@click.option(
    "--max-connections",
    default=256,
    type=Count(),
    show_default=True,
    help="Maximum number of open connections; one client may have half of them.",
)
@click.option("--rate", type=Count(), help="Maximum requests per minute for each client.")
@click.option("--character-rate", type=Count(), help="Maximum characters per minute for each client.")
@click.option("--api-keys", type=existing_file, help="File of keys, one per line; requests must contain one of them.")
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    callback=_networks,
    help="Address of a reverse proxy whose X-Forwarded-For header tells the client. Repeatable.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    help="Further name of this server, such as translate.example.org. Repeatable.",
)
@click.option(
    "--allow-origin",
    "allowed_origins",
    multiple=True,
    callback=_origins,
    help="Origin of web pages that may use the API, such as https://example.org. Repeatable.",
)
@click.option("--examples", type=existing_file, help="Up to 8 example texts, one per line (default: the demo's).")
@threads_option()
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    api_keys: str | None,
    examples: str | None,
    threads: int | None,
    **settings: Any,
) -> None:
    """Translate over HTTP, with a web page and the API of LibreTranslate.

    A MODEL is a directory written by fairseq-resmlp export, or a run directory, a directory with model.pt such as
    demo/model, or a checkpoint, which are exported first. Models are chosen by language pair. Several models of one
    pair need names: small=MODEL big=MODEL.
    """
    named = [_split_name(model) for model in models]
    keys = _read_keys(api_keys) if api_keys else ()

    import logging

    from fairseq_resmlp.common.text import read_lines

    try:
        from fairseq_resmlp.server.logs import make_handler
        from fairseq_resmlp.server.serve import serve as run
        from fairseq_resmlp.server.settings import Settings
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("fairseq_resmlp"):
            raise
        raise InputError(f"the server requires {error.name}: pip install 'fairseq-resmlp[server]'") from error

    texts = next(read_lines(examples, MAX_EXAMPLES), []) if examples else EXAMPLES
    logging.basicConfig(handlers=[make_handler()])
    run(
        _as_exported(named),
        host,
        port,
        Settings(api_keys=keys, examples=texts, **settings),
        threads or default_threads(),
    )


def _split_name(argument: str) -> tuple[str | None, str]:
    """Split NAME=MODEL. An argument that is a path has no name, even if it contains "="."""
    name, separator, path = argument.partition("=")
    named = (name, path) if separator and not os.path.exists(argument) else (None, argument)
    if not os.path.exists(named[1]):
        raise click.UsageError(f"{named[1]!r} not found: specify an exported model, a run directory or a checkpoint")
    return named


def _read_keys(path: str) -> list[str]:
    from fairseq_resmlp.common.text import read_lines

    keys = [key for key in next(read_lines(path, MAX_API_KEYS), []) if key]
    if not keys:
        raise InputError(f"{path} contains no API keys: write one per line")
    return keys


def _as_exported(models: Sequence[tuple[str | None, str]]) -> Iterator[tuple[str | None, str]]:
    """Yield names and exported models. A temporary one is deleted before the next."""
    for name, path in models:
        with exported_model(path) as exported:
            yield name, exported


COMMANDS = (serve,)
