"""The page of `fairseq-resmlp serve` in a browser: translations, error messages and limits."""

import http.client
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_resmlp.cli.main import main
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.unique_names import unique_names
from fairseq_resmlp.inference.beam_search import SearchOptions
from fairseq_resmlp.inference.model_format import SENTENCEPIECE, save_exported_model
from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.model.export import export_model, to_inference_weights
from support.commands import run
from support.models import make_model
from support.paths import GOLDEN, ROOT

app = pytest.importorskip(
    "fairseq_resmlp.server.app", reason="Gradio not found: pip install 'fairseq-resmlp[server]'", exc_type=InputError
)
from fairseq_resmlp.server.limits import MAX_BODY, MINUTE, RateLimit  # noqa: E402  needs Starlette, as does app

KING, WOMEN = "The old king sees a small dog.", "Two women said that a child bought the book."
HEBREW = "שלום עולם, זה משפט."
HOSTILE = "<img src=x onerror=alert(1)> ${alert(2)} {{x}} </p>"
BEAM = 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The stored model, exported."""
    path = tmp_path_factory.mktemp("exported") / "tiny"
    export_model(str(GOLDEN), str(path), dtype="float32")
    return path


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """An exported random model with one layer and no token mixing. It accepts and produces long sentences."""
    dictionary = Dictionary.load(str(GOLDEN / "dict.en.txt"))
    task = TranslationTask(TranslationConfig(source_lang="en", target_lang="de"), dictionary, dictionary)
    N = {"encoder_max_positions": 150, "decoder_max_positions": 80}
    model = make_model(task, encoder_layers=1, decoder_layers=1, token_mixing="none", **N)
    path = tmp_path_factory.mktemp("one") / "layer"
    dictionaries = (str(GOLDEN / "dict.en.txt"), str(GOLDEN / "dict.en.txt"))
    config, weights = to_inference_weights(model)
    save_exported_model(str(path), config, weights, "float32", ["en", "de"], dictionaries, str(GOLDEN / SENTENCEPIECE))
    return path


@pytest.fixture(scope="module")
def expected(exported):
    """A function that returns the translations of a line by `Translator`: [(text, score), ...], best first."""
    translator = Translator.load(str(exported), options=SearchOptions(beam=BEAM))

    def translations(line):
        (hypotheses,) = translator.hypotheses([translator.encode(line)])
        return [(translator.decode(hypothesis.tokens), hypothesis.score) for hypothesis in hypotheses]

    return translations


@contextmanager
def served(*paths, rate=1000, steps=None, port=0):
    """Serve exported models. Yields the URL.

    Args:
        steps: a semaphore that each step of a search acquires first
    """
    models = [app.ServedModel(str(path), path.name, SearchOptions(beam=BEAM)) for path in paths]
    for model in models if steps else []:
        model.translator.network.step = after_acquiring(steps, model.translator.network.step)
    server = app.make_server(app.Page(models, RateLimit(rate), [KING]))
    with app.listen("127.0.0.1", port) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def after_acquiring(steps, step):
    def step_when_allowed(*args):
        assert steps.acquire(timeout=60)
        return step(*args)

    return step_when_allowed


@pytest.fixture(scope="module")
def address(exported, one_layer):
    with served(exported, one_layer) as url:
        yield url


@pytest.fixture
def visit(browser):
    """A function that opens a URL in a new tab. The test fails if a request or script of the tab fails.

    It also fails if the tab requests anything from another host, or opens a dialog.
    """
    contexts, problems = [], []

    def open_page(url, width=1200, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        tab = contexts[-1].new_page()
        tab.on("request", lambda sent: None if sent.url.startswith((url, "data:")) else problems.append(sent.url))
        tab.on("response", lambda answer: problems.append(answer.url) if answer.status >= 400 else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        tab.goto(url, wait_until="networkidle")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def submit(tab, text):
    tab.fill("#text textarea", text)
    tab.click("#translate")


def wait_for(tab, selector):
    tab.wait_for_selector(selector, timeout=30_000)
    return tab.locator(selector)


def fits(tab):
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


# Command


@pytest.fixture(scope="module")
def command():
    """A process of `fairseq-resmlp serve` with a directory that contains model.pt, and its URL."""
    code = "from fairseq_resmlp.cli.main import main; main(prog_name='fairseq-resmlp')"
    words = [sys.executable, "-c", code, "serve", str(GOLDEN), "--port", "0", "--beam", str(BEAM), "--threads", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    yield process, re.search(r"http://127\.0\.0\.1:\d+", line)[0] if line else pytest.fail(process.stderr.read())
    process.kill()
    process.wait()


def test_a_sentence_is_shown_with_its_best_translations_scores_alignment_and_maps(command, visit, expected):
    tab = visit(command[1])
    submit(tab, KING)
    timing = wait_for(tab, ".timing").inner_text()
    assert re.fullmatch(r"Search: [\d,]+ ms, \d+ steps with beam 3\. Alignment: [\d,]+ ms\.", timing)
    best = expected(KING)
    assert tab.locator(".translation").inner_text() == best[0][0]
    rows = tab.locator(".best tr").all()[1:]
    found = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
    assert found == [[str(rank), f"{score:.3f}", text] for rank, (text, score) in enumerate(best, 1)]
    assert len(found) == BEAM and tab.locator("summary").first.inner_text() == "The 3 best translations"

    columns = [label.get_attribute("title") for label in tab.locator(".alignment th[scope=col]").all()]
    assert "".join(columns) == f"\u2581{KING.replace(' ', chr(0x2581))}</s>"
    rows = tab.locator(".alignment tr:has(td)").all()
    labels = [row.locator("th").get_attribute("title") for row in rows]
    assert "".join(labels) == f"\u2581{best[0][0].replace(' ', chr(0x2581))}</s>"
    for row in rows:
        weights = [cell.get_attribute("style") for cell in row.locator("td").all()]
        weights = [float(re.fullmatch(r"--weight:([\d.]+)", style)[1]) for style in weights]
        assert len(weights) == len(columns) and sum(weights) == pytest.approx(1, abs=0.005 * len(weights))
    assert tab.locator(".alignment .axis").all_inner_texts() == ["target \u2193", "source \u2192"]
    assert tab.locator(".legend").is_visible()

    tab.locator("summary", has_text="Interaction maps").click()
    maps = tab.locator(".maps img").all()
    names = [f"Interaction map: A of {stack} layer {n}" for stack in ("encoder", "decoder") for n in (1, 2)]
    assert [image.get_attribute("alt") for image in maps] == names
    assert all(image.evaluate("img => img.naturalWidth > 200") and image.is_visible() for image in maps)


def test_an_interrupt_stops_the_command_and_a_port_in_use_is_one_error_line(command):
    process, url = command
    again = CliRunner().invoke(main, ["serve", str(GOLDEN), "--port", url.rpartition(":")[2]])
    assert again.exit_code == 1
    assert re.fullmatch(
        r"Error: cannot listen on 127\.0\.0\.1:\d+: Address already in use; choose another --port or --host\n",
        again.output,
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0 and process.stderr.read() == ""


@pytest.mark.parametrize(
    "words, message",
    [
        (["."], "is not an exported model, because it has no config.json: run fairseq-resmlp export"),
        ([str(GOLDEN), "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:7860: Cannot assign requested address"),
        ([str(GOLDEN), f"{GOLDEN}/../golden"], "is given twice: specify each directory once"),
    ],
    ids=["no model", "address", "twice"],
)
def test_invalid_arguments_are_one_error_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["serve", *words, "--threads", "1"])
    assert done.exit_code == 1 and message in done.output
    assert done.output.startswith("Error: ") and done.output.count("\n") == 1


def test_models_with_the_same_name_are_distinguished_by_their_parent_directories():
    assert unique_names(["/a/model", "/a/other"]) == ["model", "other"]
    assert unique_names(["/a/model", "/b/model", "/b/x"]) == ["a/model", "b/model", "b/x"]


def test_temporary_directories_of_models_are_needed_only_while_they_are_read(tmp_path, monkeypatch):
    def models():
        for name in ("one", "two"):
            export_model(str(GOLDEN), str(tmp_path / name), dtype="float32")
            yield str(tmp_path / name), name
            shutil.rmtree(tmp_path / name)

    def check(server, sockets):
        assert list(tmp_path.iterdir()) == []
        (page,) = pages
        *_, (message, *cards) = page.respond(KING, "client")
        assert message == "" and len(cards) == 2 and all("translation" in card for card in cards)

    pages, make_server = [], app.make_server
    monkeypatch.setattr(app, "make_server", lambda page: (pages.append(page), make_server(page))[1])
    monkeypatch.setattr(app.uvicorn.Server, "run", check)
    app.serve(models(), "127.0.0.1", 0, beam=BEAM, rate=10)
    assert [model.name for model in pages[0].models] == ["one", "two"]
    assert KING in pages[0].examples and len(pages[0].examples) <= app.MAX_EXAMPLES


def test_a_port_in_use_is_reported_before_a_model_is_read():
    with app.listen("127.0.0.1", 0) as listening, pytest.raises(InputError, match="Address already in use"):
        app.serve(iter([pytest.fail]), "127.0.0.1", listening.getsockname()[1], beam=BEAM, rate=10)


# Imports

LOADED = "print(sorted({'fairseq', 'gradio', 'hydra', 'matplotlib', 'omegaconf', 'torch'} & set(sys.modules)))"


def test_serve_and_translate_load_torch_but_not_fairseq(exported):
    code = f"""
