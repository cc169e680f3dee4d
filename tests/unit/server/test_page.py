"""The page of the server in headless Chromium."""

import json
import re
import threading
from contextlib import contextmanager

import pytest

from fairseq_resmlp.server.guard import CONTENT_SECURITY_POLICY
from support.contrast import LOW_CONTRAST
from support.server import KING, WOMEN, served

HOSTILE = "<img src=x onerror=\"document.title = 'taken over'\">"
TIMEOUT = 60_000  # milliseconds

# Elements that extend beyond the window and are not inside a part that scrolls on its own.
OUTSIDE = """() => [...document.querySelectorAll("body *")]
  .filter((e) => e.checkVisibility() && !e.closest(".scroll *") && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 100))"""

STRONGEST = """() => {  // the color of the strongest entry of the first map
  const canvas = document.querySelector("canvas");
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  let best = 0;
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > data[best + 3]) best = i;
  return [...data.slice(best, best + 4)].join();
}"""


class Visit:
    """A page, its console messages and script errors, and the requests to other servers."""

    def __init__(self, browser, server, path="", **options):
        self.server, self.messages, self.foreign = server, [], []
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page = page = self.context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("data:", server.url)) or self.foreign.append(r.url))
        page.goto(server.url + path)

    def translate(self, text, wait=True):
        self.page.fill("#text", text)
        self.page.keyboard.press("Control+Enter")
        if wait:
            self.page.wait_for_selector(".copy")
        return self.page.locator(".translation")

    def error(self, text):
        """Translate a text that is refused, and return the message."""
        self.translate(text, wait=False)
        self.page.wait_for_selector("#error:visible")
        return self.page.inner_text("#error")


@contextmanager
def visit(browser, server, path="", **options):
    """Open the page. Afterwards, no script error, violation of the policy or request to another server may be left."""
    visited = Visit(browser, server, path, **options)
    try:
        yield visited
        assert visited.messages == visited.foreign == []
    finally:
        visited.context.close()


@pytest.fixture(scope="module")
def stream(server):
    """Function that returns the result of /stream for a text."""
    return lambda q: server.post("/stream", {"q": q, "source": "en", "target": "de"}).events[-1][1]


@pytest.fixture(scope="module")
def visited(browser, server):
    """A page that several tests use, one after the other."""
    with visit(browser, server, permissions=["clipboard-read", "clipboard-write"]) as opened:
        yield opened


def test_the_page_is_readable_in_light_and_dark_wide_and_narrow(visited):
    page = visited.page
    visited.translate(WOMEN.replace("book", "\u4e2d"))
    assert page.locator(".panel .notice, .alignment, .best").count() == 3
    if page.locator("canvas").count() == 0:
        page.click("#maps summary")
        page.wait_for_selector("canvas")
    colors = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (scheme, width)
            assert page.evaluate(OUTSIDE) == [], (scheme, width)
            assert page.evaluate(LOW_CONTRAST) == [], (scheme, width)
            source, target = (page.locator(x).bounding_box() for x in ("#text", ".translation"))
            assert (target["x"] > source["x"] + source["width"] - 1) == (width == 1280)  # side by side
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        colors[scheme] = [sum(map(int, re.findall(r"\d+", background))), page.evaluate(STRONGEST)]
    page.set_viewport_size({"width": 1280, "height": 900})
    assert colors["light"][0] > 600 > 200 > colors["dark"][0]
    assert colors["light"][1] != colors["dark"][1]  # the maps are drawn again
    sizes = [
        float(page.locator(x).evaluate("e => parseFloat(getComputedStyle(e).fontSize)")) for x in ("#text", "body")
    ]
    assert page.locator(".translation").evaluate("e => parseFloat(getComputedStyle(e).fontSize)") > max(sizes)


