"""Subwords are SentencePiece's own, and lines stay lines."""

import io
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import sentencepiece

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data import sentencepiece_files
from fairseq_resmlp.data.sentencepiece_files import (
    BLOCK,
    SentencePieceEncoder,
    _in_order,
    encode_files,
    encode_to_directory,
    train_sentencepiece,
)
from fairseq_resmlp.data.shortlist_learning import read_pairs
from support.files import read_lines, write_files
from support.paths import GOLDEN, ROOT

MODEL = GOLDEN / "sentencepiece.bpe.model"
EUROPARL = ROOT.parent / "shared" / "data" / "europarl20k.en-de"


@pytest.fixture(scope="module")
def encode():
    """SentencePiece's own encoding of whole lines, without the cache of words."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(MODEL))
    return lambda lines: [" ".join(subwords) for subwords in processor.encode(list(lines), out_type=str)]


def vocabulary(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


# Encoding


def test_subwords_equal_those_of_sentencepiece_for_every_character(encode):
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    lines = ["Das " + "".join(characters[i : i + 16]) + " Haus" for i in range(0, len(characters), 16)]
    lines += [f"sieht{c}den" for c in characters[:0x3000]]
    assert SentencePieceEncoder(str(MODEL))(lines) == encode(lines)


@pytest.mark.skipif(not EUROPARL.is_dir(), reason="needs the Europarl text in ../shared/data")
def test_subwords_equal_those_of_sentencepiece_on_real_text(encode):
    lines = (EUROPARL / "train.de").read_text(encoding="utf-8").split("\n")
    assert SentencePieceEncoder(str(MODEL))(lines) == encode(lines)


def test_models_whose_subwords_span_spaces_are_supported(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["in the house of the king", "of the house in the sea"] * 50),
        **{"model_writer": model, "vocab_size": 40, "model_type": "bpe", "split_by_whitespace": False},
        minloglevel=2,
    )
    (tmp_path / "m").write_bytes(model.getvalue())
    lines = ["of the house", "in the sea of the king"]
    expected = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m")).encode(lines, out_type=str)
    assert any("▁" in subword[1:] for line in expected for subword in line)
    assert SentencePieceEncoder(str(tmp_path / "m"))(lines) == [" ".join(line) for line in expected]


def test_several_processes_keep_the_order_of_lines(tmp_path, encode):
    count = 3 * BLOCK + 7
    files = write_files(tmp_path, a="".join(f"Haus {i}\n" for i in range(count)))
    assert encode_files(files, [str(tmp_path / "out")], str(MODEL), workers=2) == (count, {}, 0)
    assert read_lines(tmp_path / "out") == encode(f"Haus {i}" for i in range(count))


def test_the_number_of_blocks_in_memory_is_limited():
    submitted = []

    def futures():
        for number in range(50):
            future = Future()
            future.set_result(number)
            submitted.append(future)
            yield future

    for number, result in enumerate(_in_order(futures(), ahead=4)):
        assert result == number
        assert len(submitted) <= number + 5
    assert number == 49


def test_only_a_line_feed_ends_a_line(tmp_path, encode):
    lines = ["Das\u2028Haus", "Das\x85Haus", "Das\rHaus\x0b\x0c\x1d", "", "zuletzt"]
    files = write_files(tmp_path, a="\r\n".join(lines))
    encode_files(files, [str(tmp_path / "out")], str(MODEL), workers=1)
    assert read_lines(tmp_path / "out") == encode(lines)
    with open(tmp_path / "out", encoding="utf-8") as text:  # fairseq reads it so that \r would end a line too
        assert len(list(text)) == 5


def test_without_cleaning_invalid_utf8_is_an_error(tmp_path):
    files = write_files(tmp_path, a=b"gut\n" * BLOCK + b"gut\nsch\xffn\n")
    with pytest.raises(InputError, match=rf"a has invalid UTF-8 in line {BLOCK + 2}: "):
        encode_files(files, [str(tmp_path / "out")], str(MODEL), workers=2)


@pytest.mark.parametrize("extra", [1, BLOCK, 2 * BLOCK + 1])
def test_sides_of_different_length_are_refused_naming_the_line(tmp_path, extra):
    files = write_files(tmp_path, a="Haus\n" * (10 + extra), b="Haus\n" * 10)
    with pytest.raises(InputError, match=r"are not parallel: .*b ends at line 10$"):
        encode_files(files, [str(tmp_path / "x"), str(tmp_path / "y")], str(MODEL), workers=1)


def test_workers_exit_if_their_parent_is_killed(tmp_path):
    write_files(tmp_path, a="".join(f"das Haus {i}\n" for i in range(400_000)))
    program = Path(sys.executable).with_name("fairseq-resmlp")
    command = (program, "spm-encode", "a", "--model", MODEL, "--out-dir", "p", "--workers", "2")
    read_end, write_end = os.pipe()  # reports its end when the last process that inherited it has exited
    process = subprocess.Popen(command, cwd=tmp_path, pass_fds=[write_end], stderr=subprocess.DEVNULL)
    os.close(write_end)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert select.select([read_end], [], [], 60)[0], "a worker is still running"
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    assert not os.listdir(tmp_path / "p")


# Training


def test_a_model_trained_on_all_lines_equals_that_of_sentencepiece_on_the_files(tmp_path):
    files = write_files(tmp_path, a="Das alte Haus\n" * 30 + "der König\n" * 20, b="the old house\n" * 40)
    ours, theirs = io.BytesIO(), io.BytesIO()
    assert train_sentencepiece(files, ours, vocab_size=60, max_lines=90) == 90
    options = {"vocab_size": 60, "model_type": "bpe", "character_coverage": 1.0, "bos_id": -1, "eos_id": -1}
    sentencepiece.SentencePieceTrainer.train(input=files, model_writer=theirs, minloglevel=2, **options)
    assert vocabulary(ours) == vocabulary(theirs)


def test_from_longer_text_evenly_spaced_lines_are_used(tmp_path):
    files = write_files(tmp_path, a="".join(f"{'abc'[i % 3] * 5}\n" for i in range(90)))
    out = io.BytesIO()
    assert train_sentencepiece(files, out, vocab_size=5, max_lines=30) == 30  # only every third line contains an a
    assert {c for subword in vocabulary(out) for c in subword} & set("abc") == {"a"}


def test_training_on_empty_text_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="cannot train a SentencePiece model: .*empty contain no text"):
        train_sentencepiece([str(tmp_path / "empty")], io.BytesIO(), 100, 10)


def test_a_vocabulary_larger_than_the_text_allows_is_refused_in_one_line(tmp_path):
    files = write_files(tmp_path, a="das Haus\n")
    with pytest.raises(InputError, match="SentencePiece cannot learn 5000 subwords from this text: [A-Z]") as error:
        train_sentencepiece(files, io.BytesIO(), 5000, 10)
    assert "\n" not in str(error.value) and ".cc" not in str(error.value)


@pytest.mark.parametrize(
    "text, size",
    [("das alte Haus\n" * 30, 5), ("Ünïcödé ☃ 漢字 текст\n" * 3, 1), ("".join(map(chr, range(0x4E00, 0x4F00))), 99)],
)
def test_a_vocabulary_that_is_too_small_is_refused_with_the_least_size_that_works(tmp_path, text, size):
    files = write_files(tmp_path, a=text)
    with pytest.raises(InputError, match=r"entry of the vocabulary; use --vocab-size \d+ or more$") as error:
        train_sentencepiece(files, io.BytesIO(), size, 100)
    least = int(str(error.value).split()[-3])
    with pytest.raises(InputError, match=f"use --vocab-size {least} or more$"):
        train_sentencepiece(files, io.BytesIO(), least - 1, 100)
    train_sentencepiece(files, model := io.BytesIO(), least, 100)
    assert len(vocabulary(model)) == least


def test_a_vocabulary_that_is_too_large_is_refused_with_the_largest_size_that_works(tmp_path):
    files = write_files(tmp_path, a="das alte Haus\n" * 30)
    with pytest.raises(InputError, match=r"use --vocab-size \d+ or less, or more text$") as error:
        train_sentencepiece(files, io.BytesIO(), 5000, 100)
    largest = int(str(error.value).split()[-6])
    train_sentencepiece(files, model := io.BytesIO(), largest, 100)
    assert len(vocabulary(model)) == largest


@pytest.mark.parametrize("text", ["\n\n \n", "\u200b\n", "x" * 5000 + "\n"])
def test_text_without_usable_lines_is_refused_with_the_reason(tmp_path, text):
    with pytest.raises(InputError, match="It has no visible characters, or only lines of more than 4,192 bytes"):
        train_sentencepiece(write_files(tmp_path, a=text), io.BytesIO(), 20, 100)


def test_a_worker_that_is_killed_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sentencepiece_files, "_start", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    (tmp_path / "a").write_text("a\n" * 100)
    model = str(GOLDEN / "sentencepiece.bpe.model")
    with pytest.raises(InputError, match="^a process that encodes was killed, .*: use fewer --workers$"):
        list(encode_to_directory([str(tmp_path / "a")], str(tmp_path / "out"), model, 2))
    assert not (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize(
    "content, kind", [(b"\x1f\x8b\x08", "is compressed with gzip"), (b"a\0b\0", "is a binary file")]
)
def test_files_that_are_not_text_are_refused(tmp_path, content, kind):
    (tmp_path / "a.en").write_bytes(content)
    text = str(tmp_path / "a.en")
    for read in (
        lambda: train_sentencepiece([text], io.BytesIO(), 30, 100),
        lambda: list(encode_to_directory([text], str(tmp_path / "out"), str(GOLDEN / "sentencepiece.bpe.model"), 1)),
        lambda: read_pairs(text, text, 100),
    ):
        with pytest.raises(InputError, match=kind):
            read()