import atexit, sys, uvicorn
uvicorn.Server.run = lambda server, sockets: None
atexit.register(lambda: {LOADED})
from fairseq_resmlp.cli.main import main
main()
"""
    serving = run("python", "-c", code, "serve", exported, "--port", "0", "--threads", "1")
    assert serving.stdout.splitlines()[-1] == "['gradio', 'matplotlib', 'torch']"
    translating = run("python", "-c", code, "translate", exported, "--threads", "1", stdin=KING)
    assert translating.stdout.splitlines()[-1] == "['torch']"


def test_the_plugin_and_the_command_line_do_not_load_gradio():
    done = run("python", "-c", f"import sys, fairseq_resmlp.cli.main; {LOADED}; import fairseq; {LOADED}")
    assert done.stdout == "[]\n['fairseq', 'hydra', 'omegaconf', 'torch']\n"


def test_without_gradio_the_error_line_gives_the_remedy():
    code = "import sys; sys.modules['gradio'] = None; from fairseq_resmlp.cli.main import main; main()"
    done = run("python", "-c", code, "serve", GOLDEN, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: the server requires gradio: pip install 'fairseq-resmlp[server]'\n"


# Several models, arbitrary text


def test_models_are_shown_side_by_side_with_the_same_sentences(address, visit, expected):
    tab = visit(address)
    assert tab.locator("h2").all_inner_texts() == ["tiny", "layer"]
    submit(tab, f"{KING}\n\n  {WOMEN}\n")
    wait_for(tab, ".timing >> nth=1")
    left, right = tab.locator(".model").all()
    assert left.locator(".translation").all_inner_texts() == [expected(line)[0][0] for line in (KING, WOMEN)]
    assert left.locator(".source").all_inner_texts() == right.locator(".source").all_inner_texts() == [KING, WOMEN]
    assert right.locator(".alignment").count() == 2
    assert "This model does not mix tokens" in right.locator(".maps").text_content()
    boxes = [column.bounding_box() for column in (left, right)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and fits(tab)


def test_a_click_translates_an_example(address, visit, expected):
    tab = visit(address)
    tab.get_by_role("button", name=KING).click()
    wait_for(tab, ".timing >> nth=1")
    assert tab.locator(".translation").first.inner_text() == expected(KING)[0][0]
    assert tab.input_value("#text textarea") == KING


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize(
    "text", [HEBREW, "Donau" * 20, HOSTILE, "\U0001f469\u200d\U0001f467 漢字かな交じり文"], ids=str
)
def test_any_text_is_shown_unchanged_and_fits_the_screen(text, width, address, visit):
    tab = visit(address, width)
    submit(tab, text)
    card = tab.locator(".model").nth(1)  # the model that accepts long sentences
    card.locator(".timing").wait_for()
    source = card.locator(".source")
    assert source.inner_text() == text
    assert source.evaluate("e => e.matches(':dir(rtl)')") == (text == HEBREW)
    assert tab.locator("#text textarea").evaluate("e => getComputedStyle(e).unicodeBidi") == "plaintext"
    assert card.locator(".alignment th[scope=col]").count() >= min(60, len(text.split()))
    tab.locator("summary", has_text="Interaction maps").first.click()
    assert all(image.bounding_box()["width"] <= width for image in tab.locator(".maps img").all())
    assert fits(tab)


def test_unpaired_surrogates_are_replaced(exported):
    model = app.ServedModel(str(exported), "tiny", SearchOptions(beam=1))
    *_, (message, card) = app.Page([model], RateLimit(1), []).respond("a \ud800 dog", "client")
    assert message == "" and "a \ufffd dog" in card and card.encode("utf-8")


@pytest.fixture(params=["demo", "multi30k"])
def trained(request, tmp_path):
    """A trained model, if available: that of make demo, or that of examples/multi30k.en-de."""
    demo, multi30k = ROOT / "demo" / "model", ROOT / "runs" / "multi30k.en-de"
    model = multi30k / "resmlp_small" / "average5.pt"
    if not (demo if request.param == "demo" else model).exists():
        pytest.skip("trained model not found: run make demo or scripts/reproduce.sh multi30k.en-de resmlp_small")
    path = tmp_path / "model"
    if request.param == "demo":
        export_model(str(demo), str(path), dtype="float32")
    else:
        export_model(str(model), str(path), str(multi30k / "data-bin"), str(multi30k / "spm.model"))
    return path


def test_a_trained_model_is_served(trained, visit):
    with served(trained) as url:
        tab = visit(url)
        submit(tab, "A man sees a dog.")
        wait_for(tab, ".timing")
        assert "Mann" in tab.locator(".translation").inner_text()
        assert tab.locator(".maps img").count() == 2 * tab.locator(".maps img[alt*=encoder]").count() >= 4


# Limits


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "Nothing to translate: enter a sentence."),
        ("  \n \n", "Nothing to translate: enter a sentence."),
        ("a" * 2001, "The text has 2,001 characters, but the limit is 2,000: shorten the text."),
        ("a\n" * 6, "The text has 6 lines, but the limit is 5: translate some of them later."),
        (
            f"a\n\n{'a ' * 40}",
            "Not translated: sentence 2 has 40 tokens, but the limit of this model is 39: shorten it, or split it into "
            "several sentences, one per line.",
        ),
        ("\u200b", "Not translated: the sentence contains no text that this model can read."),
    ],
    ids=["empty", "spaces", "characters", "lines", "N", "no tokens"],
)
def test_invalid_text_is_refused_with_a_message_and_the_next_text_is_translated(
    text, message, address, visit, expected
):
    tab = visit(address)
    submit(tab, text)
    notice = wait_for(tab, ".notice").first
    assert notice.inner_text() == message and notice.is_visible() and notice.get_attribute("role") == "alert"
    assert tab.locator(".card").first.locator(".translation").count() == 0
    submit(tab, KING)
    wait_for(tab, ".timing >> nth=1")
    assert tab.locator(".translation").first.inner_text() == expected(KING)[0][0]
    assert tab.locator(".notice").count() == 0


def test_concurrent_users_see_their_own_translations_during_the_search(exported, visit, expected):
    steps = threading.Semaphore(0)
    with served(exported, steps=steps) as url:
        tabs = {sentence: visit(url) for sentence in (KING, WOMEN)}
        for sentence, tab in tabs.items():
            submit(tab, sentence)
            wait_for(tab, ".partial" if sentence == KING else ".card :text('queue: 1/1')")
        seen = []
        for _ in range(3):
            steps.release(2)
            tabs[KING].wait_for_function(
                "seen => !seen.includes(document.querySelector('.partial').innerText)", arg=["", *seen]
            )
            seen.append(tabs[KING].locator(".partial").inner_text())
        steps.release(1000)
        for sentence, tab in tabs.items():
            wait_for(tab, ".timing")
            assert tab.locator(".translation").inner_text() == expected(sentence)[0][0]
            assert tab.locator(".source").inner_text() == sentence


def test_a_client_that_exceeds_the_rate_is_told_the_waiting_time(exported, visit):
    with served(exported, rate=2) as url:
        tab = visit(url)
        for sentence in (KING, WOMEN):
            submit(tab, sentence)
            wait_for(tab, f".timing ~ .source:has-text('{sentence}')")
        submit(tab, KING)
        notice = wait_for(tab, ".notice").inner_text()
        found = re.fullmatch(
            r"You have reached the limit of 2 translations per minute: try again in (\d+) seconds\.", notice
        )
        assert 0 < int(found[1]) <= 60
        another = visit(url, extra_http_headers={"X-Forwarded-For": "203.0.113.9"})  # behind a proxy on this machine
        submit(another, KING)
        wait_for(another, ".timing")


def test_the_rate_limit_counts_each_client_separately_over_one_minute():
    now = [0.0]
    rate = RateLimit(2, lambda: now[0])
    assert [rate.acquire("a"), rate.acquire("b")] == [0, 0]
    now[0] = 10
    waits = [rate.acquire("a"), rate.acquire("a"), rate.acquire("b"), rate.acquire("b")]
    assert waits == [0, MINUTE - 10, 0, MINUTE - 10]
    now[0] = MINUTE
    assert [rate.acquire("a"), rate.acquire("a")] == [0, 10]
    now[0] = 1000
    assert rate.acquire("a") == 0 and len(rate.calls) == 1


def test_the_rate_limit_is_thread_safe():
    rate = RateLimit(50)
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: rate.acquire("a"), range(400)))
    assert waits.count(0) == 50


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/gradio_api/upload", b"x", 404),
        ("/gradio_api/file=/etc/hostname", None, 404),
        ("/gradio_api/proxy=https://example.org/", None, 404),
        ("/gradio_api/run/translate", b"{}", 404),
        ("/monitoring", None, 404),
        ("/gradio_api/queue/join", b"x" * (MAX_BODY + 1), 413),
    ],
)
def test_other_routes_and_large_requests_are_refused(path, body, status, address):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(address + path, body))
    assert refused.value.code == status


@pytest.mark.parametrize("length", [{}, {"Content-Length": "10"}], ids=str)
def test_a_chunked_request_is_refused(address, length):
    connection = http.client.HTTPConnection(address.partition("//")[2])
    connection.putrequest("POST", "/gradio_api/queue/join")
    for name, value in {"Transfer-Encoding": "chunked", **length}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.slow
def test_a_full_queue_is_reported(exported, browser, monkeypatch):
    monkeypatch.setattr(app, "MAX_QUEUE", 1)
    steps = threading.Semaphore(0)
    with served(exported, steps=steps) as url:
        tabs = [browser.new_page() for _ in range(3)]
        shown = (".partial", ".card :text('queue: 1/1')", ".toast-body :text('currently busy. Please try again')")
        for tab, selector in zip(tabs, shown, strict=True):
            tab.goto(url, wait_until="networkidle")
            submit(tab, KING)
            wait_for(tab, selector)
        steps.release(1000)
        for tab in tabs:
            tab.close()


@pytest.mark.slow
def test_a_page_reports_a_lost_connection_and_continues_with_a_restarted_server(exported, visit, expected):
    with served(exported) as url:
        tab = visit(url)
    submit(tab, KING)
    wait_for(tab, ".toast-body :text('Connection to the server was lost')")
    with served(exported, port=int(url.rpartition(":")[2])):
        tab.wait_for_event("load")  # the page reloads from the new server
        submit(tab, KING)
        wait_for(tab, ".timing")
    assert tab.locator(".translation").inner_text() == expected(KING)[0][0]


def test_an_unexpected_error_is_reported_on_the_page_and_explained_in_the_log(address, visit, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(app.ServedModel, "translate", fail)
    tab = visit(address)
    submit(tab, KING)
    notices = wait_for(tab, ".notice").all_inner_texts()
    assert notices == ["Not translated: an unexpected error occurred. See the log of the server."] * 2
    assert "a secret of the server" in caplog.text
