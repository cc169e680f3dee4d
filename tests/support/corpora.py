"""Real text for tests, and its preparation with the commands of the README."""

from support.commands import run
from support.paths import ROOT

MULTI30K = ROOT.parent / "shared" / "data" / "multi30k"
NEWSTEST = MULTI30K.parent / "newstest2013"
LANGUAGES = ("en", "de")


def copy_multi30k(raw):
    """Copy Multi30k to raw/{train,valid,test}.{en,de}, with test2016 as the test set."""
    raw.mkdir()
    for split, source in (("train", "train"), ("valid", "valid"), ("test", "test2016")):
        for language in LANGUAGES:
            (raw / f"{split}.{language}").write_bytes((MULTI30K / f"{source}.{language}").read_bytes())


def prepare(raw, directory, vocab_size):
    """Create subwords and data-bin in `directory` from raw/{train,valid,test}.{en,de}."""
    files = [raw / f"{split}.{language}" for split in ("train", "valid", "test") for language in LANGUAGES]
    model, encoded = directory / "spm.model", directory / "encoded"
    run("fairseq-resmlp", "spm-train", *files[:2], "--model", model, "--vocab-size", vocab_size)
    run("fairseq-resmlp", "spm-encode", *files, "--model", model, "--out-dir", encoded)
    prefixes = [part for s in ("train", "valid", "test") for part in (f"--{s}pref", encoded / s)]
    run(
        *("fairseq-preprocess", "-s", "en", "-t", "de", *prefixes, "--joined-dictionary"),
        *("--destdir", directory / "data-bin"),
    )
