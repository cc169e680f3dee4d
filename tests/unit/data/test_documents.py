"""Documents keep everything but the translations that are added where they are missing."""

import gzip
import io

import pytest
from lxml import etree

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data import documents
from fairseq_resmlp.data.documents import Filled, Link, document_type, read_document
from fairseq_resmlp.data.plain_text import check_plain_text

XLIFF = """<?xml version='1.0' encoding='UTF-8'?>
<!-- note --><xliff xmlns="urn:oasis:names:tc:xliff:document:1.2" xmlns:x="urn:x" version="1.2">
  <file source-language="en-US" original="a &amp; b" datatype="plaintext">
    <body>
      <group translate="no"><trans-unit id="0"><source>Keep</source></trans-unit></group>
      <trans-unit id="1" x:name="1">
        <source>Hello &amp; <![CDATA[<bye>]]></source>
        <note>a</note>
        <alt-trans><source>No</source><target>Nein</target></alt-trans>
      </trans-unit>
      <trans-unit id="2"><source>One. Two.</source><target state="new"/></trans-unit>
      <trans-unit id="3"><source>Done</source><target>Fertig</target></trans-unit>
    </body>
  </file>
</xliff>
"""
STATE = 'state="needs-review-translation" state-qualifier="mt-suggestion"'
XLIFF_FILLED = (
    XLIFF.replace('datatype="plaintext"', 'datatype="plaintext" target-language="de"')
    .replace("]]></source>\n", f"]]></source>\n        <target {STATE}>HELLO &amp; &lt;BYE&gt;</target>\n")
    .replace('<target state="new"/>', f"<target {STATE}>ONE. TWO.</target>")
)
XLIFF_2 = (
    '<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="en"{}><file id="f"><unit id="u">'
    "<segment{}><source>Hi</source>{}</segment><ignorable><source> </source></ignorable></unit></file></xliff>"
)
TMX = """<?xml version='1.0' encoding='{}'?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4">
  <header srclang="en" datatype="plaintext"/>
  <body>
    <tu tuid="1">
      <tuv xml:lang="en-GB">
        <seg>Häuser</seg>
      </tuv>{}
    </tu>
    <tu tuid="2"><tuv xml:lang="de"><seg>da</seg></tuv><tuv xml:lang="en"><seg>here</seg></tuv></tu>
    <tu tuid="3"><tuv xml:lang="fr"><seg>ici</seg></tuv></tu>
  </body>
</tmx>
"""
TMX_TARGET = """
      <tuv xml:lang="de">
        <seg>HÄUSER</seg>
      </tuv>"""


def fill(tmp_path, name, content, translate=str.upper, **columns):
    """Return a document as bytes, filled by a function of each text."""
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    document = read_document(str(tmp_path / name), ("en", "de"), **columns)
    document.fill([Filled(translate(text)) for text in document.texts])
    written = io.BytesIO()
    document.write(written)
    return written.getvalue()


@pytest.mark.parametrize(
    "name, content, expected, columns",
    [
        ("a.tsv", 'a "b\tc\n\n d\te\n', 'a "b\tc\tA "B\n\n d\te\t D\n', {}),
        ("a.tsv", "1\ta\t\r\n2\tb\tc\r\n", "1\ta\tA\r\n2\tb\tc\r\n", {"source_column": "2", "target_column": "3"}),
        ("a.tsv", "en\tx\na\t1\nb\n", "en\tx\tde\na\t1\tA\nb\t\tB\n", {"source_column": "en"}),
        ("a.tsv", "id\ten\tde\n1\ta\t\n2\tb\tc\n", "id\ten\tde\n1\ta\tA\n2\tb\tc\n", {}),
        ("a.tsv", "en\tx\n", "en\tx\tEN\n", {}),
        ("a.tsv.gz", "a\n", "a\tA\n", {}),
        ("a.csv", 'id,en\n1,"a, ""b"""\n2,\n', 'id,en,de\n1,"a, ""b""","A, ""B"""\n2,\n', {}),
        ("a.csv", '\ufeffen;de\r\n"a\nb";\r\n', '\ufeffen;de\r\n"a\nb";"A\nB"\r\n', {}),
        ("a.csv", "t,u\na,b\n", "t,u\na,b\n", {"source_column": "t", "target_column": "u"}),
        ("A.CSV", "a,1\nb,2\n", "a,1,A\nb,2,B\n", {"source_column": "1"}),
    ],
)
def test_missing_translations_are_added_to_tables_and_all_else_is_kept(name, content, expected, columns, tmp_path):
    assert fill(tmp_path, name, content, **columns) == expected.encode()


