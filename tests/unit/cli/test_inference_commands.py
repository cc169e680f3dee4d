"""The commands `fairseq-resmlp export` and `fairseq-resmlp translate`, the latter also without fairseq."""

import gzip
import io
import json
import os
import re
import site
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from lxml import etree

from fairseq_resmlp.cli.main import main
from fairseq_resmlp.cli.options import progress_bar
from support.commands import run
from support.inference import translate
from support.paths import GOLDEN, ROOT
from support.texts import PLAIN

LINES = [PLAIN, "Two dogs.", "", "A man sees a dog and a cat.", f"{PLAIN} {PLAIN}"]
SHORT = ("--beam", "2", "--max-len-b", "10", "--threads", "1")  # the options of the fixture `translator`


def run_command(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def run_without_fairseq(tmp_path_factory):
    """Function that runs fairseq-resmlp in an environment without fairseq and the packages that only fairseq needs."""
    packages = tmp_path_factory.mktemp("packages")
    for path in filter(os.path.isdir, site.getsitepackages()):  # Debian's Python lists directories that do not exist
        for entry in Path(path).iterdir():
            if not re.match(r"fairseq|__editable__|omegaconf|hydra|sacrebleu|numpy|tqdm|.*\.pth$", entry.name):
                (packages / entry.name).symlink_to(entry)
    (packages / "fairseq_resmlp").symlink_to(ROOT / "fairseq_resmlp")
    start = (sys.executable, "-S", "-c", "from fairseq_resmlp.cli.main import main; main(prog_name='fairseq-resmlp')")
    return lambda *words, **options: run(*start, *words, env={"PYTHONPATH": str(packages)}, **options)


def test_translate_works_without_fairseq(run_without_fairseq, exported_models, translator, tmp_path):
    lines = [PLAIN, "", "  ", "A boy hopes.", "\u2028", PLAIN]
    (tmp_path / "input").write_bytes("\n".join(lines).encode() + b"\n\xff")
    options = ("translate", exported_models / "float32", *SHORT, "--threads", "1")
    piped = run_without_fairseq(*options, stdin=(tmp_path / "input").read_bytes())
    assert piped.stdout.split("\n") == [*translate(translator, lines), *translate(translator, ["\ufffd"]), ""]
    assert "line 7 is not valid UTF-8" in piped.stderr
    run_without_fairseq(*options, "--input", tmp_path / "input", "--output", tmp_path / "output")
    assert (tmp_path / "output").read_text(encoding="utf-8") == piped.stdout


def test_commands_that_need_fairseq_report_that_in_one_line(run_without_fairseq, tmp_path):
    done = run_without_fairseq("export", GOLDEN, tmp_path / "model", check=False)
    assert done.returncode == 1
    message = "Error: this command requires fairseq, which is not installed: .*"
    assert re.fullmatch(message, done.stderr.splitlines()[-1])


def test_a_pipe_is_read_once_and_completely(exported_models, translator, tmp_path):
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipe.write_text, "".join(f"{line}\n" for line in LINES), "utf-8")
        done = run_command("translate", exported_models / "float32", "--input", pipe, "--output", out, *SHORT)
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8").split("\n")[:-1] == translate(translator, LINES)


def test_translate_writes_to_a_pipe(exported_models, translator, tmp_path):
    (tmp_path / "input").write_text(f"{PLAIN}\n")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit((tmp_path / "pipe").read_text, "utf-8")
        files = ("--input", tmp_path / "input", "--output", tmp_path / "pipe")
        done = run_command("translate", exported_models / "float32", *files, *SHORT)
    assert done.exit_code == 0, done.output
    assert reading.result() == f"{translate(translator, [PLAIN])[0]}\n"
    assert (tmp_path / "pipe").is_fifo()


def test_the_input_is_not_overwritten(exported_models, tmp_path):
    text = tmp_path / "text"
    text.write_text("Hello.\n")
    done = run_command("translate", exported_models / "float32", "--input", text, "--output", text)
    assert done.exit_code == 1 and "would overwrite its own input" in done.output
    assert text.read_text() == "Hello.\n"


