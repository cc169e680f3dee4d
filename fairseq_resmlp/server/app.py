"""Web page that translates with one model, or with several models side by side. Needs Gradio.

serve([("fast", "my model")], "127.0.0.1", 7860, beam=4, rate=30)    # until it is interrupted
"""

import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.text import replace_surrogates
from fairseq_resmlp.inference.beam_search import SearchOptions
from fairseq_resmlp.inference.config import EOS
from fairseq_resmlp.inference.translator import Translator

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
except ModuleNotFoundError as error:
    raise InputError(f"the server requires {error.name}: pip install 'fairseq-resmlp[server]'") from error

from fairseq_resmlp.report import plots, statistics
from fairseq_resmlp.server import html
from fairseq_resmlp.server.limits import RateLimit, RequestFilter

logger = logging.getLogger(__name__)

MAX_LINES = 5  # per request
MAX_CHARACTERS = 2000  # per request
MAX_QUEUE = 32  # waiting requests; further ones are refused
UPDATE_INTERVAL = 0.1  # seconds
MAX_EXAMPLES = 8
# Sentences of the demo's grammar (examples/grammar), for any model that translates from English
EXAMPLES = {
    "en": [
        "The old king sees a small dog.",
        "Two women said that a child bought the book.",
        "In the beautiful kitchen the pigs found my small tired bear.",
        "A woman who my uncle listens to can praise a neighbour.",
    ]
}


class ServedModel:
    """A model of the page.

    Args:
        path: an exported directory, see `fairseq_resmlp.inference.model_format`; it is not needed after the constructor
        name: name of the model on the page
        options: options of the search

    Raises:
        InputError: see `load_exported_model`
    """

    def __init__(self, path: str, name: str, options: SearchOptions):
        self.translator = Translator.load(path, options=options)
        self.name, self.languages = name, self.translator.languages

    def description(self) -> str:
        """Return languages, sizes and dtype in one line."""
        config, dtype = self.translator.network.config, self.translator.network.dtype
        languages, layers = " \u2192 ".join(self.languages), f"{config.encoder_layers} + {config.decoder_layers} layers"
        return f"{languages}, {layers}, d = {config.encoder_embed_dim}, N = {config.encoder_max_positions}, {dtype}"

    def interaction_maps(self) -> dict[str, bytes]:
        """Return a plot of A for each layer that mixes tokens, as SVG by layer name."""
        network = self.translator.network
        stacks = {"encoder": network.A, "decoder": network.past_A.permute(1, 2, 0, 3)}  # L x m x N x N
        mixings = [
            statistics.Mixing(stack, layer, head, len(heads), stack == "decoder", A.double().numpy())
            for stack, matrices in stacks.items()
            for layer, heads in enumerate(matrices, 1)
            for head, A in enumerate(heads, 1)
            if A.any()
        ]
        layers = {f"{stack} layer {layer}": heads for (stack, layer), heads in statistics.by_layer(mixings).items()}
        return {name: plots.render(plots.interaction_map(name, heads))["svg"] for name, heads in layers.items()}

    def translate(
        self, lines: Sequence[str], callback: Callable[[list[str]], None]
    ) -> tuple[list[html.Translation], str]:
        """Translate lines in one batch.

        Args:
            lines: sentences, none of them empty
            callback: called after each step of the search with the best translation of each line so far

        Returns:
            the translations of each line, and a sentence with the time that they took

        Raises:
            InputError: a line exceeds N, or has no tokens
        """
        translator, steps = self.translator, 0
        limit = translator.network.config.encoder_max_positions - 1  # without the end-of-sentence token
        tokenized = [translator.tokenize(line) for line in lines]
        for number, tokens in enumerate(tokenized, 1):
            subject = f"sentence {number}" if len(lines) > 1 else "the sentence"
            if not tokens:
                raise InputError(f"{subject} contains no text that this model can read")
            if len(tokens) > limit:
                raise InputError(
                    f"{subject} has {len(tokens):,} tokens, but the limit of this model is {limit}: shorten it, or "
                    "split it into several sentences, one per line"
                )
        sources = [translator.encode(line) for line in lines]

        def step_callback(targets: list[list[int]]) -> None:
            nonlocal steps
            steps += 1
            callback([translator.decode(target) for target in targets])

        start = time.perf_counter()
        hypotheses = translator.hypotheses(sources, step_callback)
        found = time.perf_counter()
        translations = [
            html.Translation(
                line=line,
                source=tokens,
                texts=[translator.decode(hypothesis.tokens) for hypothesis in best],
                scores=[hypothesis.score for hypothesis in best],
                target=[translator.target[token] for token in best[0].tokens if token != EOS],
                attention=translator.network.attention(source, best[0].tokens),
            )
            for line, tokens, source, best in zip(lines, tokenized, sources, hypotheses, strict=True)
        ]
        aligned = time.perf_counter()
        return translations, (
            f"Search: {1000 * (found - start):,.0f} ms, {steps} steps with beam {translator.options.beam}. "
            f"Alignment: {1000 * (aligned - found):,.0f} ms."
        )


