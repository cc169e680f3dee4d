"""TMX and XLIFF documents. External entities, declared entities and network access are refused."""

import io
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple, NoReturn

from lxml import etree

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.documents import Filled
from fairseq_resmlp.data.inline_markup import Element, Inline, read_content, write_content

_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


class _Unit(NamedTuple):
    """A text and the element for its translation."""

    text: str
    inlines: Sequence[Inline]
    target: Element


class XmlDocument:
    """An XML document with texts and their translations. Translations that exist are left as they are.

    Args:
        path: its name, for error messages
        content: its bytes
        languages: source and target language

    Raises:
        InputError: the content is not of this type or not in these languages, or it declares entities
    """

    root_name: str

    def __init__(self, path: str, content: bytes, languages: tuple[str, str]):
        self.path, self.languages = path, languages
        self.tree = _parse(path, content)
        self.ends_with_newline = content.endswith(b"\n")
        self.root = self.tree.getroot()
        _check_root(path, self.root, self.root_name)
        self.units = list(self._units())

    def _units(self) -> Iterator[_Unit]:
        """Yield the units without translation, with a target element in the document for each."""
        raise NotImplementedError

    @property
    def texts(self) -> Sequence[str]:
        """See `Document`."""
        return [unit.text for unit in self.units]

    @property
    def has_markup(self) -> bool:
        """See `Document`."""
        return any(unit.inlines for unit in self.units)

    def fill(self, translations: Sequence[Filled]) -> None:
        """See `Document`."""
        for unit, translation in zip(self.units, translations, strict=True):
            write_content(unit.target, translation, unit.text, unit.inlines)

    def write(self, file: IO[bytes]) -> None:
        """See `Document`."""
        info = self.tree.docinfo
        standalone = True if info.standalone else None  # lxml reports False where nothing is stated
        self.tree.write(file, xml_declaration=True, encoding=info.encoding or "UTF-8", standalone=standalone)
        if self.ends_with_newline:
            file.write(b"\n")


class Tmx(XmlDocument):
    """A translation memory. The translation of a `<tu>` is a further `<tuv>`."""

    root_name = "tmx"

    def _units(self) -> Iterator[_Unit]:
        found: set[str] = set()
        for unit in self.root.iter("{*}tu"):
            variants = _variants(unit)
            found.update(variants)
            source, target = (variants.get(_primary(language)) for language in self.languages)
            if source is None or source.find("{*}seg") is None:
                continue
            if target is None:
                target = _insert(source, "tuv")
                target.set(_LANGUAGE, self.languages[1])
                target.text = source.text
            segment = target.find("{*}seg")
            if segment is None:
                segment = etree.SubElement(target, source.find("{*}seg").tag)
                segment.tail = source.find("{*}seg").tail
            if not read_content(segment)[0].strip():
                yield _Unit(*read_content(source.find("{*}seg")), segment)
        if _primary(self.languages[0]) not in found:
            raise InputError(
                f"{self.path} has no texts in {self.languages[0]}, the source language of the model, but in "
                f"{', '.join(sorted(found)) or 'no language'}: specify another model, or correct xml:lang"
            )


class Xliff(XmlDocument):
    """XLIFF 1.2, or 2.0 and later. The translation of a `<source>` is the `<target>` next to it."""

    root_name = "xliff"

    def _units(self) -> Iterator[_Unit]:
        self._check_languages()
        for source in list(self.root.iter("{*}source")):
            parent = source.getparent()
            kind = _name(parent)
            if kind not in ("trans-unit", "segment") or _is_protected(parent):
                continue  # for example <alt-trans>, a suggestion
            target = parent.find("{*}target")
            if target is None:
                segmented = parent.find("{*}seg-source")
                target = _insert(source if segmented is None else segmented, "target")
            if read_content(target)[0].strip():
                continue
            if kind == "trans-unit":
                target.set("state", "needs-review-translation")
                target.set("state-qualifier", "mt-suggestion")
            else:
                parent.set("state", "translated")
            yield _Unit(*read_content(source), target)

    def _check_languages(self) -> None:
        """Check the languages of the document, and set the target language if it is missing."""
        declared = [(element, "source-language", "target-language") for element in self.root.findall("{*}file")]
        if "srcLang" in self.root.attrib:  # XLIFF 2
            declared = [(self.root, "srcLang", "trgLang")]
        for element, *names in declared:
            for name, language in zip(names, self.languages):
                stated = element.get(name, language)
                if _primary(stated) != _primary(language):
                    raise InputError(
                        f"{self.path} has {name} {stated!r}, but the model translates from {self.languages[0]} to "
                        f"{self.languages[1]}: specify another model, or correct {name}"
                    )
            element.set(names[1], element.get(names[1], self.languages[1]))


