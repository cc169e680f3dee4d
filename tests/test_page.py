"""The page of `fairseq-resmlp serve`, in a browser: what a person sees of a translation, and what goes wrong."""

import http.client
import re
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
from conftest import ROOT, make_model, run
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_resmlp import folder
from fairseq_resmlp.cli import main
from fairseq_resmlp.errors import InputError
from fairseq_resmlp.export import export
from fairseq_resmlp.fast import fold
from fairseq_resmlp.names import short_names
from fairseq_resmlp.search import Options
from fairseq_resmlp.translate import Translator

page = pytest.importorskip("fairseq_resmlp.page", reason="pip install 'fairseq-resmlp[page]'", exc_type=InputError)
from fairseq_resmlp.limits import BODY, MINUTE, Rate  # noqa: E402  Starlette comes with the page

STORED = ROOT / "tests" / "stored"  # a tiny model, N = 40
KING, WOMEN = "The old king sees a small dog.", "Two women said that a child bought the book."
HEBREW = "שלום עולם, זה משפט."
HOSTILE = "<img src=x onerror=alert(1)> ${alert(2)} {{x}} </p>"
BEAM = 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "tiny"
    export(str(STORED), str(path), dtype="float32")
    return path


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """A folder with a random model of one layer that mixes no tokens; it makes long translations."""
    dictionary = Dictionary.load(str(STORED / "dict.en.txt"))
    task = TranslationTask(TranslationConfig(source_lang="en", target_lang="de"), dictionary, dictionary)
    N = {"encoder_max_positions": 150, "decoder_max_positions": 80}
    model = make_model(task, encoder_layers=1, decoder_layers=1, token_mixing="none", **N)
    path = tmp_path_factory.mktemp("one") / "layer"
    dictionaries = {name: str(STORED / "dict.en.txt") for name in (folder.SOURCE, folder.TARGET)}
    folder.write(str(path), *fold(model), "float32", ["en", "de"], dictionaries, str(STORED / folder.PIECES))
    return path


@pytest.fixture(scope="module")
def expected(exported):
    """The translations of a line, as `fairseq-resmlp translate` has them: [(text, score), ...], best first."""
    translator = Translator.load(str(exported), options=Options(beam=BEAM))

    def translations(line):
        (found,) = translator.hypotheses([translator.encode(line)])
        return [(translator.decode(hypothesis.tokens), hypothesis.score) for hypothesis in found]

    return translations


@contextmanager
def served(*paths, rate=1000, steps=None, port=0):
    """The address of a page with models; each step of a search takes one of `steps`, a semaphore, if it is given."""
    models = [page.Model(str(path), path.name, Options(beam=BEAM)) for path in paths]
    for model in models if steps else []:
        model.translator.network.step = after(steps, model.translator.network.step)
    server = page.make_server(page.Page(models, Rate(rate), [KING]))
    with page.listen("127.0.0.1", port) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def after(steps, step):
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
    """Called with an address: a page of a browser of its own, which fails the test if a request or script fails."""
    contexts, wrong = [], []

    def open_page(url, width=1200, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        tab = contexts[-1].new_page()
        tab.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else wrong.append(asked.url))
        tab.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        tab.goto(url, wait_until="networkidle")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def ask(tab, text):
    tab.fill("#text textarea", text)
    tab.click("#translate")


def wait_for(tab, selector):
    tab.wait_for_selector(selector, timeout=30_000)
    return tab.locator(selector)


def fits(tab):
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


# The command