def test_the_progress_bar_counts_lines_on_a_terminal_even_without_a_total(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    for length, shown in ((20, "10/20"), (None, "10")):
        with progress_bar(length) as advance:
            advance(10)
        assert shown in terminal.getvalue()
        assert "/0" not in terminal.getvalue()


def test_translate_writes_n_best_lists_with_scores_and_alignments(exported_models, translator, tmp_path):
    (tmp_path / "input").write_text(f"{PLAIN}\n\n{PLAIN} Two dogs.\n")
    options = ("--n-best", "2", "--alignments", "--split-sentences")
    files = ("--input", tmp_path / "input", "--output", tmp_path / "out", "--format", "jsonl")
    done = run_command("translate", exported_models / "float32", *files, *SHORT, *options)
    assert done.exit_code == 0, done.output
    expected = translator.translate_batch(
        [PLAIN, "", f"{PLAIN} Two dogs."], beam=2, max_len_b=10, n_best=2, alignments=True, split_sentences=True
    )
    for line, translation in zip((tmp_path / "out").open(encoding="utf-8"), expected, strict=True):
        found = json.loads(line)
        assert (found["source"], found["unknown"]) == (translation.source, translation.unknown)
        for one, hypothesis in zip(found["hypotheses"], translation.hypotheses, strict=True):
            assert (one["text"], one["score"]) == (hypothesis.text, pytest.approx(hypothesis.score, abs=1e-5))
            assert [tuple(alignment["target"]) for alignment in one["alignments"]] == [
                alignment.target for alignment in hypothesis.alignments
            ]
    assert re.fullmatch(r"3 lines, 20 words in \d+\.\d s: [\d,]+ words per second\n", done.output)


def test_translate_fills_a_document(exported_models, translator, tmp_path):
    source = tmp_path / "a.xlf"
    unit = "<trans-unit id='1'><source>{} <g id='2'>Two</g> dogs.</source></trans-unit>"
    source.write_text(f"<xliff><file source-language='en'>{unit.format(PLAIN)}</file></xliff>", encoding="utf-8")
    for name in ("out.xlf", "out.xlf.gz"):
        done = run_command(
            "translate", exported_models / "float32", "--input", source, "--output", tmp_path / name, *SHORT
        )
        assert done.exit_code == 0, done.output
        assert done.output.startswith("1 line, 11 words in ")
    filled = etree.parse(tmp_path / "out.xlf")
    expected = translate(translator, [f"{PLAIN} Two dogs."], split_sentences=True)
    assert ["".join(target.itertext()) for target in filled.iter("target")] == expected
    assert filled.find(".//target/g").get("id") == "2"
    assert gzip.decompress((tmp_path / "out.xlf.gz").read_bytes()) == (tmp_path / "out.xlf").read_bytes()


def test_compressed_text_is_read_and_written(exported_models, translator, tmp_path):
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(f"{PLAIN}\n\n".encode()))
    files = ("--input", tmp_path / "in.txt.gz", "--output", tmp_path / "out.gz")
    done = run_command("translate", exported_models / "float32", *files, *SHORT)
    assert done.exit_code == 0, done.output
    written = gzip.decompress((tmp_path / "out.gz").read_bytes()).decode()
    assert written == f"{translate(translator, [PLAIN])[0]}\n\n"


@pytest.mark.parametrize(
    "name, content, options, message",
    [
        ("a.txt", "%PDF-1.7", [], "a.txt is a PDF document: convert it to text"),
        ("a.txt.gz", "text", [], "a.txt.gz is damaged or not compressed with gzip"),
        ("a.txt", "text", ["--source-column", "1"], "require a table as --input: .tsv or .csv"),
        ("a.tsv", "text", ["--format", "jsonl"], "--format, --n-best, --alignments and --scores are for text"),
        (
            "a.tsv",
            "text",
            ["--output", "a.csv"],
            "a.csv would have the format of the input: choose a name that ends in .tsv",
        ),
        ("a.csv", "text", [], "a.csv has 0 columns 'en' in its first line"),
    ],
)
def test_translate_refuses_files_that_it_cannot_read_in_one_line(
    name, content, options, message, exported_models, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    done = run_command("translate", exported_models / "int8", "--input", name, *options)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ") and message in done.output and done.output.count("\n") == 1
    assert not (tmp_path / "a.csv").exists() or name == "a.csv"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dtype", "float16"], "float16 is not supported on device cpu"),
        (["--device", "cuda"], "--device cuda is not available"),
        (["--device", "gpu"], "--device gpu is not available"),
        (["--lenpen", "nan"], "--lenpen nan is out of range: use a number from -10 to 10"),
        (["--lenpen=-100000"], "--lenpen -100000.0 is out of range: use a number from -10 to 10"),
        (["--max-len-a", "nan"], "--max-len-a nan is out of range: use a number from 0 to 1000"),
        (["--max-len-b", "0"], "the minimum length 1 exceeds the maximum length 0"),
        (["--n-best", "5"], "--n-best 5 is out of range: use a number from 1 to the beam size 4"),
    ],
)
def test_translate_refuses_invalid_options_in_one_line(options, message, exported_models, tmp_path):
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (tmp_path / "input").write_text("a\n")
    threads = ["--threads", torch.get_num_threads()]
    done = run_command("translate", exported_models / "int8", "--input", tmp_path / "input", *threads, *options)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ") and message in done.output and done.output.count("\n") == 1


