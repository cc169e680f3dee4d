"""Scores: each equals what its own tools say, and none can be taken for another."""

import argparse
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import make_model, run

from fairseq_resmlp.cli import main
from fairseq_resmlp.errors import InputError
from fairseq_resmlp.score import PAPER, compare, compound_split, count_parameters, moses_tokenize, read_text, score

REFERENCES = [
    "Der Science-Fiction-Film läuft heute im Kino am Bahnhof.",
    "Frau Müller-Lüdenscheidt las z.B. die Abend-Zeitung von 1998/99.",
    'Er sagte: "Die E-Mail kam um 5,30 Uhr an", und ging nach Hause.',
    "Ein Hund -- groß & braun -- bellt den Brief-Träger an.",
    "Die U-Bahn-Station ist wegen der Bau-Arbeiten seit Montag geschlossen.",
    "Zwei Kinder spielen auf dem Rasen vor dem alten Haus.",
]
HYPOTHESES = [
    "Der Science-Fiction-Streifen läuft heute im Kino am Bahnhof.",
    "Frau Müller-Lüdenscheidt las z.B. die Morgen-Zeitung von 1998/99.",
    'Er sagte: "Die E-Mail kam um 5,30 Uhr", und ging nach Hause.',
    "Ein Hund -- groß & braun -- bellt den Post-Träger an.",
    "Die U-Bahn-Haltestelle ist wegen Bau-Arbeiten seit Montag geschlossen.",
    "Zwei Kinder spielen auf dem Rasen vor einem alten Haus.",
]
WORSE = [" ".join(reversed(line.split())) for line in HYPOTHESES]


def write(path, lines):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def sacrebleu_says(folder, hypotheses, references, *options):
    """What the command `sacrebleu` prints for two lists of lines: the value of each score and its signature."""
    files = write(folder / "reference", references), "-i", write(folder / "hypothesis", hypotheses)
    said = json.loads(run("sacrebleu", *files, "--format", "json", "--width", "9", *options).stdout)
    return [(s["score"], s["signature"]) for s in (said if isinstance(said, list) else [said])]


def as_printed(*scores):
    return [(round(s.value, 9), s.signature) for s in scores]


def score_command(*arguments):
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    """The options that score the hypotheses above."""
    hypotheses = write(tmp_path / "system.de", HYPOTHESES)
    return [hypotheses, "--reference", write(tmp_path / "reference.de", REFERENCES), "--target-lang", "de"]


def test_sacrebleu_and_chrf_are_those_of_sacrebleus_command(tmp_path):
    bleu, chrf, *_ = score(HYPOTHESES, REFERENCES, "de")
    assert (bleu.name, chrf.name) == ("sacreBLEU", "chrF2")
    assert as_printed(bleu, chrf) == sacrebleu_says(tmp_path, HYPOTHESES, REFERENCES, "--metrics", "bleu", "chrf")


def test_tokenized_scores_are_those_of_sacrebleus_command_on_the_tokenized_files(tmp_path):
    _, _, tokenized, split = score(HYPOTHESES, REFERENCES, "de")
    assert (tokenized.name, split.name) == ("tokenized BLEU", "compound-split tokenized BLEU")
    tokens = [moses_tokenize(side, "de") for side in (HYPOTHESES, REFERENCES)]
    assert as_printed(tokenized) == sacrebleu_says(tmp_path, *tokens, "--tokenize", "none")
    parts = [compound_split(side) for side in tokens]
    assert as_printed(split) == sacrebleu_says(tmp_path, *parts, "--tokenize", "none")


def test_no_two_scores_are_the_same():
    scores = score(HYPOTHESES, REFERENCES, "de")
    assert len({round(s.value, 1) for s in scores}) == len({s.note for s in scores}) == 4
    # A compound that is right in part counts in part once it is split.
    assert scores[3].value > scores[2].value


def test_hyphenated_words_are_one_token_and_the_rest_follows_the_languages_rules():
    line = 'Frau Müller-Lüdenscheidt las z.B. "E-Mails" & aß, um 5,30 Uhr.'
    tokens = "Frau Müller-Lüdenscheidt las z.B. &quot; E-Mails &quot; &amp; aß , um 5,30 Uhr ."
    assert moses_tokenize([line], "de") == [tokens]
    assert moses_tokenize(["L'eau, peut-être."], "fr") == ["L&apos; eau , peut-être ."]


