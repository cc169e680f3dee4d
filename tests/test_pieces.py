"""Pieces are SentencePiece's own, lines stay lines, and cleaning drops what it says it drops."""

import io
import json
import os
import select
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import sentencepiece
from click.testing import CliRunner
from conftest import ROOT

from fairseq_resmlp.cli import main
from fairseq_resmlp.errors import InputError
from fairseq_resmlp.pieces import BLOCK, Cleaning, Encoder, _in_order, encode_files, train_pieces

STORED = ROOT / "tests" / "stored" / "sentencepiece.bpe.model"
EUROPARL = ROOT.parent / "shared" / "data" / "europarl20k.en-de"


@pytest.fixture(scope="module")
def slow():
    """SentencePiece's own encoding of whole lines."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(STORED))
    return lambda lines: [" ".join(pieces) for pieces in processor.encode(list(lines), out_type=str)]


def test_pieces_are_those_of_sentencepiece_for_every_character(slow):
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    lines = ["Das " + "".join(characters[i : i + 16]) + " Haus" for i in range(0, len(characters), 16)]
    lines += [f"sieht{c}den" for c in characters[:0x3000]]
    assert Encoder(str(STORED))(lines) == slow(lines)


@pytest.mark.skipif(not EUROPARL.is_dir(), reason="needs the Europarl text in ../shared/data")
def test_pieces_are_those_of_sentencepiece_on_real_text(slow):
    lines = (EUROPARL / "train.de").read_text(encoding="utf-8").split("\n")
    assert Encoder(str(STORED))(lines) == slow(lines)


def test_a_model_whose_pieces_reach_over_spaces_is_followed_too(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["in the house of the king", "of the house in the sea"] * 50),
        **{"model_writer": model, "vocab_size": 40, "model_type": "bpe", "split_by_whitespace": False},
        minloglevel=2,
    )
    (tmp_path / "m").write_bytes(model.getvalue())
    lines = ["of the house", "in the sea of the king"]
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m")).encode(lines, out_type=str)
    assert any("▁" in piece[1:] for line in own for piece in line)
    assert Encoder(str(tmp_path / "m"))(lines) == [" ".join(line) for line in own]


def test_two_texts_of_one_name_are_not_written_over_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for side in ("en", "de"):
        Path(side).mkdir()
        Path(side, "train.txt").write_text(f"{side}\n")
    for more in ((), ("--clean",)):
        done = CliRunner().invoke(
            main, ["spm-encode", "en/train.txt", "de/train.txt", "--model", str(STORED), "--out-dir", "p", *more]
        )
        assert done.exit_code == 1
        assert done.output.startswith("Error: en/train.txt and de/train.txt would both be written to p/train.txt: ")
    addresses = [((tmp_path / side / "train.txt").as_uri(), "-") for side in ("en", "de")]
    done = CliRunner().invoke(main, ["download", *addresses[0], *addresses[1], "--to", "d"])
    assert done.exit_code == 1 and "would both be written to d/train.txt: " in done.output
    assert not Path("p").exists() and not Path("d").exists()


def test_nothing_is_learned_from_nothing(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="no pieces can be learned from .*empty: there is no text"):
        train_pieces([str(tmp_path / "empty")], io.BytesIO(), 100, 10)


def write(folder, **texts):
    for name, text in texts.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return [str(folder / name) for name in texts]


def read(*paths):
    return [open(path, encoding="utf-8", newline="\n").read().split("\n")[:-1] for path in paths]


def test_more_lines_than_a_block_keep_their_order_over_several_processes(tmp_path, slow):
    count = 3 * BLOCK + 7
    files = write(tmp_path, a="".join(f"Haus {i}\n" for i in range(count)))
    assert encode_files(files, [str(tmp_path / "out")], str(STORED), workers=2) == (count, {})
    assert read(tmp_path / "out") == [slow(f"Haus {i}" for i in range(count))]


def test_no_more_blocks_are_in_memory_than_asked_for():
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


def test_only_a_line_feed_ends_a_line(tmp_path, slow):
    lines = ["Das\u2028Haus", "Das\x85Haus", "Das\rHaus\x0b\x0c\x1d", "", "zuletzt"]
    files = write(tmp_path, a="\r\n".join(lines))
    encode_files(files, [str(tmp_path / "out")], str(STORED), workers=1)
    assert read(tmp_path / "out") == [slow(lines)]
    with open(tmp_path / "out", encoding="utf-8") as text:  # as fairseq reads it, \r ends a line too
        assert len(list(text)) == 5


def test_without_cleaning_a_line_that_is_not_utf8_stops(tmp_path):
    files = write(tmp_path, a=b"gut\n" * BLOCK + b"gut\nsch\xffn\n")
    with pytest.raises(InputError, match=rf"a is not UTF-8 in line {BLOCK + 2}: "):
        encode_files(files, [str(tmp_path / "out")], str(STORED), workers=2)


@pytest.mark.parametrize("extra", [1, BLOCK, 2 * BLOCK + 1])
def test_sides_of_different_length_stop_and_say_where(tmp_path, extra):
    files = write(tmp_path, a="Haus\n" * (10 + extra), b="Haus\n" * 10)
    with pytest.raises(InputError, match=r"do not line up: .*b ends at line 10$"):
        encode_files(files, [str(tmp_path / "x"), str(tmp_path / "y")], str(STORED), workers=1)


def test_cleaning_drops_from_both_sides_and_says_why(tmp_path, slow):
    assert slow(["das das"]) == ["▁das ▁das"]
    pairs = [
        (b"das", b"das", None),
        (b"", b"das", "empty"),
        (b"das", b" \xe2\x80\xa8\t", "empty"),
        (b"das", b"da\xff", "not UTF-8"),
        (b"das " * 250, b"das " * 250, None),
        (b"das " * 251, b"das " * 250, "longer than 250 pieces"),
        (b"das " * 2, b"das " * 3, None),
        (b"das " * 3, b"das " * 2, None),
        (b"das " * 4, b"das " * 2, "ratio above 1.5"),
        (b"das " * 11, b"das " * 17, "ratio above 1.5"),
    ]
    write(tmp_path, a=b"\n".join(a for a, _, _ in pairs) + b"\n", b=b"\n".join(b for _, b, _ in pairs) + b"\n")
    arguments = ["spm-encode", str(tmp_path / "a"), str(tmp_path / "b"), "--model", str(STORED), "--clean"]
    arguments += ["--out-dir", str(tmp_path / "p"), "--report", str(tmp_path / "r.json")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    reasons = [reason for _, _, reason in pairs if reason]
    assert report.pop("cpu_seconds") > 0
    assert report == {"kept": 4, "dropped": {reason: reasons.count(reason) for reason in reasons}}
    assert "dropped 2 pairs: ratio above 1.5" in done.output
    kept = [[side.decode() for side in pair[:2]] for pair in pairs if pair[2] is None]
    assert read(tmp_path / "p" / "a", tmp_path / "p" / "b") == [slow(side) for side in zip(*kept)]


def test_limits_can_be_set():
    assert Cleaning(max_length=2).reason("a b c", "a b") == "longer than 2 pieces"
    assert Cleaning(max_ratio=3).reason("a b c", "a") is None


def test_cleaning_takes_two_sides(tmp_path):
    files = write(tmp_path, a="x\n", b="x\n", c="x\n")
    done = CliRunner().invoke(main, ["spm-encode", *files, "--model", str(STORED), "--out-dir", "p", "--clean"])
    assert done.exit_code == 1 and "--clean takes two files" in done.output


def test_the_workers_end_with_a_parent_that_is_killed(tmp_path):
    write(tmp_path, a="".join(f"das Haus {i}\n" for i in range(400_000)))
    program = Path(sys.executable).with_name("fairseq-resmlp")
    command = (program, "spm-encode", "a", "--model", STORED, "--out-dir", "p", "--workers", "2")
    read_end, write_end = os.pipe()  # its end is seen when the last process that inherited it is gone
    process = subprocess.Popen(command, cwd=tmp_path, pass_fds=[write_end], stderr=subprocess.DEVNULL)
    os.close(write_end)
    part = tmp_path / "p" / "a.part"
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert select.select([read_end], [], [], 60)[0], "a worker lives on"
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_pieces_learnt_from_all_lines_are_those_of_the_files_themselves(tmp_path):
    files = write(tmp_path, a="Das alte Haus\n" * 30 + "der König\n" * 20, b="the old house\n" * 40)
    ours, theirs = io.BytesIO(), io.BytesIO()
    assert train_pieces(files, ours, vocab_size=60, max_lines=90) == 90
    options = {"vocab_size": 60, "model_type": "bpe", "character_coverage": 1.0, "bos_id": -1, "eos_id": -1}
    sentencepiece.SentencePieceTrainer.train(input=files, model_writer=theirs, minloglevel=2, **options)
    processors = [sentencepiece.SentencePieceProcessor(model_proto=m.getvalue()) for m in (ours, theirs)]
    vocabularies = [[p.id_to_piece(i) for i in range(p.get_piece_size())] for p in processors]
    assert vocabularies[0] == vocabularies[1]


def test_of_more_lines_evenly_spaced_ones_are_taken(tmp_path):
    files = write(tmp_path, a="".join(f"{'abc'[i % 3] * 5}\n" for i in range(90)))
    out = io.BytesIO()
    assert train_pieces(files, out, vocab_size=5, max_lines=30) == 30  # every third line holds a's alone
    processor = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    assert {c for i in range(processor.get_piece_size()) for c in processor.id_to_piece(i)} & set("abc") == {"a"}
