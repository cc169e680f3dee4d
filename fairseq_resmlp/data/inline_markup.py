"""Inline elements of XML text, and their places in a translation.

An element such as `<g>` encloses text. One such as `<ph>` or `<bpt>` stands for a piece of code between two characters;
its content is not text.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from fairseq_resmlp.data.documents import Filled, Link

# Elements of XLIFF 1.2, XLIFF 2 and TMX that enclose text. All others are codes.
_ENCLOSING = {"g", "mrk", "pc", "hi"}
# Characters that XML does not allow
_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Element = Any  # lxml has no types


@dataclass(frozen=True)
class Inline:
    """An inline element: its place in the text, as characters [start, end), and the elements in it."""

    element: Element
    start: int
    end: int
    children: "Sequence[Inline]"

    @property
    def is_code(self) -> bool:
        """Whether it stands between two characters."""
        return etree.QName(self.element).localname not in _ENCLOSING


def read_content(element: Element) -> tuple[str, list[Inline]]:
    """Return the text of an element, and its inline elements."""
    return _read(element, 0)


def _read(element: Element, offset: int) -> tuple[str, list[Inline]]:
    text, found = element.text or "", []
    for child in element:
        if isinstance(child.tag, str):
            start = offset + len(text)
            if etree.QName(child).localname in _ENCLOSING:
                inner, children = _read(child, start)
                text += inner
                found.append(Inline(child, start, start + len(inner), children))
            else:
                found.append(Inline(child, start, start, []))
        text += child.tail or ""  # also after comments
    return text, found


def write_content(element: Element, translation: Filled, source: str, inlines: Sequence[Inline]) -> None:
    """Set the content of an element to a translation, with copies of the inline elements of its source.

    An enclosing element encloses the translations of its words. A code stands before the translation of the word that
    follows it; codes keep their order.

    Args:
        element: to write to
        translation: of `source`
        source, inlines: from `read_content`
    """
    text = _INVALID.sub("\ufffd", translation.text)
    for child in list(element):
        element.remove(child)
    element.text = None
    _write(element, text, 0, len(text), _place(inlines, source, text, translation.links))


def _place(inlines: Sequence[Inline], source: str, text: str, links: Sequence[Link]) -> list[Inline]:
    """Return the inline elements at their places in the translation."""
    placed, code = [], 0
    for inline in inlines:
        start, end = _span(inline, source, text, links)
        if inline.is_code:
            start = end = code = max(code, start)
        placed.append(Inline(inline.element, start, end, _place(inline.children, source, text, links)))
    return sorted(placed, key=lambda inline: inline.start)


def _span(inline: Inline, source: str, text: str, links: Sequence[Link]) -> tuple[int, int]:
    if inline.start == inline.end:
        if not source[: inline.start].strip():
            return (0, 0)
        following = sorted(link for link in links if link.source[1] > inline.start)
        word = following[0].source if following else None
        place = min((link.target[0] for link in following if link.source == word), default=len(text))
        return place, place
    if not (source[: inline.start] + source[inline.end :]).strip():
        return 0, len(text)
    inside = [link.target for link in links if link.source[0] < inline.end and link.source[1] > inline.start]
    if not inside:
        return len(text), len(text)
    return min(start for start, _ in inside), max(end for _, end in inside)


def _write(parent: Element, text: str, start: int, end: int, inlines: Sequence[Inline]) -> None:
    """Write text[start:end] with inline elements to an element without content."""
    last = None

    def append(part: str) -> None:
        if not part:
            return
        if last is None:
            parent.text = (parent.text or "") + part
        else:
            last.tail = (last.tail or "") + part

    for inline in inlines:
        first = min(max(start, inline.start), end)
        append(text[start:first])
        if inline.is_code:
            last, start = copy.deepcopy(inline.element), first
            last.tail = None
        else:
            last, start = etree.Element(inline.element.tag, inline.element.attrib, inline.element.nsmap), first
            stop = min(max(first, inline.end), end)
            _write(last, text, first, stop, inline.children)
            start = stop
        parent.append(last)
    append(text[start:end])
