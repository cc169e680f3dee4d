"""The command `fairseq-resmlp score`."""

import argparse
import hashlib
import json
import re
import sys

import pytest
import torch
from click.testing import CliRunner

from fairseq_resmlp.cli.main import main
from fairseq_resmlp.evaluation.metrics import paper_remark, score
from support.files import write_lines
from support.models import make_model
from support.scored_texts import HYPOTHESES, REFERENCES, WORSE


def run_score(*arguments):
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    """The arguments that score `HYPOTHESES`."""
    hypotheses = write_lines(tmp_path / "system.de", HYPOTHESES)
    return [hypotheses, "--reference", write_lines(tmp_path / "reference.de", REFERENCES), "--target-lang", "de"]


def file_and_hash(path):
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_score_prints_every_score(files):
    done = run_score(*files)
    assert done.exit_code == 0, done.output
    for s in score(HYPOTHESES, REFERENCES, "de"):
        line, note = rf"{s.name} +{s.value:.1f}  {re.escape(s.signature)}", re.escape(s.note)
        assert re.search(rf"^{line}\n    {note}$", done.output, re.M)
    assert "bootstrap" not in done.output and "paper" not in done.output


@pytest.mark.parametrize("name", ["tr", "zh", "DE", "german"])
def test_score_reports_why_a_language_has_no_tokenized_bleu(files, name):
    done = run_score(*files, "--target-lang", name)
    assert done.exit_code == 0, done.output
    assert f"No tokenized BLEU: the Moses tokenizer does not support language {name}, only " in done.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"eins\nzwei\n", r"system.de has 2 lines and .*reference.de has 6"),
        (b"eins\n\xff\n", r"system.de has invalid UTF-8 in line 2: invalid start byte"),
        (b"", r"system.de is empty"),
    ],
)
def test_score_refuses_invalid_texts_in_one_line(files, content, message):
    files[0].write_bytes(content)
    done = run_score(*files)
    assert done.exit_code == 1
    assert len(done.output.splitlines()) == 1
    assert re.match(f"Error: .*{message}", done.output)


def test_score_writes_everything_behind_the_scores_to_json(files, tmp_path):
    model = make_model(share_all_embeddings=True)
    options = {"model": argparse.Namespace(dropout=0.1), "optimization": {"lr": [0.2], "max_update": float("inf")}}
    checkpoint = tmp_path / "model.pt"
    history, extra = [{"num_updates": 7}], {"previous_training_time": 12.5}
    state = {"model": model.state_dict(), "cfg": options, "optimizer_history": history, "extra_state": extra}
    torch.save(state, checkpoint)
    (tmp_path / "times.json").write_text('{"seconds": 1.5}')
    done = run_score(
        *(*files, "--checkpoint", checkpoint, "--json", tmp_path / "new" / "scores.json"),
        *("--metadata", "command=generate --beam=4 ä", "--metadata-json", f"times={tmp_path / 'times.json'}"),
        *("--metadata", "corpus=wmt14.en-de"),
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "new" / "scores.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "ä" in text
    stored = json.loads(text)
    assert stored["scores"] == [vars(s) for s in score(HYPOTHESES, REFERENCES, "de")]
    assert (stored["lines"], stored["target_lang"], stored["paper"]) == (6, "de", paper_remark("wmt14.en-de"))
    assert " ".join(done.output.split()).endswith(stored["paper"])
    assert stored["hypotheses"] == file_and_hash(files[0])
    assert stored["reference"] == file_and_hash(files[2])
    assert stored["checkpoint"] == {
        **file_and_hash(checkpoint),
        "updates": 7,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_seconds": 12.5,
        "options": {"model": {"dropout": 0.1}, "optimization": {"lr": [0.2], "max_update": "inf"}},
    }
    expected = {"command": "generate --beam=4 ä", "corpus": "wmt14.en-de", "times": {"seconds": 1.5}}
    assert stored["metadata"] == expected
    assert (stored["baseline"], stored["comparisons"]) == (None, [])
    programs = ["fairseq-resmlp", "python", "torch", "fairseq", "sacrebleu", "sacremoses", "sentencepiece"]
    assert list(stored["versions"]) == programs
    assert all(re.match(r"\d+\.\d", version) for version in stored["versions"].values())
    assert stored["machine"]["cpus"] >= 1
    assert stored["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metadata", "command=x"], "--checkpoint, --metadata and --metadata-json require --json"),
        (["--checkpoint", "{}/system.de"], "--checkpoint, --metadata and --metadata-json require --json"),
        (["--json", "{}/out.json", "--metadata", "command"], "--metadata command: use NAME="),
        (["--json", "{}/out.json", "--metadata", "a=1", "--metadata-json", "a={}/system.de"], "a is given twice"),
        (["--json", "{}/out.json", "--metadata-json", "a={}/system.de"], "system.de is not JSON"),
        (["--json", "{}/out.json", "--checkpoint", "{}/system.de"], "is not a checkpoint"),
    ],
)
def test_score_refuses_invalid_metadata_and_writes_nothing(files, tmp_path, options, message):
    done = run_score(*files, *(option.format(tmp_path) for option in options))
    assert done.exit_code != 0
    assert message in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reference.de", "system.de"]


def test_score_compares_with_a_baseline(files, tmp_path):
    worse = write_lines(tmp_path / "worse.de", WORSE)
    done = run_score(*files, "--baseline", worse, "--json", tmp_path / "scores.json")
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert stored["baseline"] == file_and_hash(worse)
    own, other = score(HYPOTHESES, REFERENCES, "de"), score(WORSE, REFERENCES, "de")
    assert len(stored["comparisons"]) == 2
    for c, mine, theirs in zip(stored["comparisons"], own, other):
        assert (c["name"], c["value"], c["baseline"]) == (mine.name, mine.value, theirs.value)
        assert c["difference"] == mine.value - theirs.value > 0
        assert c["p_value"] < 0.05
        assert "bs:1000|seed:12345" in c["signature"]
        figures = [f"{c['value']:.1f}", f"{c['baseline']:.1f}", f"{c['difference']:+.1f}", f"{c['p_value']:.3f}"]
        assert [c["name"], *figures, c["signature"]] in [line.split() for line in done.output.splitlines()]
    assert f"Paired bootstrap test against {worse}, 1000 samples" in done.output


def test_score_without_sacremoses_names_what_to_install(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    done = run_score(*files)
    assert done.exit_code == 1
    assert done.output == "Error: tokenized BLEU requires sacremoses: pip install 'fairseq-resmlp[reproduce]'\n"