@pytest.fixture(scope="module")
def command():
    """`fairseq-resmlp serve` with a folder that has model.pt, in a process of its own, and its address."""
    code = "from fairseq_resmlp.cli import main; main(prog_name='fairseq-resmlp')"
    words = [sys.executable, "-c", code, "serve", str(STORED), "--port", "0", "--beam", str(BEAM), "--threads", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    yield process, re.search(r"http://127\.0\.0\.1:\d+", line)[0] if line else pytest.fail(process.stderr.read())
    process.kill()
    process.wait()


def test_a_sentence_is_translated_with_its_best_translations_scores_alignment_and_maps(command, visit, expected):
    tab = visit(command[1])
    ask(tab, KING)
    assert re.search(r"Found in [\d,]+ ms and \d+ steps with beam 3; aligned in", wait_for(tab, ".timing").inner_text())
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
    assert tab.locator(".ramp").is_visible()  # the legend

    tab.locator("summary", has_text="Interaction maps").click()
    maps = tab.locator(".maps img").all()
    names = [f"Interaction map: A of {stack} layer {n}" for stack in ("encoder", "decoder") for n in (1, 2)]
    assert [picture.get_attribute("alt") for picture in maps] == names
    assert all(picture.evaluate("img => img.naturalWidth > 200") and picture.is_visible() for picture in maps)


def test_the_command_ends_by_an_interrupt_and_a_port_in_use_is_one_clear_line(command):
    process, url = command
    again = CliRunner().invoke(main, ["serve", str(STORED), "--port", url.rpartition(":")[2]])
    assert again.exit_code == 1
    assert re.fullmatch(
        r"Error: 127\.0\.0\.1:\d+ cannot be had: Address already in use; choose another --port or --host\n",
        again.output,
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0 and process.stderr.read() == ""


@pytest.mark.parametrize(
    "words, message",
    [
        (["."], "is not an exported model, it has no config.json"),
        ([str(STORED), "--host", "192.0.2.1"], "192.0.2.1:7860 cannot be had: Cannot assign requested address"),
        ([str(STORED), f"{STORED}/../stored"], "is named twice: name each once"),
    ],
    ids=["no model", "address", "twice"],
)
def test_what_cannot_be_served_is_one_clear_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["serve", *words, "--threads", "1"])
    assert done.exit_code == 1 and message in done.output
    assert done.output.startswith("Error: ") and done.output.count("\n") == 1


def test_models_of_one_name_are_told_apart():
    assert short_names(["/a/model", "/a/other"]) == ["model", "other"]
    assert short_names(["/a/model", "/b/model", "/b/x"]) == ["a/model", "b/model", "b/x"]


def test_the_plugin_loads_no_page_and_the_page_no_fairseq_and_without_gradio_the_remedy_is_named():
    loaded = "print(sorted({'gradio', 'matplotlib', 'fairseq'} & set(sys.modules)))"
    serve = f"from fairseq_resmlp.cli import main; main(['serve', {str(STORED)!r}])"
    done = run("python", "-c", f"import sys; sys.modules['gradio'] = None\n{serve}", check=False)
    assert done.stderr == "Error: the page needs gradio: pip install 'fairseq-resmlp[page]'\n"
    hide = "import sys, importlib.util as u; real = u.find_spec; u.find_spec = lambda name: None; import fairseq_resmlp"
    code = f"import fairseq_resmlp.cli; {loaded}; u.find_spec = real; from fairseq_resmlp import page; {loaded}"
    assert run("python", "-c", f"{hide}; {code}").stdout == "[]\n['gradio', 'matplotlib']\n"


# Several models, any text


def test_models_stand_side_by_side_with_the_same_sentences_and_one_layer_fits_in(address, visit, expected):
    tab = visit(address)
    assert tab.locator("h2").all_inner_texts() == ["tiny", "layer"]
    ask(tab, f"{KING}\n\n  {WOMEN}\n")
    wait_for(tab, ".timing >> nth=1")
    left, right = tab.locator(".model").all()
    assert left.locator(".translation").all_inner_texts() == [expected(line)[0][0] for line in (KING, WOMEN)]
    assert left.locator(".source").all_inner_texts() == right.locator(".source").all_inner_texts() == [KING, WOMEN]
    assert right.locator(".alignment").count() == 2
    assert "This model mixes no tokens" in right.locator(".maps").text_content()
    boxes = [side.bounding_box() for side in (left, right)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and fits(tab)


def test_an_example_is_translated_by_a_click(address, visit, expected):
    tab = visit(address)
    tab.get_by_role("button", name=KING).click()
    wait_for(tab, ".timing >> nth=1")
    assert tab.locator(".translation").first.inner_text() == expected(KING)[0][0]
    assert tab.input_value("#text textarea") == KING


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize(
    "text", [HEBREW, "Donau" * 20, HOSTILE, "\U0001f469\u200d\U0001f467 漢字かな交じり文"], ids=str
)
def test_any_text_is_shown_as_it_is_and_fits_the_screen(text, width, address, visit):
    tab = visit(address, width)
    ask(tab, text)
    card = tab.locator(".model").nth(1)  # the model that takes long sentences
    card.locator(".timing").wait_for()
    source = card.locator(".source")
    assert source.inner_text() == text
    assert source.evaluate("e => e.matches(':dir(rtl)')") == (text == HEBREW)
    assert tab.locator("#text textarea").evaluate("e => getComputedStyle(e).unicodeBidi") == "plaintext"
    assert card.locator(".alignment th[scope=col]").count() >= min(60, len(text.split()))
    tab.locator("summary", has_text="Interaction maps").first.click()
    assert all(picture.bounding_box()["width"] <= width for picture in tab.locator(".maps img").all())
    assert fits(tab)


def test_half_a_surrogate_pair_is_no_text_and_does_no_harm(exported):
    model = page.Model(str(exported), "tiny", Options(beam=1))
    *_, (message, card) = page.Page([model], Rate(1), []).answer("a \ud800 dog", "client")
    assert message == "" and "a \ufffd dog" in card and card.encode("utf-8")


@pytest.fixture(params=["demo", "multi30k"])
def trained(request, tmp_path):
    """The model that make demo trained, and that of examples/multi30k.en-de, where they are there."""
    demo, multi30k = ROOT / "demo" / "model", ROOT / "runs" / "multi30k.en-de"
    model = multi30k / "resmlp_small" / "average5.pt"
    if not (demo if request.param == "demo" else model).exists():
        pytest.skip("no trained model: make demo or scripts/reproduce.sh multi30k.en-de resmlp_small makes it")
    if request.param == "demo":
        return demo
    export(str(model), str(tmp_path / "model"), str(multi30k / "data-bin"), str(multi30k / "spm.model"))
    return tmp_path / "model"


def test_a_trained_model_is_served(trained, visit):
    with served(trained) as url:
        tab = visit(url)
        ask(tab, "A man sees a dog.")
        wait_for(tab, ".timing")
        assert "Mann" in tab.locator(".translation").inner_text()
        assert tab.locator(".maps img").count() == 2 * tab.locator(".maps img[alt*=encoder]").count() >= 4


# Limits


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "There is nothing to translate: type a sentence."),
        ("  \n \n", "There is nothing to translate: type a sentence."),
        ("a" * 2001, "The text has 2,001 characters, and 2,000 are allowed: shorten it."),
        ("a\n" * 6, "The text has 6 lines, and 5 are allowed: leave some for later."),
        (
            f"a\n\n{'a ' * 40}",
            "Not translated: sentence 2 has 40 pieces, and this model takes 39: shorten it, or write it as several "
            "sentences, one a line.",
        ),
        ("\u200b", "Not translated: the sentence has nothing in it that this model can read."),
    ],
    ids=["nothing", "spaces", "characters", "lines", "N", "no pieces"],
)
def test_what_is_too_much_or_nothing_is_said_and_the_page_goes_on(text, message, address, visit, expected):
    tab = visit(address)
    ask(tab, text)
    said = wait_for(tab, ".notice").first
    assert said.inner_text() == message and said.is_visible() and said.get_attribute("role") == "alert"
    assert tab.locator(".card").first.locator(".translation").count() == 0
    ask(tab, KING)
    wait_for(tab, ".timing >> nth=1")
    assert tab.locator(".translation").first.inner_text() == expected(KING)[0][0]
    assert tab.locator(".notice").count() == 0