def test_a_translation_in_a_tsv_has_no_tabs_and_line_ends(tmp_path):
    assert fill(tmp_path, "a.tsv", "a\n", lambda text: "x\ty\u2028z\n") == b"a\tx y z\n"


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.xlf", XLIFF, XLIFF_FILLED),
        ("a.xliff.gz", XLIFF, XLIFF_FILLED),
        (
            "a.xlf",
            XLIFF_2.format("", "", ""),
            XLIFF_2.format(' trgLang="de"', ' state="translated"', "<target>HI</target>"),
        ),
        ("a.tmx", TMX.format("UTF-8", ""), TMX.format("UTF-8", TMX_TARGET)),
    ],
)
def test_missing_translations_are_added_to_xml_and_all_else_is_kept(name, content, expected, tmp_path):
    found = fill(tmp_path, name, content).decode()
    assert etree.canonicalize(found, with_comments=True) == etree.canonicalize(expected, with_comments=True)
    assert found.removeprefix("<?xml version='1.0' encoding='UTF-8'?>\n").startswith(
        ("<!-- note -->", "<!DOCTYPE", "<xliff")
    )
    assert fill(tmp_path, name.removesuffix(".gz"), found) == found.encode()  # nothing is missing any more


def test_the_encoding_of_xml_is_kept(tmp_path):
    found = fill(tmp_path, "a.tmx", TMX.format("UTF-16", "").encode("utf-16"))
    assert etree.canonicalize(found.decode("utf-16").partition("?>")[2]) == etree.canonicalize(
        TMX.format("", TMX_TARGET).partition("?>")[2]
    )


# Inline markup


@pytest.mark.parametrize(
    "source, expected",
    [
        ("<g id='1'>big dog</g>", '<g id="1">Hund groß</g>'),
        ("big <g id='1'>dog</g>", '<g id="1">Hund</g> groß'),
        ("<g id='1'>big</g> dog", 'Hund <g id="1">groß</g>'),
        ("<g id='1'>big <g id='2'>dog</g></g>", '<g id="1"><g id="2">Hund</g> groß</g>'),
        ("<x id='1'/>big <x id='2'/>dog<x id='3'/>", '<x id="1"/><x id="2"/>Hund groß<x id="3"/>'),
        ("<g id='1'>big</g> <g id='2'>dog</g>", '<g id="2">Hund</g> <g id="1">groß</g>'),
        ("big dog <ph id='1'>code</ph>", 'Hund groß<ph id="1">code</ph>'),
        ("<bpt id='1'>b</bpt>big<ept id='1'>/b</ept> dog", '<bpt id="1">b</bpt><ept id="1">/b</ept>Hund groß'),
        ("big <!-- no --><g id='1'> </g>dog", 'Hund groß<g id="1"/>'),
    ],
)
def test_inline_elements_stand_at_the_translations_of_their_words(source, expected, tmp_path):
    (tmp_path / "a.xlf").write_text(XLIFF_2.format("", "", "").replace("Hi", source))
    document = read_document(str(tmp_path / "a.xlf"), ("en", "de"))
    assert document.has_markup and [" ".join(text.split()) for text in document.texts] == ["big dog"]
    start = document.texts[0].index("dog")
    document.fill([Filled("Hund groß", [Link((start, start + 3), (0, 4)), Link((0, 3), (5, 9))])])
    written = io.BytesIO()
    document.write(written)
    content = written.getvalue().decode()
    assert f"<target>{expected}</target>" in content


def test_codes_keep_their_order_if_words_change_theirs(tmp_path):
    source = "so <ph id='1'/>big <ph id='2'/>dog"
    (tmp_path / "a.xlf").write_text(XLIFF_2.format("", "", "").replace("Hi", source))
    document = read_document(str(tmp_path / "a.xlf"), ("en", "de"))
    document.fill([Filled("so Hund groß", [Link((0, 2), (0, 2)), Link((7, 10), (3, 7)), Link((3, 6), (8, 12))])])
    written = io.BytesIO()
    document.write(written)
    assert '<target>so Hund <ph id="1"/><ph id="2"/>groß</target>' in written.getvalue().decode()


def test_characters_that_xml_does_not_allow_are_replaced(tmp_path):
    found = fill(tmp_path, "a.xlf", XLIFF_2.format("", "", ""), lambda text: "a\0b\x1b\ufffe\ud800").decode()
    assert "<target>a\ufffdb\ufffd\ufffd\ufffd</target>" in found


# Errors

