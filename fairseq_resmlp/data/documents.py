"""Documents whose texts can be translated in place: tables (.tsv, .csv), TMX and XLIFF, also with .gz.

document = read_document("messages.xlf", ("en", "de"))
document.fill([Filled(translate(text)) for text in document.texts])
document.write(file)
"""

import csv
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol

from fairseq_resmlp.common.compression import SUFFIX, open_decompressed
from fairseq_resmlp.common.errors import InputError

MAX_BYTES = 1 << 30  # of a document, decompressed


class Link(NamedTuple):
    """A source word and the target word that translates it, each as characters [start, end) of its text."""

    source: tuple[int, int]
    target: tuple[int, int]


class Filled(NamedTuple):
    """A translation, and for documents with inline markup its word alignments."""

    text: str
    links: Sequence[Link] = ()


class Document(Protocol):
    """A document in memory."""

    @property
    def texts(self) -> Sequence[str]:
        """The texts that have no translation yet, in order."""

    @property
    def has_markup(self) -> bool:
        """Whether a text has inline markup, for whose place in the translation `fill` needs alignments."""

    def fill(self, translations: Sequence[Filled]) -> None:
        """Insert the translations of `texts`. Everything else stays as it is."""

    def write(self, file: IO[bytes]) -> None:
        """Write the document in its format and encoding."""


def document_type(path: str) -> str | None:
    """Return the type of a document by the suffix of its name: tsv, csv, tmx or xlf; None: plain text."""
    suffix = os.path.splitext(path.lower().removesuffix(SUFFIX))[1]
    return {".tsv": "tsv", ".csv": "csv", ".tmx": "tmx", ".xlf": "xlf", ".xliff": "xlf"}.get(suffix)


def read_document(
    path: str, languages: tuple[str, str], source_column: str | None = None, target_column: str | None = None
) -> Document:
    """Read a document.

    Args:
        path: a file with a type, see `document_type`
        languages: source and target language, such as en and de
        source_column: of a table, a name in its first line, or a number from 1 if it has no header. None: the source
            language in .csv, and in .tsv if its first line names both languages; otherwise the first column
        target_column: likewise. A column that does not exist is added. None: the target language if the table has a
            header, else a new column

    Raises:
        InputError: the file is damaged, is not of this type, or has no such column or languages
    """
    kind = document_type(path)
    with open_decompressed(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES:,} bytes, the limit for documents: split it")
    if kind in ("tsv", "csv"):
        return Table(path, content, kind, languages, source_column, target_column)
    if source_column or target_column:
        raise InputError(f"{path} is not a table: --source-column and --target-column are for .tsv and .csv")
    from fairseq_resmlp.data.xml_documents import Tmx, Xliff  # needs lxml

    return Tmx(path, content, languages) if kind == "tmx" else Xliff(path, content, languages)


