"""From raw text to translated raw text with fairseq-resmlp, SentencePiece and the hub interface."""

import re
import shutil

import pytest
import sacrebleu

from fairseq_resmlp import ResMLPModel
from support.commands import run, train_options
from support.corpora import LANGUAGES, MULTI30K, copy_multi30k, prepare
from support.paths import PLUGIN, ROOT


def translate(directory, *options):
    """Translate the test set with fairseq-generate. Returns {sentence number: detokenized translation}."""
    done = run(
        *("fairseq-generate", directory / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
        *("--path", directory / "checkpoints" / "checkpoint_best.pt", "--remove-bpe", "sentencepiece", *options),
    )
    return {int(i): text for i, text in re.findall(r"^H-(\d+)\t[^\t]*\t(.*)$", done.stdout, re.M)}


@pytest.fixture(scope="module")
def grammar(tmp_path_factory):
    """Directory with a small model of the grammar corpus and its hub directory, `model`."""
    directory = tmp_path_factory.mktemp("grammar")
    sizes = ("--train", "600", "--valid", "20", "--test", "30")
    run("python", ROOT / "examples" / "grammar" / "make_corpus.py", directory / "raw", *sizes)
    prepare(directory / "raw", directory, 300)
    options = train_options(directory / "data-bin", directory / "checkpoints")
    run("fairseq-train", *options, "--encoder-max-positions=64", "--decoder-max-positions=64", "--max-epoch", "1")
    (directory / "model").mkdir()
    shutil.copy(directory / "checkpoints" / "checkpoint_best.pt", directory / "model" / "model.pt")
    shutil.copy(directory / "spm.model", directory / "model" / "sentencepiece.bpe.model")
    for language in LANGUAGES:
        shutil.copy(directory / "data-bin" / f"dict.{language}.txt", directory / "model")
    return directory


def test_hub_translates_raw_text_to_raw_text(grammar):
    hub = ResMLPModel.from_pretrained(grammar / "model")
    sources = (grammar / "raw" / "test.en").read_text(encoding="utf-8").splitlines()
    expected = translate(grammar)
    assert hub.translate(sources, beam=4) == [expected[i] for i in range(30)]
    assert "▁" not in "".join(expected.values())


def test_interactive_translates_raw_text_with_bpe_sentencepiece(grammar):
    sources = (grammar / "raw" / "test.en").read_text(encoding="utf-8").splitlines()[:3]
    done = run(
        *("fairseq-interactive", grammar / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
        *("-s", "en", "-t", "de", "--path", grammar / "checkpoints" / "checkpoint_best.pt"),
        *("--bpe", "sentencepiece", "--sentencepiece-model", grammar / "spm.model"),
        stdin="\n".join(sources) + "\n",
    )
    found = re.findall(r"^D-\d+\t[^\t]*\t(.*)$", done.stdout, re.M)
    expected = translate(grammar)
    assert found == [expected[i] for i in range(3)]


def test_encoding_keeps_lines_and_unicode_line_separators(grammar, tmp_path):
    text = "one\u2028two\n\nthree\r\nfour"
    (tmp_path / "text.en").write_bytes(text.encode("utf-8"))
    model, out = grammar / "spm.model", tmp_path / "out"
    run("fairseq-resmlp", "spm-encode", tmp_path / "text.en", "--model", model, "--out-dir", out)
    lines = (tmp_path / "out" / "text.en").read_bytes().decode("utf-8").split("\n")
    assert len(lines) == 5
    assert lines[1] == lines[4] == ""
    assert all(lines[i] for i in (0, 2, 3))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["spm-train", "{raw}", "--model", "{out}", "--vocab-size", "100000"], "cannot learn 100000 subwords"),
        (["spm-train", "{missing}", "--model", "{out}"], "does not exist"),
        (["spm-encode", "{raw}", "--model", "{spm}", "--out-dir", "{directory}"], "would overwrite its own input"),
        (["spm-encode", "{latin1}", "--model", "{spm}", "--out-dir", "{out}"], "has invalid UTF-8 in line 1"),
        (["spm-encode", "{raw}", "--model", "{raw}", "--out-dir", "{out}"], "is not a SentencePiece model"),
    ],
)
def test_bad_input_to_spm_commands_is_reported_in_one_line_and_leaves_no_files(grammar, tmp_path, command, message):
    (tmp_path / "raw").write_text("a small text\n")
    (tmp_path / "latin1").write_bytes("für\n".encode("latin-1"))
    paths = {name: tmp_path / name for name in ("raw", "latin1", "missing", "out")}
    command = [part.format(**paths, spm=grammar / "spm.model", directory=tmp_path) for part in command]
    done = run("fairseq-resmlp", *command, check=False)
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("raw", "latin1")]


@pytest.mark.slow
def test_every_line_of_multi30k_is_translated(tmp_path):
    if not MULTI30K.exists():
        pytest.skip(f"Multi30k not found in {MULTI30K}")
    copy_multi30k(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path, 4000)
    options = train_options(tmp_path / "data-bin", tmp_path / "checkpoints")
    positions = ("--encoder-max-positions=128", "--decoder-max-positions=128")
    done = run("fairseq-train", *options, *positions, "--max-update", "30", "--max-tokens", "2000")
    losses = re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", done.stdout + done.stderr)
    assert float(losses[-1]) < 11.5  # below log2 of the vocabulary size, 12: the model has started to learn
    assert sorted(translate(tmp_path, "--max-len-b", "20")) == list(range(1000))


@pytest.mark.slow
def test_the_demo_translates_its_test_set_and_needs_token_mixing_for_it(tmp_path):
    """make demo reaches at least 90 BLEU with token mixing, and at least 15 less with A = 0 at the same budget."""
    done = run("bash", ROOT / "examples" / "grammar" / "demo.sh", tmp_path / "demo", cwd=tmp_path)
    linear, none = (float(score) for score in re.findall(r"^BLEU\S* = ([\d.]+)", done.stdout, re.M))
    assert linear >= 90
    assert none <= linear - 15
    again = run("bash", ROOT / "examples" / "grammar" / "demo.sh", tmp_path / "demo", cwd=tmp_path)
    assert "make_corpus" not in again.stderr
    assert re.findall(r"^BLEU.*$", again.stdout, re.M) == re.findall(r"^BLEU.*$", done.stdout, re.M)
    assert first_sentence_of_long_sources(tmp_path / "demo") >= 60


def first_sentence_of_long_sources(demo):
    """Return the BLEU of the beginning of translations of overlong sources, compared with the first sentence alone.

    Each of the 20 longest test sentences is repeated in one line until the line is more than twice as long as any
    source in training. Positions that training never visited must not degrade the first sentence.
    """
    encoded = demo / "pieces" / "train.en"
    longest = max(len(line.split()) for line in encoded.read_text(encoding="utf-8").splitlines())
    sources = (demo / "raw" / "test.en").read_text(encoding="utf-8").splitlines()
    hub = ResMLPModel.from_pretrained(demo / "model")
    sources = sorted(sources, key=lambda source: -len(hub.encode(source)))[:20]
    repeated = []
    for source in sources:
        line = source
        while len(hub.encode(line)) <= 2 * longest:
            line += " " + source
        repeated.append(line)
    alone = hub.translate(sources, beam=4)
    pairs = zip(hub.translate(repeated, beam=4), alone, strict=True)
    beginnings = [" ".join(long.split()[: len(short.split())]) for long, short in pairs]
    score = sacrebleu.corpus_bleu(beginnings, [alone]).score
    print(f"beginnings of sources of over {2 * longest} subwords: {score:.1f} BLEU against their translation alone")
    return score
