"""Options and files that fairseq-preprocess cannot use are reported in one line."""

import pytest
from fairseq import options
from fairseq_cli import preprocess

from fairseq_resmlp.common.errors import InputError


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({}, ["--workers", "0"], "--workers 0 is less than 1"),
        ({"train.src": b"\xff\xfe\x00abc\n"}, [], r"train\.src is not UTF-8: convert it"),
        ({"dict.src.txt": b"w1 1\n"}, [], r"dict\.src\.txt exists: choose another --destdir"),
        ({"words.txt": b"a b c\n"}, ["--srcdict", "words.txt"], r"words\.txt is not a dictionary of fairseq"),
        ({}, ["--dataset-impl", "huffman"], "--dataset-impl huffman is not supported by fairseq-preprocess"),
        ({}, ["--bpe", "sentencepiece"], "--bpe has no effect in fairseq-preprocess: tokenize the text first"),
        ({}, ["--joined-dictionary", "--nwordstgt", "9"], "--nwordstgt 9 has no effect with --joined-dictionary"),
        ({"a": b"0:0\n"}, ["--alignfile", "a"], "a, line 1: 0:0 is not a pair of words"),
        ({"a": b"0-1\n"}, ["--alignfile", "a"], "0-1 is not a pair of words: the sentences have 1 and 1 words"),
        ({"a": b"\n0-0\n"}, ["--alignfile", "a"], r"train\.tgt are not parallel: one ends at line 1"),
        ({"train.align": b"x\n"}, ["--align-suffix", "align"], r"train\.align, line 1: x is not a pair"),
        ({}, ["--align-suffix", "align"], "--align-suffix align: no set has a file with this suffix"),
        (
            {"alignment.src-tgt.txt": b"0-0\n"},
            ["--alignfile", "alignment.src-tgt.txt"],
            "would overwrite the input",
        ),
    ],
)
def test_preprocessing_reports_unusable_files_and_options(tmp_path, monkeypatch, files, arguments, message):
    for name, content in {"train.src": b"w1\n", "train.tgt": b"w1\n", **files}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    command = ["-s", "src", "-t", "tgt", "--trainpref", "train", "--destdir", ".", *arguments]
    with pytest.raises(InputError, match=message):
        preprocess.main(options.get_preprocessing_parser().parse_args(command))


def test_preprocessing_needs_both_languages(tmp_path):
    args = options.get_preprocessing_parser().parse_args(["-s", "src", "--destdir", str(tmp_path)])
    with pytest.raises(InputError, match="languages not specified"):
        preprocess.main(args)