class Page:
    """Behavior and layout of the page.

    Args:
        models: models to show side by side
        rate: limit on the translations of a client
        examples: sentences to click
    """

    def __init__(self, models: Sequence[ServedModel], rate: RateLimit, examples: Sequence[str]):
        self.models, self.rate, self.examples = models, rate, examples
        self.worker = ThreadPoolExecutor(1)  # one search at a time: each uses all cores

    def respond(self, text: str, client: str) -> Iterator[list[str]]:
        """Translate a text. Yields the content of the page whenever it changes: a message, and a card per model."""
        cards = [""] * len(self.models)
        try:
            lines = self.check(text, client)
        except InputError as error:
            yield [html.render_notice(str(error)), *cards]
            return
        for i, model in enumerate(self.models):
            for cards[i] in self.cards(model, lines):
                yield ["", *cards]

    def check(self, text: str, client: str) -> list[str]:
        """Return the lines of a text, without empty ones.

        Raises:
            InputError: the text or the client exceeds a limit
        """
        text = replace_surrogates(text)
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if not lines:
            raise InputError("Nothing to translate: enter a sentence.")
        if len(text) > MAX_CHARACTERS:
            raise InputError(
                f"The text has {len(text):,} characters, but the limit is {MAX_CHARACTERS:,}: shorten the text."
            )
        if len(lines) > MAX_LINES:
            raise InputError(
                f"The text has {len(lines):,} lines, but the limit is {MAX_LINES}: translate some of them later."
            )
        seconds = self.rate.acquire(client)
        if seconds:
            raise InputError(
                f"You have reached the limit of {self.rate.count} translations per minute: try again in "
                f"{math.ceil(seconds)} seconds."
            )
        return lines

    def cards(self, model: ServedModel, lines: Sequence[str]) -> Iterator[str]:
        """Yield the card of one model: the translations during the search, then the complete result."""
        language = model.languages[1]
        latest = deque([[""] * len(lines)], maxlen=1)
        search = self.worker.submit(model.translate, lines, latest.append)
        while not wait([search], UPDATE_INTERVAL).done:
            yield html.render_partial(lines, latest[-1], language)
        try:
            yield html.render_result(*search.result(), language)
        except InputError as error:
            yield html.render_notice(f"Not translated: {error}.")
        except Exception:
            logger.exception("a translation failed")
            yield html.render_notice("Not translated: an unexpected error occurred. See the log of the server.")

    def blocks(self) -> gr.Blocks:
        """Return the layout."""

        def translate(text: str, request: gr.Request) -> Iterator[list[str]]:
            yield from self.respond(text, request.client.host)

        def translate_example(sample: list[str], request: gr.Request) -> Iterator[list[str]]:
            for content in self.respond(sample[0], request.client.host):
                yield [sample[0], *content]

        sources = " or ".join(sorted({model.languages[0] for model in self.models}))
        with gr.Blocks(title="Translation with ResMLP", analytics_enabled=False) as blocks:
            gr.HTML(
                "<h1>Translation with sequence-to-sequence ResMLP</h1><p>Enter a sentence. The page shows its "
                "translation during the search, then the best translations with their scores and the alignment.</p>"
            )
            text = gr.Textbox(
                label=f"Text in {sources}",
                info=f"One sentence per line, up to {MAX_LINES} lines and {MAX_CHARACTERS:,} characters.",
                lines=3,
                max_lines=8,
                autofocus=True,
                elem_id="text",
            )
            button = gr.Button("Translate (Shift + Enter)", variant="primary", elem_id="translate")
            examples = gr.Dataset(
                components=[text],
                samples=[[line] for line in self.examples],
                label="Examples: click to translate",
                visible=bool(self.examples),
            )
            message, cards = gr.HTML(elem_id="message", apply_default_css=False), []
            with gr.Row():
                for model in self.models:
                    with gr.Column(min_width=320, elem_classes="model"):
                        gr.HTML(html.render_model(model.name, model.description()), apply_default_css=False)
                        cards.append(gr.HTML(elem_classes="card", apply_default_css=False))
                        gr.HTML(html.render_maps(model.interaction_maps()), apply_default_css=False)
            outputs = [message, *cards]
            # One search at a time. Repeated clicks queue only the latest text.
            search: dict[str, Any] = {
                "concurrency_id": "search",
                "trigger_mode": "always_last",
                "api_visibility": "private",
            }
            gr.on([button.click, text.submit], translate, text, outputs, **search)
            examples.click(translate_example, examples, [text, *outputs], **search)
        return blocks.queue(max_size=MAX_QUEUE, api_open=False, default_concurrency_limit=1)