def read_table_pairs(
    path: str, lines: Iterable[bytes], kind: str, languages: tuple[str, str], columns: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield the texts of two columns of a table, row by row.

    Args:
        path: its name, for error messages
        lines: its content
        kind: tsv or csv
        languages: source and target language
        columns: names in the first line, or numbers from 1 if the table has no header. "": the language, or the first
            and the second column of a .tsv whose first line does not name both languages

    Raises:
        InputError: the table is not of this type, has no such columns, or a row lacks one of them
    """
    decoded = _decode(path, lines)
    first = next(decoded, "")
    texts = itertools.chain([first], decoded)
    is_named = kind == "csv" or set(languages) <= set(first.rstrip("\r\n").split("\t"))
    defaults = languages if is_named else ("1", "2")
    source, target = (column or default for column, default in zip(columns, defaults))
    if source == target:
        raise InputError(f"both sides are column {source} of {path}: specify different columns")
    rows = (
        (line.rstrip("\r\n").split("\t") for line in texts)
        if kind == "tsv"
        else csv.reader(texts, delimiter=_delimiter(first), strict=True)
    )
    numbered = source.isdecimal() and target.isdecimal()
    try:
        header: list[str] = [] if numbered else next(iter(rows), [])
        places = [_find_column(path, header, column, "as FILE:COLUMN") for column in (source, target)]
        for number, row in enumerate(rows, 1 + bool(header)):
            if len(row) > max(places):
                yield row[places[0]], row[places[1]]
            elif row not in ([], [""]):
                raise InputError(
                    f"{path}: row {number:,} has {len(row)} columns, but the texts are in columns {places[0] + 1} and "
                    f"{places[1] + 1}: specify other columns, as FILE:COLUMN, or correct the row"
                )
    except csv.Error as error:
        raise InputError(f"{path} is not a table in the format csv: {error}") from error


def _decode(path: str, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8" if number > 1 else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} has invalid UTF-8 in line {number:,} ({error.reason}): convert it to UTF-8"
            ) from error


def _delimiter(first: str) -> str:
    """Return the delimiter of a .csv with this first line."""
    return max(",;\t", key=first.count)


def _find_column(path: str, header: Sequence[str], column: str, where: str) -> int:
    """Return the place of a column that has a name, or of a number from 1 that is not a name."""
    if column.isdecimal() and int(column) and column not in header:
        return int(column) - 1
    if header.count(column) != 1:
        found = ", ".join(header)
        raise InputError(
            f"{path} has {header.count(column)} columns {column!r} in its first line: specify one of {found} {where}, "
            "or a number from 1 if the table has no header"
        )
    return header.index(column)


@dataclass(frozen=True)
class _Dialect:
    """How a table is written."""

    delimiter: str
    line_end: str
    is_quoted: bool
    encoding: str

    def read(self, text: str) -> list[list[str]]:
        if not self.is_quoted:
            lines = text.split(self.line_end)
            return [line.split(self.delimiter) if line else [] for line in lines[: -1 if lines[-1] == "" else None]]
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True))

    def write(self, rows: Sequence[Sequence[str]]) -> str:
        if not self.is_quoted:
            return "".join(self.delimiter.join(row) + self.line_end for row in rows)
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=self.delimiter, lineterminator=self.line_end).writerows(rows)
        return out.getvalue()


class Table:
    """A table with a column of texts. Rows whose target column has text are left as they are.

    .tsv has no quoting: a field contains neither tabs nor line ends. .csv is quoted as by Python's csv module, and
    separated by commas, semicolons or tabs.

    Args and Raises: see `read_document`
    """

    has_markup = False

    def __init__(
        self,
        path: str,
        content: bytes,
        kind: str,
        languages: tuple[str, str],
        source_column: str | None,
        target_column: str | None,
    ):
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it first") from error
        first = text.partition("\n")[0]
        delimiter = "\t" if kind == "tsv" else _delimiter(first)
        encoding = "utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8"
        self.dialect = _Dialect(delimiter, "\r\n" if first.endswith("\r") else "\n", kind == "csv", encoding)
        try:
            self.rows = self.dialect.read(text)
        except csv.Error as error:
            raise InputError(f"{path} is not a table in the format csv: {error}") from error
        if not self.rows:
            raise InputError(f"{path} is empty")
        if source_column is None:
            source_column = languages[0] if kind == "csv" or set(languages) <= set(self.rows[0]) else "1"
        self.header = [] if source_column.isdecimal() else self.rows[0]
        self.source = self._find(path, source_column)
        self.target = self._target(path, languages[1], target_column)
        self.waiting = [row for row in self.rows[bool(self.header) :] if row and self._is_waiting(path, row)]

    def _find(self, path: str, column: str) -> int:
        """Return the place of a column."""
        if not self.header:
            return int(column) - 1
        return _find_column(path, self.header, column, "with --source-column and --target-column")

    def _target(self, path: str, language: str, column: str | None) -> int:
        """Return the place of the target column, and add its name to the header if it is new."""
        width = max(map(len, self.rows))
        if self.header:
            if (column or language) not in self.header:
                self.header += [""] * (width - len(self.header)) + [column or language]
            target = self._find(path, column or language)
        else:
            if column is not None and not column.isdecimal():
                raise InputError(
                    f"--target-column {column} is not a number, but --source-column is: {path} has no header"
                )
            target = int(column) - 1 if column is not None else width
        if target == self.source or target < 0 or self.source < 0:
            raise InputError("--source-column and --target-column must be different columns, counted from 1")
        return target

    def _is_waiting(self, path: str, row: Sequence[str]) -> bool:
        if len(row) <= self.source:
            number = 1 + next(i for i, other in enumerate(self.rows) if other is row)
            raise InputError(
                f"{path}: row {number} has {len(row)} columns, but the texts are in column {self.source + 1}: specify "
                "another --source-column, or correct the row"
            )
        return bool(row[self.source].strip()) and not "".join(row[self.target : self.target + 1]).strip()

    @property
    def texts(self) -> Sequence[str]:
        """See `Document`."""
        return [row[self.source] for row in self.waiting]

    def fill(self, translations: Sequence[Filled]) -> None:
        """See `Document`."""
        for row, translation in zip(self.waiting, translations, strict=True):
            text = translation.text
            if not self.dialect.is_quoted:
                text = " ".join(text.replace("\t", " ").splitlines())
            row += [""] * (self.target + 1 - len(row))
            row[self.target] = text

    def write(self, file: IO[bytes]) -> None:
        """See `Document`."""
        file.write(self.dialect.write(self.rows).encode(self.dialect.encoding))
