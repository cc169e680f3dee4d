"""A page in the browser that translates with one model or several side by side. Needs Gradio.

serve(["fast"], "127.0.0.1", 7860, beam=4, rate=30)    # until it is interrupted
"""

import logging
import math
import os
import socket
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import click

from . import folder, view
from .errors import InputError
from .fast import EOS
from .names import short_names
from .search import Options
from .translate import Translator

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
except ModuleNotFoundError as error:
    raise InputError(f"the page needs {error.name}: pip install 'fairseq-resmlp[page]'") from error

from . import analysis, pictures
from .limits import OnlyThePage, Rate

logger = logging.getLogger(__name__)

LINES = 5  # sentences at a time
CHARACTERS = 2000  # of all of them
QUEUE = 32  # clients that wait; the next ones are told to come back later
SHOWN_EVERY = 0.1  # seconds
EXAMPLES_SHOWN = 8
# Sentences of the demo's grammar (examples/grammar), which any model that translates from English can try.
EXAMPLES = {
    "en": [
        "The old king sees a small dog.",
        "Two women said that a child bought the book.",
        "In the beautiful kitchen the pigs found my small tired bear.",
        "A woman who my uncle listens to can praise a neighbour.",
    ]
}


class Model:
    """A model of the page.

    Args:
        path: an exported folder (see `folder`), or one with model.pt, which is exported for as long as it is read
        name: what the page calls it
        options: of the search
    """

    def __init__(self, path: str, name: str, options: Options):
        with tempfile.TemporaryDirectory() as temporary:
            if not os.path.exists(os.path.join(path, folder.CONFIG)) and os.path.exists(os.path.join(path, "model.pt")):
                from .export import export  # it needs fairseq, an exported folder does not

                exported_path = os.path.join(temporary, "model")
                export(path, exported_path, dtype="float32")
                path = exported_path
            exported = folder.read(path)
            self.translator = Translator(exported, options=options)
        self.name, self.languages = name, exported.languages

    def about(self) -> str:
        """The model in one line."""
        shape, dtype = self.translator.network.shape, self.translator.network.dtype
        languages, layers = " \u2192 ".join(self.languages), f"{shape.encoder_layers} + {shape.decoder_layers} layers"
        return f"{languages}, {layers}, d = {shape.encoder_d}, N = {shape.encoder_N}, {dtype}"

    def maps(self) -> Dict[str, bytes]:
        """Pictures of A of every layer that mixes tokens, SVG by name."""
        network = self.translator.network
        sides = {"encoder": network.A, "decoder": network.past_A.permute(1, 2, 0, 3)}  # L x m x N x N
        mixings = [
            analysis.Mixing(stack, layer, head, len(heads), stack == "decoder", A.double().numpy())
            for stack, matrices in sides.items()
            for layer, heads in enumerate(matrices, 1)
            for head, A in enumerate(heads, 1)
            if A.any()
        ]
        names = {f"{stack} layer {layer}": heads for (stack, layer), heads in analysis.by_layer(mixings).items()}
        return {name: pictures.files(pictures.interaction_map(name, heads))["svg"] for name, heads in names.items()}

    def translate(self, lines: Sequence[str], watch: Callable[[List[str]], None]) -> Tuple[List[view.Found], str]:
        """Translate lines together.

        Args:
            lines: none of them empty
            watch: called after each step of the search with the translations that are ahead

        Returns:
            what was found for each line, and how long it took, in words

        Raises:
            InputError: a line does not fit N
        """
        translator, steps = self.translator, 0
        N = translator.network.shape.encoder_N
        pieces = [translator.split(line) for line in lines]
        for number, line in enumerate(pieces, 1):
            where = f"sentence {number}" if len(lines) > 1 else "the sentence"
            if not line:
                raise InputError(f"{where} has nothing in it that this model can read")
            if len(line) >= N:
                raise InputError(
                    f"{where} has {len(line):,} pieces, and this model takes {N - 1}: shorten it, or write it as "
                    "several sentences, one a line"
                )
        sources = [translator.encode(line) for line in lines]

        def step(ahead: List[List[int]]) -> None:
            nonlocal steps
            steps += 1
            watch([translator.decode(tokens) for tokens in ahead])

        begin = time.perf_counter()
        hypotheses = translator.hypotheses(sources, step)
        searched = time.perf_counter()
        found = [
            view.Found(
                source=line,
                texts=[translator.decode(hypothesis.tokens) for hypothesis in best],
                scores=[hypothesis.score for hypothesis in best],
                target=[translator.target[token] for token in best[0].tokens if token != EOS],
                attention=translator.network.attention(source, best[0].tokens),
            )
            for line, source, best in zip(pieces, sources, hypotheses)
        ]
        aligned = time.perf_counter()
        return found, (
            f"Found in {1000 * (searched - begin):,.0f} ms and {steps} steps with beam {translator.options.beam}; "
            f"aligned in {1000 * (aligned - searched):,.0f} ms."
        )