def read_pairs(path: str, file: IO[bytes], kind: str, languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yield source and target of each translated unit of a document. Memory does not grow with the document.

    Args:
        path: its name, for error messages
        file: its content
        kind: tmx or xlf
        languages: source and target language, which may be the target and the source language of the document

    Raises:
        InputError: the content is not of this type or has no pairs in these languages, or it declares entities
    """
    name, units = ("tmx", ("tu",)) if kind == "tmx" else ("xliff", ("trans-unit", "segment"))
    wanted = [_primary(language) for language in languages]
    stated: list[str] = []  # source and target language of the XLIFF units that follow
    found, is_empty = set[str](), True
    try:
        for event, element in etree.iterparse(file, ("start", "end"), **_SECURE):
            tag = _name(element) if isinstance(element.tag, str) else ""
            if event == "start":
                if element.getparent() is None:
                    _check_root(path, element, name)
                    _refuse_declared_entities(path, element.getroottree())
                if kind == "xlf" and tag in ("file", "xliff"):
                    stated = [_primary(element.get(x)) for x in _STATED_LANGUAGES if element.get(x)] or stated
                    found.update(stated)
            elif tag in units:
                _refuse_used_entities(path, element)
                if kind == "tmx":
                    variants = _variants(element)
                    found.update(variants)
                    segments = [variants[x].find("{*}seg") if x in variants else None for x in wanted]
                else:
                    sides = dict(zip(stated or wanted, (element.find("{*}source"), element.find("{*}target"))))
                    segments = [None if _is_protected(element) else sides.get(x) for x in wanted]
                source, target = ("" if segment is None else read_content(segment)[0] for segment in segments)
                if source.strip() and target.strip():
                    is_empty = False
                    yield source, target
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise InputError(f"{path} is not well-formed XML: {error.msg}") from error
    if is_empty:
        raise InputError(
            f"{path} has no pairs of texts in {languages[0]} and {languages[1]}, but texts in "
            f"{', '.join(sorted(found)) or 'no language'}: specify other languages, as FILE:LANGUAGE, or correct them"
        )


_STATED_LANGUAGES = ("source-language", "srcLang", "target-language", "trgLang")  # XLIFF 1.2 and 2
_SECURE: dict[str, Any] = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}


def _parse(path: str, content: bytes) -> Any:
    try:
        tree = etree.parse(io.BytesIO(content), etree.XMLParser(**_SECURE))
    except etree.XMLSyntaxError as error:
        raise InputError(f"{path} is not well-formed XML: {error.msg}") from error
    _refuse_declared_entities(path, tree)
    _refuse_used_entities(path, tree)
    return tree


def _check_root(path: str, root: Element, name: str) -> None:
    if _name(root) != name:
        raise InputError(f"{path} is not {name.upper()}: its first element is <{_name(root)}>")


def _refuse_declared_entities(path: str, tree: Any) -> None:
    declared = tree.docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        _refuse_entities(path)


def _refuse_used_entities(path: str, tree: Any) -> None:
    if next(tree.iter(etree.Entity), None) is not None:
        _refuse_entities(path)


def _refuse_entities(path: str) -> NoReturn:
    raise InputError(f"{path} uses entities, which are refused for security: replace them by their text")


def _variants(unit: Element) -> dict[str, Element]:
    """Return the first `<tuv>` of each language, without region, of a `<tu>`."""
    return {_primary(_language(variant)): variant for variant in reversed(unit.findall("{*}tuv"))}


def _name(element: Element) -> str:
    return str(etree.QName(element).localname)


def _language(variant: Element) -> str:
    return str(variant.get(_LANGUAGE) or variant.get("lang") or "")


def _primary(language: str) -> str:
    """Return the language without region and script: en for en-US."""
    return language.lower().replace("_", "-").partition("-")[0]


def _is_protected(element: Element) -> bool:
    """Return whether an element or the nearest ancestor that states it is not to be translated."""
    stated = next((x.get("translate") for x in (element, *element.iterancestors()) if x.get("translate")), "yes")
    return bool(stated == "no")


def _insert(after: Element, tag: str) -> Element:
    """Insert an element after another, indented like it."""
    parent, namespace, previous = after.getparent(), etree.QName(after).namespace, after.getprevious()
    new = etree.Element(f"{{{namespace}}}{tag}" if namespace else tag)
    parent.insert(parent.index(after) + 1, new)
    new.tail, after.tail = after.tail, parent.text if previous is None else previous.tail
    return new
