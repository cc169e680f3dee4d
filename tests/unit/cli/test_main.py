"""The command group: errors in one line, and old names that lead to the new ones."""

import re
import sys

import pytest
import torch
from click.testing import CliRunner

import fairseq_resmlp
from fairseq_resmlp.cli.main import main
from fairseq_resmlp.common import environment
from support.commands import run
from support.paths import GOLDEN


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    "words, message",
    [
        (["collect"], "collect was renamed to extract"),
        (["bench", "--pairs", "3"], "run `make bench`"),
        (["shortlist", __file__, __file__, "--output", "x", "--always", "3"], "--always was renamed to --first"),
        (["shortlist", __file__, __file__, "--output", "x", "--each", "3"], "--each was renamed to --best"),
        (
            ["score", __file__, "--reference", __file__, "--target-lang", "en", "--against", "x"],
            "renamed to --baseline",
        ),
        (
            ["score", __file__, "--reference", __file__, "--target-lang", "en", "--record", "a=b"],
            "renamed to --metadata",
        ),
        (
            ["score", __file__, "--reference", __file__, "--target-lang", "en", "--record-json", "a=b"],
            "renamed to --metadata-json",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_old_name_ends_with_the_new_one(words, message):
    done = invoke(*words)
    assert done.exit_code == 2
    assert message in done.output.splitlines()[-1]


def test_help_does_not_list_old_names():
    listed = invoke("--help").output + invoke("shortlist", "--help").output + invoke("score", "--help").output
    assert not {"collect", "bench", "--always", "--each", "--against", "--record"} & set(listed.split())


def test_the_version_is_that_of_the_package():
    assert invoke("--version").output == f"fairseq-resmlp, version {fairseq_resmlp.__version__}\n"


def test_a_missing_package_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for name in list(sys.modules):
        if name.startswith("fairseq_resmlp.data") or name == "fairseq_resmlp.common.sentencepiece_model":
            monkeypatch.delitem(sys.modules, name)
    done = invoke("spm-encode", __file__, "--model", __file__, "--out-dir", tmp_path)
    assert done.exit_code == 1
    assert done.output.startswith("Error: this command requires sentencepiece, which is not installed")


def test_invalid_input_is_reported_in_one_line(tmp_path):
    done = invoke("export", GOLDEN, GOLDEN)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith(f"Error: {GOLDEN} already exists: choose another directory")


def test_doctor_names_versions_and_what_is_missing_for_which_extra(monkeypatch):
    present = environment.find_spec
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "gradio" else present(name))
    lines = dict(re.split(" {2,}", line, maxsplit=1) for line in invoke("doctor").output.splitlines())
    assert lines["torch"] == torch.__version__
    assert lines["fairseq-resmlp"].startswith(fairseq_resmlp.__version__)
    assert lines["extra server"] == "missing gradio: pip install 'fairseq-resmlp[server]'"
    assert lines["fairseq"].startswith("0.12.3.1, ")
    assert {"Python", "CPU", "cores", "GPU", "extra report", "extra reproduce", "extra bench"} <= set(lines)


def test_doctor_works_without_fairseq(monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    assert re.search("^fairseq +not installed: exported models can be translated", invoke("doctor").output, re.M)


def test_a_reader_that_has_seen_enough_gets_no_error():
    done = run("bash", "-c", "fairseq-resmlp doctor | head -n 1; exit ${PIPESTATUS[0]}", check=False)
    assert done.stdout.startswith("fairseq-resmlp")
    assert done.stderr == ""