class Page:
    """What the page does, and its layout.

    Args:
        models: side by side
        rate: how often a client may translate
        examples: sentences to click
    """

    def __init__(self, models: Sequence[Model], rate: Rate, examples: Sequence[str]):
        self.models, self.rate, self.examples = models, rate, examples
        self.worker = ThreadPoolExecutor(1)  # one search at a time: each uses all cores

    def answer(self, text: str, client: str) -> Iterator[List[str]]:
        """What the page shows from now on, as often as it changes: a message, and a card for each model."""
        cards = [""] * len(self.models)
        try:
            lines = self.accept(text, client)
        except InputError as error:
            yield [view.notice(str(error)), *cards]
            return
        for i, model in enumerate(self.models):
            for cards[i] in self.cards(model, lines):
                yield ["", *cards]

    def accept(self, text: str, client: str) -> List[str]:
        """The lines of a text that is within the limits; InputError if it is not."""
        # Half a surrogate pair is no text, and cannot be sent back.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if not lines:
            raise InputError("There is nothing to translate: type a sentence.")
        if len(text) > CHARACTERS:
            raise InputError(f"The text has {len(text):,} characters, and {CHARACTERS:,} are allowed: shorten it.")
        if len(lines) > LINES:
            raise InputError(f"The text has {len(lines):,} lines, and {LINES} are allowed: leave some for later.")
        seconds = self.rate.wait(client)
        if seconds:
            raise InputError(
                f"You have translated {self.rate.count} times in a minute, which is the limit: try again in "
                f"{math.ceil(seconds)} seconds."
            )
        return lines

    def cards(self, model: Model, lines: Sequence[str]) -> Iterator[str]:
        """What is shown of one model: the translations while they grow, then all that was found."""
        language = model.languages[1]
        ahead = deque([[""] * len(lines)], maxlen=1)
        searching = self.worker.submit(model.translate, lines, ahead.append)
        while not wait([searching], SHOWN_EVERY).done:
            yield view.growing(lines, ahead[-1], language)
        try:
            yield view.result(lines, *searching.result(), language)
        except InputError as error:
            yield view.notice(f"Not translated: {error}.")
        except Exception:
            logger.exception("a translation failed")
            yield view.notice("Not translated: something failed, and the log of the server says what.")

    def blocks(self) -> gr.Blocks:
        """The layout."""

        def translate(text: str, request: gr.Request) -> Iterator[List[str]]:
            yield from self.answer(text, request.client.host)

        def translate_example(sample: List[str], request: gr.Request) -> Iterator[List[str]]:
            for shown in self.answer(sample[0], request.client.host):
                yield [sample[0], *shown]

        sources = " or ".join(sorted({model.languages[0] for model in self.models}))
        with gr.Blocks(title="Translation by ResMLP", analytics_enabled=False) as blocks:
            gr.HTML(
                "<h1>Translation by sequence-to-sequence ResMLP</h1><p>Type a sentence: its translation is shown "
                "while it is found, and then the best ones with their scores and the alignment.</p>"
            )
            text = gr.Textbox(
                label=f"Text in {sources}",
                info=f"One sentence a line, at most {LINES} lines and {CHARACTERS:,} characters.",
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
                        gr.HTML(view.title(model.name, model.about()), apply_default_css=False)
                        cards.append(gr.HTML(elem_classes="card", apply_default_css=False))
                        gr.HTML(view.maps(model.maps()), apply_default_css=False)
            shown = [message, *cards]
            # One search at a time; who clicks again while he waits is served with what the text is then.
            search = {"concurrency_id": "search", "trigger_mode": "always_last", "api_visibility": "private"}
            gr.on([button.click, text.submit], translate, text, shown, **search)
            examples.click(translate_example, examples, [text, *shown], **search)
        return blocks.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=1)


def serve(
    paths: Sequence[str], host: str, port: int, beam: int, rate: int, examples: Optional[Sequence[str]] = None
) -> None:
    """Serve the page until it is interrupted.

    Args:
        paths: model folders, see `Model`
        host, port: where; port 0 is any that is free
        beam: hypotheses of the search, and translations shown
        rate: how often a client may translate in a minute
        examples: sentences to click; None: those of `EXAMPLES` in the language of the first model

    Raises:
        InputError: a folder holds no model, or the address cannot be had
    """
    names = short_names(paths)
    with listen(host, port) as listening:
        models = [Model(path, name, Options(beam=beam)) for path, name in zip(paths, names)]
        if examples is None:
            examples = EXAMPLES.get(models[0].languages[0], [])
        server = make_server(Page(models, Rate(rate), examples))
        address = f"[{host}]" if ":" in host else host
        click.echo(f"The page is at http://{address}:{listening.getsockname()[1]} until you stop it with Ctrl + C.")
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; InputError if it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).split(" (")[0]
        raise InputError(f"{host}:{port} cannot be had: {reason}; choose another --port or --host") from error


def make_server(page: Page) -> uvicorn.Server:
    """What answers the requests for a page."""
    darker = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}  # Gradio's is pale
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
    return uvicorn.Server(uvicorn.Config(OnlyThePage(app), log_level="warning", timeout_graceful_shutdown=1))
