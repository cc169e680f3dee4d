"""The command `fairseq-resmlp bench`, with a tiny model, CTranslate2 and fairseq."""

import json
import shutil
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_resmlp.cli.main import main
from fairseq_resmlp.evaluation.translation_speed import System, measure, table
from fairseq_resmlp.model.export import export_model
from support.files import write_lines
from support.paths import GOLDEN

LINES = ["a b c", "d", "a e f g h"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "exported"
    export_model(str(GOLDEN), str(path))
    return path


@pytest.fixture
def text(tmp_path):
    return write_lines(tmp_path / "text.en", LINES)


def run_bench(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def copying(name, suffix=""):
    """A system whose translation is the source with a suffix."""
    code = f"import sys; open(sys.argv[2], 'w').write(open(sys.argv[1]).read() + {suffix!r})"
    return System(name, "copy", "float32", 1, ["-c", code, "{source}", "{output}"])


def test_memory_is_that_of_the_system_alone(text):
    ballast = bytearray(300 << 20)
    ballast[:: 1 << 12] = bytes(len(ballast[:: 1 << 12]))  # touch every page
    (row,) = measure([copying("a")], str(text), None, "de", 1, 1, print)["rows"]
    assert 5 < row["memory_mb"] < 100


def test_systems_take_turns_and_are_scored(text):
    rounds = []
    reference = write_lines(text.with_name("text.de"), LINES)
    found = measure([copying("a"), copying("b")], str(text), str(reference), "de", 1, 2, rounds.append)
    assert rounds == ["warm-up with 10 lines", "round 1 of 2", "round 2 of 2"]
    for row in found["rows"]:
        assert row["bleu"] == pytest.approx(100)
        middle = sorted(row["seconds"])
        assert row["words_per_second"] == pytest.approx(9 / (sum(middle) / 2))
    assert found["settings"]["words"] == 9 and "command" not in found
    faster, slower = sorted(found["rows"], key=lambda row: row["seconds"])
    faster["words_per_second"], slower["words_per_second"] = 1234.4, 5.0
    assert [line.split()[4] for line in table(found).splitlines()[1:]] == ["1,234", "5"]


def test_the_whole_text_is_timed_after_a_warm_up_with_its_first_lines(tmp_path):
    text, log = write_lines(tmp_path / "text.en", [f"line {i}" for i in range(12)]), tmp_path / "log"
    system = copying("a")
    code = system.command[1] + f"; open({str(log)!r}, 'a').write(str(len(open(sys.argv[1]).readlines())) + ' ')"
    logging = replace(system, command=["-c", code, *system.command[2:]])
    (row,) = measure([logging], str(text), None, "de", 1, 2, print)["rows"]
    assert log.read_text() == "10 12 12 " and len(row["seconds"]) == 2


def test_a_system_that_fails_or_loses_lines_is_named(text):
    failing = System("a", "copy", "float32", 1, ["-c", "raise SystemExit('no memory')"])
    for system, message in (
        (failing, "copy with a failed: no memory"),
        (copying("b", "more\n"), "copy, b: 4 lines of 3"),
    ):
        with pytest.raises(Exception, match=message):
            measure([system], str(text), None, "de", 1, 1, print)


def test_directories_that_are_not_models_are_refused(exported, text, tmp_path):
    assert "it has no config.json: run fairseq-resmlp export" in run_bench(tmp_path, "--text", text).output
    assert "it has no model.bin" in run_bench(exported, "--text", text, "--ctranslate2", tmp_path).output
    assert "no model found in" in run_bench(exported, "--text", text, "--fairseq", tmp_path).output


def test_models_of_other_languages_are_refused(exported, text, tmp_path):
    other = shutil.copytree(exported, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "languages": ["fr", "de"]}))
    assert f"{other} translates fr-de, but {exported} en-de" in run_bench(exported, other, "--text", text).output


def test_a_json_file_that_is_part_of_a_model_is_refused_at_once(exported, text):
    done = run_bench(exported, "--text", text, "--json", exported / "config.json")
    assert done.exit_code == 1 and "would overwrite" in done.output and "round" not in done.output


def convert_transformer(directory):
    """Convert a Transformer with random weights and the dictionaries of the golden model."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="CTranslate2 not found: pip install ctranslate2")
    words = [str(GOLDEN), "--arch", "transformer", "--encoder-layers", "1", "--decoder-layers", "1"]
    words += ["--source-lang", "en", "--target-lang", "de"]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    cfg = convert_namespace_to_omegaconf(args)
    model = tasks.setup_task(cfg.task).build_model(cfg.model)
    torch.save({"args": args, "cfg": None, "model": model.state_dict()}, directory / "model.pt")
    with torch.serialization.safe_globals([Namespace]):  # for the converter, which calls torch.load
        converter = ctranslate2.converters.FairseqConverter(str(directory / "model.pt"), str(GOLDEN))
        converter.convert(str(directory / "converted"))
    return directory / "converted"


@pytest.mark.slow
def test_the_engine_is_compared_with_ctranslate2_and_fairseq(exported, text, tmp_path):
    converted, out = convert_transformer(tmp_path), tmp_path / "bench.json"
    compared = ("--ctranslate2", converted, "--fairseq", GOLDEN)
    done = run_bench(exported, "--text", text, *compared, "--repeats", 1, "--threads", 1, "--json", out)
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    expected = [("inference engine", "int8", 4), ("inference engine", "int8", 1)]
    expected += [("CTranslate2", dtype, beam) for dtype in ("int8", "float32") for beam in (4, 1)]
    expected += [("fairseq-interactive", "float32", 4), ("fairseq-interactive", "float32", 1)]
    assert [(row["program"], row["dtype"], row["beam"]) for row in rows] == expected
    for row in rows:
        assert row["seconds"] and row["memory_mb"] > 20 and "bleu" not in row