def serve(
    models: Iterable[tuple[str, str]],
    host: str,
    port: int,
    beam: int,
    rate: int,
    examples: Sequence[str] | None = None,
) -> None:
    """Serve the page until it is interrupted.

    The address is bound before the first model is read, so a port in use is reported without delay.

    Args:
        models: exported directory and name on the page of each model, at least one. Each directory is read before the
            next pair is requested, and not needed afterwards: a generator may delete temporary ones.
        host, port: address to listen on; port 0 selects a free one
        beam: beam size, and the number of translations shown
        rate: translations per minute and client
        examples: sentences to click, up to `MAX_EXAMPLES`; None: those of `EXAMPLES` in the source language of the
            first model

    Raises:
        InputError: a directory is not an exported model, or the address is not available
    """
    options = SearchOptions(beam=beam)
    with listen(host, port) as listening:
        served = [ServedModel(path, name, options) for path, name in models]
        if examples is None:
            examples = EXAMPLES.get(served[0].languages[0], [])
        server = make_server(Page(served, RateLimit(rate), examples[:MAX_EXAMPLES]))
        address = f"[{host}]" if ":" in host else host
        click.echo(f"Serving at http://{address}:{listening.getsockname()[1]}. Stop with Ctrl + C.")
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        InputError: the address is in use, or does not belong to this machine
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).split(" (")[0]
        raise InputError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from error


def make_server(page: Page) -> uvicorn.Server:
    """Return an HTTP server for a page."""
    # Gradio's gray for secondary text has too little contrast.
    darker = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    lighter = {f"{name}_dark": "*neutral_300" for name in darker}
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page.blocks(),
        "/",
        theme=gr.themes.Default().set(**darker, **lighter),
        css_paths=[Path(__file__).with_name("page.css")],
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
    )
    return uvicorn.Server(uvicorn.Config(RequestFilter(app), log_level="warning", timeout_graceful_shutdown=1))