def test_two_users_at_once_see_each_their_own_translation_grow(exported, visit, expected):
    steps = threading.Semaphore(0)
    with served(exported, steps=steps) as url:
        tabs = {sentence: visit(url) for sentence in (KING, WOMEN)}
        for sentence, tab in tabs.items():
            ask(tab, sentence)
            wait_for(tab, ".growing" if sentence == KING else ".card :text('queue: 1/1')")
        seen = []
        for _ in range(3):
            steps.release(2)
            tabs[KING].wait_for_function(
                "seen => !seen.includes(document.querySelector('.growing').innerText)", arg=["", *seen]
            )
            seen.append(tabs[KING].locator(".growing").inner_text())
        steps.release(1000)
        for sentence, tab in tabs.items():
            wait_for(tab, ".timing")
            assert tab.locator(".translation").inner_text() == expected(sentence)[0][0]
            assert tab.locator(".source").inner_text() == sentence


def test_who_asks_too_often_is_told_when_to_come_back(exported, visit):
    with served(exported, rate=2) as url:
        tab = visit(url)
        for sentence in (KING, WOMEN):
            ask(tab, sentence)
            wait_for(tab, f".timing ~ .source:has-text('{sentence}')")
        ask(tab, KING)
        said = wait_for(tab, ".notice").inner_text()
        found = re.fullmatch(
            r"You have translated 2 times in a minute, which is the limit: try again in (\d+) s.*", said
        )
        assert 0 < int(found[1]) <= 60
        another = visit(url, extra_http_headers={"X-Forwarded-For": "203.0.113.9"})  # behind a proxy on this machine
        ask(another, KING)
        wait_for(another, ".timing")


