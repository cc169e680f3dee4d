"""HTML of translations: escaping, text direction, and labels for screen readers."""

from html.parser import HTMLParser

import pytest
import torch

from fairseq_resmlp.server import html
from support.paths import PLUGIN

HOSTILE = "<img src=x onerror=alert(1)> \"quoted\" 'single' & {{ 7 * 7 }} </p></td></details>"
VOID = {"img"}


class Elements(HTMLParser):
    """The elements of well-formed HTML, as (tag, attributes, text)."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.found[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def select(self, tag=None, **attributes):
        """Return the attributes and texts of the elements with a tag and attributes."""
        return [
            (own, text.strip())
            for name, own, text in self.found
            if tag in (None, name) and attributes.items() <= own.items()
        ]


def make_translation(T=3, S=4, text=HOSTILE, translations=2):
    return html.Translation(
        line=text,
        source=[text] * (S - 1),
        texts=[text] * translations,
        scores=[-0.5, -1.25][:translations],
        target=[text] * (T - 1),
        attention=torch.full((T, S), 1 / S),
    )


def render_all(text):
    """Return everything that the page can show, with the same text in every place."""
    return "".join(
        [
            html.render_model(text, text),
            html.render_notice(text),
            html.render_partial([text], [text], text),
            html.render_result([make_translation(text=text)], text, text),
            html.render_maps({text: b"<svg/>"}),
        ]
    )


def test_text_from_outside_is_escaped_everywhere():
    hostile, plain = Elements(render_all(HOSTILE)), Elements(render_all("plain"))
    assert [tag for tag, _, _ in hostile.found] == [tag for tag, _, _ in plain.found]
    for (_, attributes, text), (_, expected, expected_text) in zip(hostile.found, plain.found, strict=True):
        assert attributes == {name: value and value.replace("plain", HOSTILE) for name, value in expected.items()}
        assert text == expected_text.replace("plain", HOSTILE)


def test_each_text_has_its_own_direction_and_translations_have_their_language():
    elements = Elements(html.render_result([make_translation(text="שלום")], "1 ms", "he"))
    texts = [attributes for attributes, text in elements.select(None) if text == "שלום" and "dir" in attributes]
    assert len(texts) == 4 and all(attributes["dir"] == "auto" for attributes in texts)
    assert [attributes.get("lang") for attributes in texts] == [None, "he", "he", "he"]
    assert len(elements.select("bdi")) == len(elements.select("th", scope="row")) + 4  # 4 columns


def test_screen_readers_get_alerts_headers_and_descriptions():
    assert Elements(html.render_notice("wrong")).select(role="alert")[0][1] == "wrong"
    elements = Elements(html.render_result([make_translation()], "1 ms", "de"))
    headers = [text for _, text in elements.select("th", scope="col")]
    assert headers == ["#", "score", "translation", HOSTILE, HOSTILE, HOSTILE, "</s>"]
    assert [text for _, text in elements.select("th", scope="row")] == [HOSTILE, HOSTILE, "</s>"]
    assert len(elements.select("div", tabindex="0")) == 1  # the alignment scrolls with the keyboard
    (image,) = Elements(html.render_maps({"encoder layer 1": b"<svg/>"})).select("img")
    assert image[0] == {"alt": "Interaction map: A of encoder layer 1", "src": "data:image/svg+xml;base64,PHN2Zy8+"}


@pytest.mark.parametrize("count, title", [(2, "The 2 best translations"), (1, "The best translation")])
def test_scores_are_listed_best_first(count, title):
    elements = Elements(html.render_result([make_translation(text="so", translations=count)], "1 ms", "de"))
    assert elements.select("summary")[0][1] == title
    cells = [text for attributes, text in elements.select("td") if "style" not in attributes]
    assert cells == ["1", "-0.500", "so", "2", "-1.250", "so"][: 3 * count]


def test_cells_of_an_alignment_show_percentages():
    translation = make_translation(T=2, S=3)
    translation.attention[:] = torch.tensor([[0.004, 0.006, 0.99], [0.7, 0.2, 0.1]])
    cells = Elements(html.render_result([translation], "1 ms", "de")).select("td")[-6:]
    assert [text for _, text in cells] == ["", "1", "99", "70", "20", "10"]
    assert [attributes["style"] for attributes, _ in cells[3:]] == [f"--weight:{w}" for w in ("0.70", "0.20", "0.10")]
    assert ["class" in attributes for attributes, _ in cells] == [False, False, True, True, False, False]


def test_a_long_alignment_is_truncated_and_says_so():
    text = html.render_result([make_translation(T=70, S=61, text="x")], "1 ms", "de")
    elements = Elements(text)
    limit = html.MAX_ALIGNED
    assert len(elements.select("th", scope="row")) == limit and len(elements.select("th", scope="col")) == limit + 3
    assert len([cell for cell in elements.select("td") if "style" in cell[0]]) == limit**2
    for side, count in (("source", 61), ("target", 70)):
        assert f"Only the first {limit} of the {count} {side} tokens are shown." in text
    assert "Only the first" not in html.render_result([make_translation(text="x")], "1 ms", "de")


def test_a_model_without_token_mixing_has_no_maps():
    elements = Elements(html.render_maps({}))
    assert elements.select("img") == []
    assert "This model does not mix tokens: A = 0." in [text for _, text in elements.select("p")]


def test_every_template_is_used():
    names = {path.stem for path in (PLUGIN / "server" / "templates").iterdir()}
    assert names == {"macros", "maps", "model", "notice", "partial", "result"}