def test_alternatives_and_alignment_are_those_of_the_api(visited, stream):
    translation = visited.translate(WOMEN)
    result = stream(WOMEN)
    (line,) = result["lines"]
    assert translation.inner_text() == result["translatedText"]
    page = visited.page
    rows = page.locator(".best tr").all_inner_texts()[1:]
    expected = [f"{i}\t{x['score']:.3f}\t{x['text']}" for i, x in enumerate(line["hypotheses"], 1)]
    assert len(expected) == 3 and rows == expected

    columns = page.locator(".alignment th[scope=col]").all_inner_texts()
    targets = page.locator(".alignment th[scope=row]").all_inner_texts()
    assert " ".join(columns) == WOMEN and " ".join(targets) == result["translatedText"]  # words, not pieces
    cells = [row.split("\t")[1:] for row in page.locator(".alignment tr").all_inner_texts()[1:]]
    shown = {}
    for link in line["hypotheses"][0]["alignments"]:
        (s, _), (t, _) = link["source"], link["target"]
        shown[WOMEN[:s].count(" "), result["translatedText"][:t].count(" ")] = link["weight"]
    for (j, i), weight in shown.items():
        assert abs(float(cells[i][j] or 0) - 100 * weight) <= 0.51, (i, j)


def test_further_lines_are_folded_and_blank_lines_are_kept(visited, stream):
    text = f"{KING}\n\n{HOSTILE}"
    translation = visited.translate(text)
    assert translation.inner_text() == stream(text)["translatedText"] and "\n\n" in translation.inner_text()
    page = visited.page
    assert page.locator("#details summary").all_inner_texts() == [KING, HOSTILE]
    assert page.locator("#details details[open], #details table").count() == 0
    page.click("#details summary >> nth=0")
    page.wait_for_selector("#details details:nth-of-type(1) .alignment")
    assert page.locator("#details .best").count() == 1
    assert page.title() == "Translation with ResMLP"  # text is never executed
    visited.translate(f"{KING} {WOMEN}")  # two sentences in a line
    assert page.locator("#details details").count() == 1 and page.locator("#details details[open]").count() == 0