def test_a_rate_counts_each_client_by_itself_and_forgets_after_a_minute():
    now = [0.0]
    rate = Rate(2, lambda: now[0])
    assert [rate.wait("a"), rate.wait("b")] == [0, 0]
    now[0] = 10
    assert [rate.wait("a"), rate.wait("a"), rate.wait("b"), rate.wait("b")] == [0, MINUTE - 10, 0, MINUTE - 10]
    now[0] = MINUTE
    assert [rate.wait("a"), rate.wait("a")] == [0, 10]
    now[0] = 1000
    assert rate.wait("a") == 0 and len(rate.calls) == 1


def test_a_rate_holds_for_threads_that_ask_at_once():
    rate = Rate(50)
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: rate.wait("a"), range(400)))
    assert waits.count(0) == 50


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/gradio_api/upload", b"x", 404),
        ("/gradio_api/file=/etc/hostname", None, 404),
        ("/gradio_api/proxy=https://example.org/", None, 404),
        ("/gradio_api/run/translate", b"{}", 404),
        ("/monitoring", None, 404),
        ("/gradio_api/queue/join", b"x" * (BODY + 1), 413),
    ],
)
def test_what_the_page_does_not_need_is_refused(path, body, status, address):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(address + path, body))
    assert refused.value.code == status


@pytest.mark.parametrize("told", [{}, {"Content-Length": "10"}], ids=str)
def test_a_request_that_does_not_say_its_size_is_refused(address, told):
    connection = http.client.HTTPConnection(address.partition("//")[2])
    connection.putrequest("POST", "/gradio_api/queue/join")
    for name, value in {"Transfer-Encoding": "chunked", **told}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.slow
def test_a_full_queue_is_said(exported, browser, monkeypatch):
    monkeypatch.setattr(page, "QUEUE", 1)
    steps = threading.Semaphore(0)
    with served(exported, steps=steps) as url:
        tabs = [browser.new_page() for _ in range(3)]
        shown = (".growing", ".card :text('queue: 1/1')", ".toast-body :text('currently busy. Please try again')")
        for tab, selector in zip(tabs, shown):
            tab.goto(url, wait_until="networkidle")
            ask(tab, KING)
            wait_for(tab, selector)
        steps.release(1000)
        for tab in tabs:
            tab.close()


@pytest.mark.slow
def test_a_page_says_that_its_server_is_gone_and_goes_on_with_the_next_one(exported, visit, expected):
    with served(exported) as url:
        tab = visit(url)
    ask(tab, KING)
    wait_for(tab, ".toast-body :text('Connection to the server was lost')")
    with served(exported, port=int(url.rpartition(":")[2])):
        tab.wait_for_event("load")  # of the page of the next one
        ask(tab, KING)
        wait_for(tab, ".timing")
    assert tab.locator(".translation").inner_text() == expected(KING)[0][0]


def test_a_failure_inside_is_said_on_the_page_and_explained_in_the_log(address, visit, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(page.Model, "translate", fail)
    tab = visit(address)
    ask(tab, KING)
    said = wait_for(tab, ".notice").all_inner_texts()
    assert said == ["Not translated: something failed, and the log of the server says what."] * 2
    assert "a secret of the server" in caplog.text
