"""TMX and XLIFF documents. External entities, declared entities and network access are refused."""

import io
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

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
        if _name(self.root) != self.root_name:
            raise InputError(f"{path} is not {self.root_name.upper()}: its first element is <{_name(self.root)}>")
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
            variants = {_primary(_language(variant)): variant for variant in reversed(unit.findall("{*}tuv"))}
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


def _parse(path: str, content: bytes) -> Any:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        tree = etree.parse(io.BytesIO(content), parser)
    except etree.XMLSyntaxError as error:
        raise InputError(f"{path} is not well-formed XML: {error.msg}") from error
    declared, used = tree.docinfo.internalDTD, next(tree.iter(etree.Entity), None)
    if used is not None or (declared is not None and any(True for _ in declared.iterentities())):
        raise InputError(f"{path} uses entities, which are refused for security: replace them by their text")
    return tree


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
