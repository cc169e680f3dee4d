"""From raw text to raw text: the command fairseq-resmlp, SentencePiece, the hub, real and made corpora."""

import re
import shutil
from pathlib import Path

import pytest
import sacrebleu
from conftest import PLUGIN, ROOT, run, train_options

from fairseq_resmlp import ResMLPModel

MULTI30K = ROOT.parent / "shared" / "data" / "multi30k"
LANGUAGES = ("en", "de")


def prepare(raw, folder, vocab_size):
    """Pieces and data-bin of raw/{train,valid,test}.{en,de}, by the commands of the README."""
    files = [raw / f"{split}.{language}" for split in ("train", "valid", "test") for language in LANGUAGES]
    run("fairseq-resmlp", "spm-train", *files[:2], "--model", folder / "spm.model", "--vocab-size", vocab_size)
    run("fairseq-resmlp", "spm-encode", *files, "--model", folder / "spm.model", "--out-dir", folder / "pieces")
    prefixes = [part for s in ("train", "valid", "test") for part in (f"--{s}pref", folder / "pieces" / s)]
    run(
        *("fairseq-preprocess", "-s", "en", "-t", "de", *prefixes, "--joined-dictionary"),
        *("--destdir", folder / "data-bin"),
    )


def translate(folder, *options):
    """{sentence: translation} of the test set by fairseq-generate, pieces joined to words."""
    done = run(
        *("fairseq-generate", folder / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
        *("--path", folder / "checkpoints" / "checkpoint_best.pt", "--remove-bpe", "sentencepiece", *options),
    )
    return {int(i): text for i, text in re.findall(r"^H-(\d+)\t[^\t]*\t(.*)$", done.stdout, re.M)}


@pytest.fixture(scope="module")
def grammar(tmp_path_factory):
    """A small model of the grammar corpus and its hub folder."""
    folder = tmp_path_factory.mktemp("grammar")
    made = ("--train", "600", "--valid", "20", "--test", "30")
    run("python", ROOT / "examples" / "grammar" / "make_corpus.py", folder / "raw", *made)
    prepare(folder / "raw", folder, 300)
    options = train_options(folder / "data-bin", folder / "checkpoints")
    run("fairseq-train", *options, "--encoder-max-positions=64", "--decoder-max-positions=64", "--max-epoch", "1")
    (folder / "model").mkdir()
    shutil.copy(folder / "checkpoints" / "checkpoint_best.pt", folder / "model" / "model.pt")
    shutil.copy(folder / "spm.model", folder / "model" / "sentencepiece.bpe.model")
    for language in LANGUAGES:
        shutil.copy(folder / "data-bin" / f"dict.{language}.txt", folder / "model")
    return folder


def test_hub_takes_and_gives_raw_text(grammar):
    hub = ResMLPModel.from_pretrained(grammar / "model")
    sources = (grammar / "raw" / "test.en").read_text(encoding="utf-8").splitlines()
    expected = translate(grammar)
    assert hub.translate(sources, beam=4) == [expected[i] for i in range(30)]
    assert "▁" not in "".join(expected.values())


def test_interactive_takes_raw_text_with_bpe_sentencepiece(grammar):
    sources = (grammar / "raw" / "test.en").read_text(encoding="utf-8").splitlines()[:3]
    done = run(
        *("fairseq-interactive", grammar / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
        *("-s", "en", "-t", "de", "--path", grammar / "checkpoints" / "checkpoint_best.pt"),
        *("--bpe", "sentencepiece", "--sentencepiece-model", grammar / "spm.model"),
        stdin="\n".join(sources) + "\n",
    )
    got = re.findall(r"^D-\d+\t[^\t]*\t(.*)$", done.stdout, re.M)
    expected = translate(grammar)
    assert got == [expected[i] for i in range(3)]


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
        (["spm-train", "{raw}", "--model", "{out}", "--vocab-size", "100000"], "cannot learn 100000 pieces"),
        (["spm-train", "{missing}", "--model", "{out}"], "does not exist"),
        (["spm-encode", "{raw}", "--model", "{spm}", "--out-dir", "{folder}"], "would overwrite its own input"),
        (["spm-encode", "{latin1}", "--model", "{spm}", "--out-dir", "{out}"], "is not UTF-8 in line 1"),
        (["spm-encode", "{raw}", "--model", "{raw}", "--out-dir", "{out}"], "is not a SentencePiece model"),
    ],
)
def test_bad_input_to_our_commands_gets_one_line_and_leaves_nothing_behind(grammar, tmp_path, command, message):
    (tmp_path / "raw").write_text("a small text\n")
    (tmp_path / "latin1").write_bytes("für\n".encode("latin-1"))
    places = {name: tmp_path / name for name in ("raw", "latin1", "missing", "out")}
    command = [part.format(**places, spm=grammar / "spm.model", folder=tmp_path) for part in command]
    done = run("fairseq-resmlp", *command, check=False)
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not [p for p in Path(tmp_path).rglob("*") if p.is_file() and p.name not in ("raw", "latin1")]