BOMB = "<!DOCTYPE xliff [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY {name} '{10 * f'&{previous};'}'>" for previous, name in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    "name, content, columns, message",
    [
        ("a.tsv", "", {}, "a.tsv is empty"),
        ("a.tsv", b"\xff", {}, "a.tsv is not UTF-8 .invalid start byte at byte 0.: convert it first"),
        ("a.tsv", "a\tb\n\nc\n", {"source_column": "2"}, "row 3 has 1 columns, but the texts are in column 2"),
        ("a.tsv", "a\tb\n", {"source_column": "0"}, "must be different columns, counted from 1"),
        ("a.tsv", "a\tb\n", {"target_column": "1"}, "must be different columns, counted from 1"),
        ("a.tsv", "a\tb\n", {"target_column": "de"}, "--target-column de is not a number, but --source-column is"),
        ("a.csv", "x,y\n", {}, "has 0 columns 'en' in its first line: specify one of x, y with --source-column"),
        ("a.csv", "en,en\n", {}, "has 2 columns 'en' in its first line"),
        ("a.csv", 'en\n"a\n', {}, "a.csv is not a table in the format csv: unexpected end of data"),
        ("a.csv.gz", b"no", {}, "a.csv.gz is damaged or not compressed with gzip"),
        ("a.xlf", "<a/>", {}, "a.xlf is not XLIFF: its first element is <a>"),
        ("a.xlf", "Hello", {}, "a.xlf is not well-formed XML: "),
        ("a.xlf", XLIFF, {"source_column": "1"}, "a.xlf is not a table: --source-column"),
        ("a.xlf", XLIFF.replace("en-US", "fr"), {}, "has source-language 'fr', but the model translates from en to de"),
        (
            "a.xlf",
            XLIFF_2.format(' trgLang="fr"', "", ""),
            {},
            "has trgLang 'fr', but the model translates from en to de",
        ),
        ("a.tmx", TMX.format("UTF-8", "").replace('"en', '"pl'), {}, "has no texts in en, .* but in de, fr, pl"),
        ("a.xlf", f"{BOMB}]><xliff>&i;</xliff>", {}, "[Aa]mplification|uses entities, which are refused"),
        ("a.xlf", f"{BOMB}]><xliff x='&i;'/>", {}, "[Aa]mplification|uses entities"),
        ("a.xlf", "<!DOCTYPE xliff [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><xliff>&a;</xliff>", {}, "uses entities"),
        ("a.tmx", "<!DOCTYPE tmx SYSTEM 'http://localhost:9/x.dtd'><tmx>&a;</tmx>", {}, "uses entities|not defined"),
    ],
)
def test_a_document_that_cannot_be_translated_is_refused(name, content, columns, message, tmp_path):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_document(str(tmp_path / name), ("en", "de"), **columns)
    assert "\n" not in str(caught.value)


def test_a_document_that_decompresses_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_BYTES", 1000)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"a" * 1001))
    with pytest.raises(InputError, match="has more than 1,000 bytes, the limit for documents: split it"):
        read_document(str(tmp_path / "a.tsv.gz"), ("en", "de"))


@pytest.mark.parametrize(
    "content, message",
    [
        (gzip.compress(b"a", mtime=0), "is compressed with gzip: rename it to NAME.gz"),
        (b"PK\x03\x04\0", "is a ZIP archive or an office document"),
        (b"%PDF-1.7", "is a PDF document"),
        ("ab".encode("utf-16"), "is UTF-16: convert it to UTF-8"),
        (b"\xef\xbb\xbf <?xml version='1.0'?>", "is XML: name it .tmx or .xlf"),
        (b"<!DOCTYPE html>", "is markup"),
        (b"<HTML>", "is markup"),
        (b"<p>\na\n</p>\n<br>\n", "is markup, because most of its lines are enclosed in tags"),
        (b"a\0b", "is a binary file"),
    ],
)
def test_other_formats_are_not_read_as_text(content, message, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=message):
        check_plain_text(str(tmp_path / "a"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xe9t\xe9",
        b"<b>one line</b>\n",
        b"<3\n<3>\n",
        b"a\tb\n",
        b"< a",
        b"<g> is a tag",
        "\u2581\x1b".encode(),
    ],
)
def test_unusual_text_is_text(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    check_plain_text(str(tmp_path / "a"))


def test_documents_are_recognized_by_their_names():
    names = ["a.TSV", "b.csv.gz", "x.tmx", "c.xlf", "c.XLIFF", "a.txt", "tsv", "a.tsv.b", "-", "a.gz"]
    assert list(map(document_type, names)) == ["tsv", "csv", "tmx", "xlf", "xlf", *[None] * 5]