@pytest.mark.parametrize("clipboard", ["Clipboard API", "no Clipboard API"])
def test_copy_puts_the_whole_translation_into_the_clipboard(visited, clipboard):
    text = {"Clipboard API": f"{KING}\n\n{WOMEN}", "no Clipboard API": KING}[clipboard]
    translation = visited.translate(text).inner_text()
    page = visited.page
    if clipboard == "no Clipboard API":  # as without TLS from another machine
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')) }")
    page.click(".copy")
    page.wait_for_selector(".copy:text-is('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == translation
    assert page.locator("textarea").count() == 1


def test_unknown_pieces_are_counted(visited, stream):
    notice = visited.page.locator(".panel .notice")
    visited.translate(KING)
    assert notice.count() == 0
    for text in (f"{KING} \u4e2d", f"\u4e2d {KING} \u4e2d"):
        unknown = stream(text)["lines"][0]["unknown"]
        visited.translate(text)
        assert notice.inner_text().startswith(f"{unknown} subword{'s are' if unknown > 1 else ' is'} unknown"), text
    assert unknown > 1


@pytest.mark.slow
def test_long_alignments_are_cut_at_60_words(visited):
    page = visited.page
    page.route("**/stream", lambda route: route.fulfill(content_type="text/event-stream", body=long_stream()))
    visited.translate(KING)
    page.unroute("**/stream")
    assert page.locator(".alignment th[scope=col]").count() == page.locator(".alignment th[scope=row]").count() == 60
    assert "Only the first 60 words" in page.inner_text("#details")
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#details .scroll").evaluate("e => e.scrollWidth > e.clientWidth")
    page.set_viewport_size({"width": 1280, "height": 900})


def long_stream():
    """The events of a translation with 70 words on both sides."""
    spans = [[2 * i, 2 * i + 1] for i in range(70)]
    alignments = [{"source": span, "target": span, "weight": 1} for span in spans]
    best = {"text": "a " * 70, "score": -1, "tokens": [], "alignments": alignments}
    line = {"source": "a " * 70, "tokens": [], "unknown": 0, "hypotheses": [best]}
    return f"event: result\ndata: {json.dumps({'translatedText': 'a ' * 70, 'seconds': 1, 'lines': [line]})}\n\n"


def test_the_translation_grows(browser, exported_models, caplog):
    steps = threading.Semaphore(0)
    with (
        served(exported_models / "float32", beam=3, steps=steps, examples=[KING, WOMEN]) as server,
        visit(browser, server) as visited,
    ):
        page = visited.page
        page.click(f"#examples button:has-text('{WOMEN}')")
        assert page.input_value("#text") == WOMEN
        steps.release(4)
        first = page.wait_for_selector(".translation.partial:not(:empty)").inner_text()
        steps.release(4)
        page.locator(".translation.partial").filter(has_not_text=re.compile(f"^{re.escape(first)}$")).wait_for()
        assert len(page.inner_text(".translation")) > len(first)
        assert page.locator(".copy").count() == 0
        page.fill("#text", KING)  # another text replaces the one in progress
        page.click("#translate")
        steps.release(100_000)
        page.wait_for_selector(".copy")
        assert page.locator(".partial").count() == 0
        assert page.inner_text(".translation") == server.translate(KING).json["translatedText"]
    assert "a request failed" not in caplog.text  # although the first one was aborted


@pytest.mark.slow
def test_several_models_of_a_pair_translate_side_by_side(browser, exported_models):
    models = [(name, exported_models / name) for name in ("float32", "int8")]
    with served(*models, beam=2) as server, visit(browser, server) as visited:
        page = visited.page
        page.fill("#text", KING)
        page.click("#translate")
        page.locator(".copy").nth(1).wait_for()
        assert page.locator(".model").all_inner_texts() == ["float32", "int8"]
        expected = [server.translate(KING, model=name).json["translatedText"] for name, _ in models]
        assert page.locator(".translation").all_inner_texts() == expected
        assert page.locator("#maps summary").count() == 2


def test_refusals_of_the_api_are_shown(browser, exported_models):
    with served(exported_models / "float32", rate=2, max_characters=40, api_keys=["secret"]) as server:
        visited = Visit(browser, server)
        page = visited.page
        page.wait_for_selector("#key:visible")
        page.fill("#text", "x" * 41)
        assert page.inner_text("#count") == "41 of 40 characters"
        assert page.locator("#count.over").count() == 1
        page.fill("#key input", "secret")
        assert "Not translated: the request has 41 characters, but the limit is 40" in visited.error("x" * 41)
        assert page.locator("#count.over").evaluate("e => getComputedStyle(e).color") == page.locator(
            "#error"
        ).evaluate("e => getComputedStyle(e).color")
        visited.translate(KING)
        assert not page.locator("#error").is_visible()
        assert "the limit is 2 requests per minute: try again in" in visited.error(KING)
        for answer, message in (
            ({"status": 502, "content_type": "text/html", "body": "<h1>Bad gateway</h1>"}, "status 502"),
            ({"content_type": "text/event-stream", "body": "event: start\ndata: {}\n\n"}, "closed the connection"),
        ):
            page.route("**/stream", lambda route, *, answer=answer: route.fulfill(**answer))
            assert message in visited.error(KING)
            page.unroute("**/stream")
        statuses = [re.search(r"status of (\d+)", message) for message in visited.messages]
        assert [match and match[1] for match in statuses] == ["413", "429", "502"]  # no script error
        visited.context.close()


@pytest.mark.slow
def test_the_page_of_the_api_lists_every_address(browser, server):
    with visit(browser, server, "docs", color_scheme="dark") as visited:
        page = visited.page
        page.wait_for_selector("#operations table")
        headings = page.locator("h2").all_inner_texts()
        paths = json.loads(server.get("/openapi.json").text)["paths"]
        assert headings == [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(OUTSIDE) == page.evaluate(LOW_CONTRAST) == []


@pytest.mark.slow
def test_the_policy_blocks_inline_scripts_and_other_hosts(browser, server):
    visited = Visit(browser, server)
    visited.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'taken over'";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "http://127.0.0.2:1/x.png";
          document.body.append(image);
        }"""
    )
    visited.page.wait_for_timeout(100)
    assert visited.page.title() == "Translation with ResMLP"
    assert sum("Content Security Policy" in message for message in visited.messages) == 2
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    visited.context.close()