def test_every_line_of_multi30k_is_translated(tmp_path):
    if not MULTI30K.exists():
        pytest.skip(f"no Multi30k in {MULTI30K}")
    (tmp_path / "raw").mkdir()
    for split, source in (("train", "train"), ("valid", "valid"), ("test", "test2016")):
        for language in LANGUAGES:
            shutil.copy(MULTI30K / f"{source}.{language}", tmp_path / "raw" / f"{split}.{language}")
    prepare(tmp_path / "raw", tmp_path, 4000)
    options = train_options(tmp_path / "data-bin", tmp_path / "checkpoints")
    positions = ("--encoder-max-positions=128", "--decoder-max-positions=128")
    done = run("fairseq-train", *options, *positions, "--max-update", "30", "--max-tokens", "2000")
    losses = re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", done.stdout + done.stderr)
    assert float(losses[-1]) < 11.5  # log2 of the vocabulary is 12: it has begun to learn
    assert sorted(translate(tmp_path, "--max-len-b", "20")) == list(range(1000))


@pytest.mark.slow
def test_the_demo_translates_its_test_set_and_needs_token_mixing_for_it(tmp_path):
    """make demo: at least 90 BLEU with token mixing, at least 15 fewer with A = 0 at the same budget."""
    done = run("bash", ROOT / "examples" / "grammar" / "demo.sh", tmp_path / "demo", cwd=tmp_path)
    linear, none = (float(score) for score in re.findall(r"^BLEU\S* = ([\d.]+)", done.stdout, re.M))
    assert linear >= 90
    assert none <= linear - 15
    again = run("bash", ROOT / "examples" / "grammar" / "demo.sh", tmp_path / "demo", cwd=tmp_path)
    assert "make_corpus" not in again.stderr
    assert re.findall(r"^BLEU.*$", again.stdout, re.M) == re.findall(r"^BLEU.*$", done.stdout, re.M)
    assert first_sentence_of_long_sources(tmp_path / "demo") >= 60


def first_sentence_of_long_sources(demo):
    """BLEU of how the beginning of over-long sources is translated, against its translation alone.

    The 20 longest test sentences are repeated in one line until it is more than twice as long as any source in
    training: positions that training never visited must not turn the first sentence into noise.
    """
    longest = max(len(line.split()) for line in (demo / "pieces" / "train.en").read_text(encoding="utf-8").splitlines())
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
    beginnings = [
        " ".join(long.split()[: len(short.split())]) for long, short in zip(hub.translate(repeated, beam=4), alone)
    ]
    score = sacrebleu.corpus_bleu(beginnings, [alone]).score
    print(f"beginnings of sources over {2 * longest} pieces: {score:.1f} BLEU against their translation alone")
    return score