def test_export_reports_languages_dtype_and_size(tmp_path):
    done = run_command("export", GOLDEN, tmp_path / "model")
    assert done.exit_code == 0, done.output
    size = sum(file.stat().st_size for file in (tmp_path / "model").iterdir()) / 1e6
    assert done.output.splitlines()[-1] == f"{tmp_path / 'model'}: en-de, int8, {size:,.1f} MB"
    done = run_command("export", GOLDEN, tmp_path / "model")
    assert done.exit_code == 1 and "model already exists: choose another directory" in done.output


@pytest.mark.parametrize(
    "kind, checkpoint",
    [("run", "average5.pt"), ("model", "model.pt"), ("checkpoint", "checkpoints/checkpoint_2_20.pt")],
)
def test_export_and_translate_take_any_form_of_a_model(kind, checkpoint, translator, tmp_path, monkeypatch):
    home = tmp_path / "run"
    model = home / checkpoint if kind == "checkpoint" else home
    files = {checkpoint: "model.pt", "../spm.model": "sentencepiece.bpe.model"}
    files |= {f"../data-bin/dict.{language}.txt": f"dict.{language}.txt" for language in ("en", "de")}
    home.mkdir()
    for name, golden in files.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).symlink_to(GOLDEN / golden)
    done = run_command("export", model, tmp_path / "exported", "--dtype", "float32")
    assert done.exit_code == 0, done.output
    (tmp_path / "input").write_text(f"{PLAIN}\n")
    monkeypatch.setattr("tempfile.tempdir", str(home))
    before = sorted(os.listdir(home))
    for given in (model, tmp_path / "exported"):
        done = run_command("translate", given, "--input", tmp_path / "input", "--output", tmp_path / "out", *SHORT)
        assert done.exit_code == 0, done.output
        assert (tmp_path / "out").read_text(encoding="utf-8") == f"{translate(translator, [PLAIN])[0]}\n"
    assert sorted(os.listdir(home)) == before  # the temporary model is gone
    done = run_command("translate", model, "--input", tmp_path / "input", "--output", home / checkpoint)
    assert done.exit_code == 1 and "would overwrite its own input" in done.output


def test_a_directory_without_a_model_is_refused_saying_what_was_looked_for(tmp_path):
    names = "average*.pt, model.pt, checkpoint_best.pt, checkpoint_last.pt, also not in checkpoints/"
    for command, more in (
        (["export", tmp_path, tmp_path / "out"], ""),
        (["translate", tmp_path], ", and no config.json of an exported model"),
    ):
        done = run_command(*command)
        assert done.exit_code == 1 and done.output.count("\n") == 1
        assert done.output.startswith(f"Error: no model found in {tmp_path}: there is no {names}{more}; specify a run")
    (tmp_path / "model.pt").touch()
    done = run_command("export", tmp_path, tmp_path / "out")
    assert done.exit_code == 1 and re.match("Error: dict.*.txt not found in .*: specify it as --data\n", done.output)


def test_translate_refuses_models_of_older_versions_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"version": 3}')
    done = run_command("translate", tmp_path)
    assert done.exit_code == 1
    expected = f"Error: {tmp_path} has format version 3, but this program reads version 4: export it again\n"
    assert done.output == expected