def test_compounds_are_split_as_by_perl():
    stored = json.loads((Path(__file__).parent / "stored" / "compound_split.json").read_text(encoding="utf-8"))
    lines, expected = map(list, zip(*stored))
    assert compound_split(lines) == expected
    if shutil.which("perl"):
        rule = r"s{(\S)-(\S)}{$1 ##AT##-##AT## $2}g"
        done = run("perl", "-ple", rule, stdin="\n".join([*lines, ""]), env={"PERL_UNICODE": "0"})
        assert done.stdout.split("\n") == [*expected, ""]


@pytest.mark.parametrize("split", ["Science ##AT##-##AT## Fiction", "Science @-@ Fiction"])
def test_compounds_are_not_split_twice(split, tmp_path):
    message = f"line 2 holds {split.split()[1][:6].rstrip('-')}.* split already"
    with pytest.raises(InputError, match=message):
        compound_split(["Science-Fiction", split])
    # The tokenizer would take the mark apart, and nobody could see it any more.
    with pytest.raises(InputError, match=message):
        score(["Science-Fiction", split], ["Science-Fiction"] * 2, "de")
    with pytest.raises(InputError, match=f"text.de, {message}"):
        read_text(str(write(tmp_path / "text.de", ["Science-Fiction", split])))


def test_only_german_has_a_compound_split_score():
    assert [s.name for s in score(["Peut-être demain."], ["Peut-être ici."], "fr")] == [
        *("sacreBLEU", "chrF2", "tokenized BLEU")
    ]


@pytest.mark.parametrize("name", ["tr", "zh", "DE", "german"])
def test_in_a_language_that_moses_does_not_know_there_is_no_tokenized_bleu(files, name):
    with pytest.raises(InputError, match=f"finds no words in language {name}, only in .*de, "):
        moses_tokenize(HYPOTHESES, name)
    assert [s.name for s in score(HYPOTHESES, REFERENCES, name)] == ["sacreBLEU", "chrF2"]
    done = score_command(*files, "--target-lang", name)
    assert done.exit_code == 0, done.output
    assert f"No tokenized BLEU: the Moses tokenizer finds no words in language {name}, only in " in done.output


def test_chinese_is_scored_by_characters():
    """By words, which it does not part, the one below has no n-gram in common."""
    own, right = ["我們今天去北京看我的老師和他的朋友。"], ["我們今天去北京看他的老師和我的朋友。"]
    found = score(own, right, "zh")[0]
    assert "tok:zh" in found.signature and 30 < found.value < 100
    assert compare(own, own, right, "zh")[0].value == found.value


def test_a_package_that_sacrebleu_needs_for_a_language_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", raising=False)
    monkeypatch.setitem(sys.modules, "MeCab", None)
    with pytest.raises(InputError, match=r"sacreBLEU of ja needs another package: pip install 'sacrebleu\[ja\]'"):
        score(["猫"], ["猫"], "ja")


def test_only_a_line_feed_ends_a_line(tmp_path):
    (tmp_path / "text").write_bytes("eins\u2028zwei\x0bdrei\x85\r\n\r\nvier\n\nfünf".encode())
    assert read_text(str(tmp_path / "text")).lines == ["eins\u2028zwei\x0bdrei\x85", "", "vier", "", "fünf"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"eins\nzwei\n", r"system.de has 2 lines and .*reference.de has 6"),
        (b"eins\n\xff\n", r"system.de is not UTF-8 in line 2: invalid start byte"),
        (b"", r"system.de is empty"),
    ],
)
def test_a_text_that_cannot_be_scored_is_refused_in_one_line(files, content, message):
    files[0].write_bytes(content)
    done = score_command(*files)
    assert done.exit_code == 1
    assert len(done.output.splitlines()) == 1
    assert re.match(f"Error: .*{message}", done.output)


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(InputError, match="6, 5"):
        score(HYPOTHESES, REFERENCES[:5], "de")
    with pytest.raises(InputError, match="6, 5, 6"):
        compare(HYPOTHESES, WORSE[:5], REFERENCES, "de")


def test_the_table_names_every_score_and_ends_with_the_papers(files):
    done = score_command(*files)
    assert done.exit_code == 0, done.output
    for s in score(HYPOTHESES, REFERENCES, "de"):
        line, note = rf"{s.name} +{s.value:.1f}  {re.escape(s.signature)}", re.escape(s.note)
        assert re.search(rf"^{line}\n    {note}$", done.output, re.M)
    assert " ".join(done.output.split()).endswith(PAPER)
    assert "bootstrap" not in done.output


