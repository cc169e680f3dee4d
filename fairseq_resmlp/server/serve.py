"""Serving models until the server is interrupted."""

from collections.abc import Iterable
from contextlib import suppress

import click

from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.server.app import create_app
from fairseq_resmlp.server.connections import check_file_limit, listen, make_server
from fairseq_resmlp.server.models import Models, ServedModel
from fairseq_resmlp.server.settings import Settings


def serve(paths: Iterable[tuple[str | None, str]], host: str, port: int, settings: Settings, threads: int) -> None:
    """Serve models until the server is interrupted.

    The address is bound before the first model is read, so a port in use is reported without delay.

    Args:
        paths: name and exported directory of each model, at least one; a name of None stands for the languages. Each
            directory is read before the next pair is requested, and not needed afterwards: a generator may delete
            temporary ones.
        host, port: address to listen on; port 0 selects a free one
        settings: settings of the server
        threads: CPU threads of torch

    Raises:
        InputError: a directory is not an exported model, the models cannot be told apart, the beam is too large for a
            model, or the address is not available
    """
    check_file_limit(settings.max_connections)
    with listen(host, port) as listening:
        models = Models(load_model(path, name, settings, threads) for name, path in paths)
        address = f"{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        message = f"Serving at http://{address}. Stop with Ctrl + C."
        server = make_server(create_app(models, settings, host), settings, lambda: click.echo(message))
        try:
            with suppress(KeyboardInterrupt):
                server.run(sockets=[listening])
        finally:
            models.close()


def load_model(path: str, name: str | None, settings: Settings, threads: int | None = None) -> ServedModel:
    """Load an exported model, and translate a text with it, which takes longer the first time.

    Raises:
        InputError: see `serve`
    """
    translator = Translator.load(path, threads=threads, max_batch=settings.max_batch)
    model = ServedModel(name, translator, settings.beam, settings.max_waiting)
    model.submit(["."], n_best=settings.beam, alignments=True).result()
    return model