def test_the_json_tells_all_that_made_the_scores(files, tmp_path):
    model = make_model(share_all_embeddings=True)
    options = {"model": argparse.Namespace(dropout=0.1), "optimization": {"lr": [0.2], "max_update": float("inf")}}
    checkpoint = tmp_path / "model.pt"
    history, extra = [{"num_updates": 7}], {"previous_training_time": 12.5}
    state = {"model": model.state_dict(), "cfg": options, "optimizer_history": history, "extra_state": extra}
    torch.save(state, checkpoint)
    (tmp_path / "times.json").write_text('{"seconds": 1.5}')
    done = score_command(
        *(*files, "--checkpoint", checkpoint, "--json", tmp_path / "new" / "scores.json"),
        *("--record", "command=generate --beam=4 ä", "--record-json", f"times={tmp_path / 'times.json'}"),
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "new" / "scores.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    stored = json.loads(text)
    assert stored["scores"] == [vars(s) for s in score(HYPOTHESES, REFERENCES, "de")]
    assert (stored["lines"], stored["target_lang"], stored["paper"]) == (6, "de", PAPER)
    for name, file in (("hypotheses", files[0]), ("reference", files[2])):
        assert stored[name] == {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert stored["checkpoint"] == {
        "file": str(checkpoint),
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "updates": 7,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_seconds": 12.5,
        "options": {"model": {"dropout": 0.1}, "optimization": {"lr": [0.2], "max_update": "inf"}},
    }
    assert stored["records"] == {"command": "generate --beam=4 ä", "times": {"seconds": 1.5}}
    assert "ä" in text
    assert (stored["against"], stored["comparisons"]) == (None, [])
    programs = ["python", "torch", "fairseq", "fairseq-resmlp", "sacrebleu", "sacremoses", "sentencepiece"]
    assert list(stored["versions"]) == programs
    assert all(re.match(r"\d+\.\d", version) for version in stored["versions"].values())
    assert stored["machine"]["cpus"] >= 1
    assert stored["date"].endswith("+00:00")


def test_copies_of_tied_embeddings_count_once():
    for tied in ({"share_all_embeddings": True}, {"share_decoder_input_output_embed": True}, {}):
        model = make_model(**tied)
        copies = {name: value.clone() for name, value in model.state_dict().items()}
        assert count_parameters(copies) == sum(p.numel() for p in model.parameters())
    not_trained = ("encoder.version", "encoder.embed_positions._float_tensor")
    assert count_parameters({name: torch.ones(1) for name in not_trained}) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--record", "command=x"], "name one"),
        (["--json", "{}/out.json", "--record", "command"], "--record command: write NAME="),
        (["--json", "{}/out.json", "--record", "a=1", "--record-json", "a={}/system.de"], "the name a already"),
        (["--json", "{}/out.json", "--record-json", "a={}/system.de"], "system.de is not JSON"),
        (["--json", "{}/out.json", "--checkpoint", "{}/system.de"], "is not a checkpoint"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_nothing_is_written(files, tmp_path, options, message):
    done = score_command(*files, *(option.format(tmp_path) for option in options))
    assert done.exit_code != 0
    assert message in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reference.de", "system.de"]


def test_the_bootstrap_finds_a_worse_system_and_no_difference_of_a_system_to_itself(files, tmp_path):
    for c in compare(HYPOTHESES, HYPOTHESES, REFERENCES, "de"):
        assert (c.difference, c.p_value) == (0, 1)
    worse = write(tmp_path / "worse.de", WORSE)
    done = score_command(*files, "--against", worse, "--json", tmp_path / "scores.json")
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert stored["against"] == {"file": str(worse), "sha256": hashlib.sha256(worse.read_bytes()).hexdigest()}
    own, other = score(HYPOTHESES, REFERENCES, "de"), score(WORSE, REFERENCES, "de")
    for c, mine, its in zip(stored["comparisons"], own, other):
        assert (c["name"], c["value"], c["against"]) == (mine.name, mine.value, its.value)
        assert c["difference"] == mine.value - its.value > 0
        assert c["p_value"] < 0.05
        assert "bs:1000|seed:12345" in c["signature"]
        figures = [f"{c['value']:.1f}", f"{c['against']:.1f}", f"{c['difference']:+.1f}", f"{c['p_value']:.3f}"]
        assert [c["name"], *figures, c["signature"]] in [line.split() for line in done.output.splitlines()]
    assert f"Paired bootstrap against {worse}, 1000 samples" in done.output


def test_without_sacremoses_one_line_names_what_to_install(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    done = score_command(*files)
    assert done.exit_code == 1
    assert done.output == "Error: tokenized BLEU needs sacremoses: pip install 'fairseq-resmlp[reproduce]'\n"
