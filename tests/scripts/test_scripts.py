"""The shell scripts, from archives with the names and layouts of WMT14 to BLEU, uninterrupted and interrupted.

A local server replaces the public addresses. The text is that of the grammar corpus.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import time

import pytest
import sacrebleu
import torch
from fairseq import options

from fairseq_resmlp import ResMLPModel
from support.commands import run
from support.fake_corpus_server import mirror
from support.paths import GOLDEN, PLUGIN, ROOT, SCRIPTS

# 20 updates, with checkpoints after 10 and 20
SETTINGS = """
vocab_size=400
default_arch=resmlp_tiny
dropout=0
lr=0.05
warmup_updates=20
batch_tokens=800
device_tokens=400
updates=20
save_updates=10
average=2
"""


def write_tar(path, members):
    """Write a .tgz archive of text files, {name: lines}."""
    with tarfile.open(path, "w:gz") as archive:
        for name, lines in members.items():
            data = "".join(lines).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def to_sgm(lines):
    """Return lines as a WMT test set in SGML."""
    segments = [f'<seg id="{i}">{line.strip()}</seg>\n' for i, line in enumerate(lines, 1)]
    return ['<srcset setid="newstest2014" srclang="any">\n<doc docid="1">\n', *segments, "</doc>\n</srcset>\n"]


def build_archives(directory, train, valid, test):
    """Write archives like those of WMT14 English-German; train, valid and test are pairs of lists of lines."""
    directory.mkdir()
    third = len(train[0]) // 3
    parts = [[side[i * third : (i + 1) * third] for side in train] for i in range(3)]
    crlf = [[line.replace("\n", "\r\n") for line in side] for side in parts[0]]
    split = [[line.replace(" ", "\u2028", 1) for line in side] for side in parts[1]]
    names = ("training/europarl-v7.de-en", "commoncrawl.de-en", "training/news-commentary-v9.de-en")
    files = ("training-parallel-europarl-v7.tgz", "training-parallel-commoncrawl.tgz", "training-parallel-nc-v9.tgz")
    for file, name, (en, de) in zip(files, names, (crlf, split, parts[2])):
        write_tar(directory / file, {f"{name}.en": en, f"{name}.de": de})
    write_tar(directory / "dev.tgz", {"dev/newstest2013.en": valid[0], "dev/newstest2013.de": valid[1]})
    for file, name, (en, de) in (
        ("test-full.tgz", "test-full", test),
        ("test-filtered.tgz", "test", [side[3:-2] for side in test]),
    ):
        members = {
            f"{name}/newstest2014-deen-src.en.sgm": to_sgm(en),
            f"{name}/newstest2014-deen-ref.de.sgm": to_sgm(de),
        }
        write_tar(directory / file, members)


def copy_corpus(archives, directory, settings=SETTINGS):
    """Copy examples/wmt14.en-de, with the checksums of these archives and the given settings."""
    text = (ROOT / "examples" / "wmt14.en-de" / "corpus.sh").read_text()

    def checksum(match):
        path = archives / match[1].rsplit("/", 1)[1]
        return f"{match[1]}\n    sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"

    directory.mkdir()
    text, count = re.subn(r"(http\S+)\n\s+(?:sha256|md5):\w+\n", checksum, text)
    assert count == 6
    (directory / "corpus.sh").write_text(text + settings)
    return directory


def read_lines(path):
    """Return the lines of a file, which end at LF only."""
    return path.read_bytes().decode().split("\n")[:-1]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """{split: [English lines, German lines]} of the grammar corpus."""
    directory = tmp_path_factory.mktemp("text")
    sizes = ("--train", "900", "--valid", "20", "--test", "30")
    run("python", ROOT / "examples" / "grammar" / "make_corpus.py", directory, *sizes)
    return {
        split: [[f"{line}\n" for line in read_lines(directory / f"{split}.{language}")] for language in ("en", "de")]
        for split in ("train", "valid", "test")
    }


@pytest.fixture(scope="module")
def archives(text, tmp_path_factory):
    directory = tmp_path_factory.mktemp("wmt") / "archives"
    build_archives(directory, **text)
    return directory


@pytest.fixture(scope="module")
def corpus(archives):
    return copy_corpus(archives, archives.parent / "wmt14.en-de")


@pytest.fixture(scope="module")
def reproduced(archives, corpus):
    """The output directory of reproduce.sh, its messages, and the mirror's requests; one connection was interrupted."""
    with mirror(archives) as server:
        half = (archives / "training-parallel-europarl-v7.tgz").stat().st_size // 2
        server.cuts["training-parallel-europarl-v7.tgz"] = [half]
        command = [SCRIPTS / "reproduce.sh", corpus, "--mirror", server.url, "--out", "the run"]
        done = run(*command, "--", "--log-interval", "5", cwd=archives.parent)
    return archives.parent / "the run", done.stdout + done.stderr, server.requests


def test_a_cut_connection_is_resumed(reproduced, archives):
    name = "training-parallel-europarl-v7.tgz"
    half = (archives / name).stat().st_size // 2
    assert [asked for file, asked in reproduced[2] if file == name] == [None, f"bytes={half}-"]
    assert (reproduced[0] / "downloads" / name).read_bytes() == (archives / name).read_bytes()


def test_every_line_of_the_archives_is_extracted_once(reproduced, text):
    raw = reproduced[0] / "raw"
    for side, language in enumerate(("en", "de")):
        train = [line.rstrip("\n") for line in text["train"][side]]
        third = len(train) // 3
        expected = train[:third] + [line.replace(" ", "\u2028", 1) for line in train[third : 2 * third]]
        assert read_lines(raw / f"train.{language}") == expected + train[2 * third :]
        test = [line.strip() for line in text["test"][side]]
        assert read_lines(raw / f"newstest2014-full.{language}") == test
        assert read_lines(raw / f"newstest2014-filtered.{language}") == test[3:-2]
        assert read_lines(raw / f"valid.{language}") == [line.strip() for line in text["valid"][side]]


def test_dropped_pairs_are_counted_by_reason(reproduced):
    report = json.loads((reproduced[0] / "pieces" / "train.json").read_text())
    assert report["kept"] + sum(report["dropped"].values()) == 900
    assert report["kept"] == len(read_lines(reproduced[0] / "pieces" / "train.en"))
    assert f"dropped {report['dropped']['length ratio above 1.5']:,} pairs: length ratio above 1.5" in reproduced[1]


def test_the_log_shows_speed_and_time_left_and_goes_to_tensorboard(reproduced):
    log = (reproduced[0] / "resmlp_tiny" / "train.log").read_text()
    assert re.search(r"left=0h0\dm, wps=[\d.]+", log)
    assert list((reproduced[0] / "resmlp_tiny" / "tensorboard" / "train_inner").glob("events*"))


def test_both_versions_of_the_test_set_are_scored_by_name(reproduced):
    for name, lines in (("newstest2014-full", 30), ("newstest2014-filtered", 25)):
        results = reproduced[0] / "resmlp_tiny" / name
        report = json.loads((results / "scores.json").read_text())
        names = [score["name"] for score in report["scores"]]
        assert names == ["sacreBLEU", "chrF2", "tokenized BLEU", "compound-split tokenized BLEU"]
        assert report["lines"] == lines == len(read_lines(results / "translation.de"))
        assert report["checkpoint"]["updates"] == 20
        assert report["checkpoint"]["options"]["optimization"]["max_update"] == 20
        assert "--lenpen 0.6" in report["metadata"]["generate"]
        assert (results / "scores.txt").read_text().startswith("sacreBLEU")
    full, filtered = (
        read_lines(reproduced[0] / "resmlp_tiny" / f"newstest2014-{form}" / "translation.de")
        for form in ("full", "filtered")
    )
    assert filtered == full[3:-2]


def test_the_next_commands_are_printed_and_work(reproduced):
    out, messages, _ = reproduced
    header, *commands = messages[messages.index("== wmt14.en-de, resmlp_tiny: done") :].splitlines()
    assert header.endswith("scores are in the run/resmlp_tiny. Next:")
    export, translate, serve = [shlex.split(line) for line in commands if line.startswith("fairseq-resmlp ")]
    assert serve == ["fairseq-resmlp", "serve", "the run/resmlp_tiny/exported"]
    assert run(*export, cwd=out.parent).stdout.startswith("the run/resmlp_tiny/exported: en-de, int8, ")
    run(*translate, cwd=out.parent)
    assert len(read_lines(out / "resmlp_tiny" / "translation.de")) == 30


def test_a_second_run_skips_finished_steps(reproduced, corpus):
    out, first, _ = reproduced
    outputs = [path for path in out.rglob("*") if path.suffix in (".pt", ".bin", ".model", ".de")]
    before = {path: path.stat().st_mtime_ns for path in outputs}
    command = [SCRIPTS / "reproduce.sh", corpus, "--mirror", "http://127.0.0.1:9", "--out", "the run"]
    done = run(*command, "--", "--log-interval", "5", cwd=out.parent)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    scores = re.findall(r"^(?:sacreBLEU|chrF2|tokenized).*", first, re.M)
    assert scores and re.findall(r"^(?:sacreBLEU|chrF2|tokenized).*", done.stdout, re.M) == scores
    assert "nothing to do: training has completed 20 updates" in done.stderr + done.stdout


@pytest.mark.parametrize("fault", ["corrupt", "missing", "another checksum", "not aligned"])
def test_faulty_sources_stop_with_one_clear_line(archives, corpus, tmp_path, text, fault):
    served = tmp_path / "served"
    shutil.copytree(archives, served)
    file = served / "training-parallel-nc-v9.tgz"
    if fault == "corrupt":
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        corpus = copy_corpus(served, tmp_path / "corpus")
        expected = r"error: \S+training-parallel-nc-v9\.tgz is damaged \(.*\): remove it and run again\n"
    elif fault == "missing":
        file.unlink()
        expected = r"error: http\S+/training-parallel-nc-v9\.tgz: 404 .*: use a mirror \(--mirror\)\n"
    elif fault == "another checksum":
        file.write_bytes(file.read_bytes() + b"\0")
        expected = (
            r"error: \S+training-parallel-nc-v9\.tgz\.part differs from the expected content of http\S+: "
            r"its sha256 is .*, expected .*\n"
        )
    else:
        english, german = text["train"]
        name = "training/news-commentary-v9.de-en"
        write_tar(file, {f"{name}.en": english[:50], f"{name}.de": german[:49]})
        corpus = copy_corpus(served, tmp_path / "corpus")
        expected = (
            r"error: the sides of train are not parallel: \S+news-commentary-v9\.de-en\.en has 50 lines and \S+ 49; "
            r"the first line without a counterpart is 50\n"
        )
    with mirror(served) as server:
        done = run(SCRIPTS / "prepare.sh", corpus, "--mirror", server.url, "--out", tmp_path / "out", check=False)
    assert done.returncode != 0
    assert re.fullmatch(expected, done.stderr[done.stderr.index("rror: ") - 1 :], re.I), done.stderr
    assert not (tmp_path / "out" / "raw").exists()


def test_other_settings_are_not_mixed_into_a_directory(reproduced, archives):
    other = copy_corpus(archives, archives.parent / "other", SETTINGS + "vocab_size=500\n")
    done = run(SCRIPTS / "prepare.sh", other, "--out", reproduced[0], check=False)
    assert done.returncode != 0 and "was created with different settings" in done.stderr


def test_other_settings_are_not_mixed_into_a_training_run(reproduced, corpus):
    teacher = GOLDEN / "model.pt"
    for other in (
        ("--", "--lr", "0.1"),
        ("resmlp_base", "--name", "resmlp_tiny"),
        ("--", "--teacher", teacher),
    ):
        done = run(SCRIPTS / "train.sh", corpus, "--out", reproduced[0], *other, check=False)
        assert done.returncode != 0 and "resmlp_tiny was created with different settings" in done.stderr
    assert f"teacher: {hashlib.sha256(teacher.read_bytes()).hexdigest()}" in done.stderr


def test_training_can_be_extended_and_logged_more_often(reproduced, corpus, tmp_path):
    out = shutil.copytree(reproduced[0], tmp_path / "out")
    done = run(SCRIPTS / "train.sh", corpus, "--out", out, "--", "--max-update", "30", "--log-interval=1")
    assert "num_updates=30" in done.stdout + done.stderr
    run(SCRIPTS / "train.sh", corpus, "--out", out, "--", "--max-update", "30")


@pytest.mark.slow
def test_results_of_other_generation_options_are_replaced(reproduced, corpus):
    copy = reproduced[0].with_name("another search")
    shutil.copytree(reproduced[0], copy)
    run(SCRIPTS / "evaluate.sh", corpus, "--out", copy, "--", "--beam", "1", "--max-len-b", "3")
    translations = read_lines(copy / "resmlp_tiny" / "newstest2014-full" / "translation.de")
    assert max(len(line.split()) for line in translations) <= 3
    report = json.loads((copy / "resmlp_tiny" / "newstest2014-full" / "scores.json").read_text())
    assert report["metadata"]["generate"].endswith("--beam 1 --max-len-b 3")


def test_local_text_of_any_format_is_used_and_missing_splits_are_held_out(text, tmp_path):
    local, corpus = tmp_path / "local text", tmp_path / "corpus"
    local.mkdir()
    shutil.copytree(ROOT / "examples" / "own-corpus", corpus)
    with open(corpus / "corpus.sh", "a") as file:
        file.write(f"{SETTINGS}join_share=0.5\ntexts=(${{texts[@]/1000/20}})\n")
    rows = [f"{en.strip()}\t{de.strip()}\n" for en, de in zip(*text["train"])]
    (local / "train.tsv.gz").write_bytes(gzip.compress("".join(rows).encode()))
    for side, language in enumerate(("en", "de")):
        (local / f"test.{language}.txt").write_text("".join(text["test"][side]), encoding="utf-8")
    run(SCRIPTS / "prepare.sh", corpus, "--from", local, "--out", tmp_path / "out")
    raw = tmp_path / "out" / "raw"
    assert read_lines(raw / "test.de") == [line.strip() for line in text["test"][1]]
    assert len(read_lines(raw / "valid.en")) == 20
    assert len(read_lines(raw / "train.en")) <= 880
    assert set(read_lines(raw / "train.en")) <= {line.strip() for line in text["train"][0]}
    counts = json.loads((tmp_path / "out" / "pieces" / "train.json").read_text())
    assert 300 < counts["joined"] < 550 and counts["kept"] < 880 - 0.4 * counts["joined"]
    assert (tmp_path / "out" / "data-bin" / "test.en-de.de.bin").exists()


@pytest.mark.parametrize(
    "command, message",
    [
        (("prepare.sh", "wmt14.de-en"), "error: corpus wmt14.de-en not found: use one of multi30k.en-de, multi30k"),
        (("train.sh", "multi30k.en-de", "--out", "{}/none"), "error: {}/none/data-bin not found: run scripts/prepare"),
        (
            ("train.sh", "multi30k.en-de", "--data", "{}/none"),
            "error: --data: {}/none/data-bin not found: run scripts/distill",
        ),
        (("evaluate.sh", "multi30k.en-de", "--out", "{}/none"), "error: no checkpoints found in {}/none/resmlp_small/"),
        (("evaluate.sh", "multi30k.en-de", "--against", "x"), "error: --against was renamed to --baseline"),
        (("prepare.sh", "multi30k.en-de", "--against", "x"), "error: unknown option --against"),
        (("prepare.sh", "multi30k.en-de", "--form", "x"), "error: unknown option --form"),
        (
            ("prepare.sh", "multi30k.en-de", "--from", "{}/none", "--out", "{}/out"),
            "error: --from {}/none: directory not found",
        ),
        (("prepare.sh", "multi30k.en-de", "--from"), "error: --from needs a value"),
        (
            ("prepare.sh", "multi30k.en-de", "--from", "{}/pieces", "--out", "{}/out"),
            "error: --from {}/pieces: found neither train.en and train.de, also with .txt or .gz, nor train.tsv, .csv,",
        ),
        (("ablate.sh", "multi30k.en-de", "{}/none.sh"), "error: table {}/none.sh not found"),
        (("ablate.sh", "multi30k.en-de"), "error: specify a table, such as {root}/examples/quality/comparison.sh"),
        (("ablate.sh", "multi30k.en-de", ROOT / "Makefile", "--seeds", "1, 2"), "error: --seeds 1, 2: specify"),
        (("ablate.sh", "multi30k.en-de", ROOT / "Makefile", "--seeds", "1,02"), "error: --seeds 1,02: specify"),
        (
            ("ablate.sh", "multi30k.en-de", ROOT / "Makefile", "--jobs", "two"),
            "error: --jobs two is not a positive integer",
        ),
        (
            ("distill.sh", "multi30k.en-de", "--out", "{}/none"),
            "error: {}/none/data-bin not found: run scripts/prepare",
        ),
        (("distill.sh", "multi30k.en-de", "--out", "{}"), "error: --teacher is required"),
        (
            ("distill.sh", "multi30k.en-de", "--out", "{}", "--teacher", "x.pt"),
            "error: --teacher x.pt: specify existing checkpoints",
        ),
        (("distill.sh", "multi30k.en-de", "resmlp_small"), "error: unexpected argument: resmlp_small"),
        (
            ("train.sh", "multi30k.en-de", "--out", "{}", "--", "--max-update", "900"),
            "error: --max-update 900 is not a multiple of --save-interval-updates 400: the last updates would not be ",
        ),
        (
            ("train.sh", "multi30k.en-de", "--out", "{}", "--", "--max-update", "4e3"),
            "error: --max-update 4e3 and --save-interval-updates 400 must be positive integers",
        ),
        (
            ("train.sh", "multi30k.en-de", "--out", "{}", "--", "--save-interval-updates", "0"),
            "error: --max-update 6000 and --save-interval-updates 0 must be positive integers",
        ),
        (
            ("train.sh", "multi30k.en-de", "--out", "{}", "--", "--teacher", "{}/none.pt"),
            "error: --teacher {}/none.pt: specify existing checkpoints",
        ),
    ],
)
def test_invalid_usage_ends_with_one_error_line(tmp_path, command, message):
    for name in ("data-bin", "pieces"):
        (tmp_path / name).mkdir()
    (tmp_path / "pieces" / "train.json").write_text("{}")
    done = run(SCRIPTS / command[0], *(str(part).format(tmp_path) for part in command[1:]), check=False)
    assert done.returncode != 0 and message.format(tmp_path, root=ROOT) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ["prepare.sh", "train.sh", "evaluate.sh", "reproduce.sh", "distill.sh", "ablate.sh"])
def test_help_shows_every_option_of_the_script(script):
    done = run(SCRIPTS / script, "--help")
    assert f"scripts/{script} CORPUS" in done.stdout and "#" not in done.stdout
    accepts = re.search(r"^accepts='(.*)'$", (SCRIPTS / script).read_text(), re.M)[1].split()
    usage = re.search(rf"scripts/{script} CORPUS.*", done.stdout)[0]
    for name in accepts:
        assert f"[{name} " in usage or f"{name}]" in usage or f" {name} " in usage, f"{name} is not in {usage}"
        described = {"--": "OPTION..."}.get(name, name)
        assert re.search(rf"^  .*{re.escape(described)}[, ]", done.stdout, re.M), f"{name} is not described"


def test_every_corpus_has_the_same_settings():
    names = None
    for file in sorted(ROOT.glob("examples/*/corpus.sh")):
        done = run("bash", "-euc", f'corpus_dir=x before=$(compgen -v); . {file}; compgen -v | grep -vxF "$before"')
        found = set(done.stdout.split()) - {"before", "corpus_dir", "address", "PIPESTATUS", "_"}
        assert names in (None, found), file
        names = found


@pytest.mark.parametrize("table", sorted(ROOT.glob("examples/quality/*.sh")), ids=lambda path: path.stem)
def test_every_row_of_a_table_is_accepted_by_fairseq(table):
    print_rows = "row() { taught '' \"$@\"; }; taught() { printf '%s\\0' \"${@:2}\" END; }"
    done = run("bash", "-euc", f"table={table}; {print_rows}; . $table")
    rows = [row.strip("\0").split("\0") for row in done.stdout.split("END\0")[:-1]]
    assert len({name for name, *_ in rows}) == len(rows) > 1
    for name, arch, *given in rows:
        assert re.fullmatch(r"[\w.-]+", name)
        parsed = options.parse_args_and_arch(
            options.get_training_parser(), ["data", "--arch", arch, "--optimizer", "adagrad", *given]
        )
        assert parsed.arch == arch


def losses(log):
    return [float(x) for x in re.findall(r"train_inner \| epoch .* loss=([\d.]+), nll_loss", log)]


@pytest.mark.slow
def test_the_number_of_processes_can_change_and_does_not_change_the_training(reproduced, archives, tmp_path):
    # An update consists of 4 batches, divided among the processes.
    corpus = copy_corpus(
        archives, tmp_path / "corpus", SETTINGS + "batch_tokens=1200\ndevice_tokens=300\nsave_updates=4"
    )
    logs, models = [], []
    for jobs in ([("1", 12)], [("4", 4), ("2", 8), ("4", 12)]):
        out = tmp_path / f"run{len(logs)}"
        out.mkdir()
        for part in ("data-bin", "pieces"):
            (out / part).symlink_to(reproduced[0] / part)
        for processes, updates in jobs:
            options = ["--processes", processes, "--", "--log-interval", "1", "--max-update", updates]
            done = run(SCRIPTS / "train.sh", corpus, "--out", out, *options)
            assert f"on {processes} CPU process(es) with 300 tokens" in done.stdout
        logs.append(losses((out / "resmlp_tiny" / "train.log").read_text()))
        last = out / "resmlp_tiny" / "checkpoints" / "checkpoint_last.pt"
        models.append(torch.load(last, weights_only=True)["model"])
    assert len(logs[0]) == 12
    assert logs[1] == pytest.approx(logs[0], abs=1e-3)
    for name, value in models[0].items():
        # Attention does not depend on the bias of the keys: its gradient is rounding error, which Adagrad amplifies.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(models[1][name], value, atol=1e-3, rtol=1e-3, msg=name)
    done = run(SCRIPTS / "train.sh", corpus, "--out", out, "--processes", "3", check=False)
    assert done.stderr.endswith(
        "divides an update into 4 batch(es), which 3 processes cannot share equally: continue with a number of "
        "processes that divides 4 (--processes)\n"
    )


def test_a_mistake_is_reported_once_by_several_processes(reproduced, corpus, tmp_path):
    for part in ("data-bin", "pieces"):
        (tmp_path / part).symlink_to(reproduced[0] / part)
    options = ["--out", tmp_path, "--processes", "2", "--", "--log-interval", "0"]
    done = run(SCRIPTS / "train.sh", corpus, *options, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and said.count("error: ") == 1 and said.count("--log-interval 0 is less than 1") == 1
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_table_is_trained_and_compared_row_by_row(reproduced, corpus, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(reproduced[0], out)
    table = tmp_path / "mixing.sh"
    rows = "baseline=linear\nrow linear resmlp_tiny\nrow none resmlp_tiny --token-mixing none\n"
    rows += "taught linear,none pupil-0.5 resmlp_tiny\n"
    command = [SCRIPTS / "ablate.sh", corpus, table, "--jobs", "2", "--seeds", "7", "--out", out]
    table.write_text("taught none pupil resmlp_tiny\nrow none resmlp_tiny\n")
    done = run(*command, check=False)
    assert done.stderr.endswith("row pupil is taught by none, which is not an earlier row\n")
    table.write_text("against=linear\nrow linear resmlp_tiny\n")
    done = run(*command, check=False)
    assert done.stderr == f"error: {table}: the variable against was renamed to baseline\n"
    table.write_text("row wrong resmlp_tiny --token-mixing all\ntaught wrong unlearned resmlp_tiny\n")
    done = run(*command, check=False)  # no row has scores
    assert "unlearned.7 failed: its teacher wrong.7 has not been trained" in done.stdout
    assert done.stderr.endswith(f"error: 2 of the runs failed: see {out}/mixing/failed\n")
    table.write_text(rows + "row wrong resmlp_tiny --token-mixing all\n")
    done = run(*command, "--", "--max-update", "10", check=False)
    assert done.returncode != 0 and "mixing/wrong.7 failed: " in done.stdout
    table.write_text(rows)
    before = {path: path.stat().st_mtime_ns for path in out.glob("mixing/*/*.pt")}
    done = run(*command, "--", "--max-update", "10")
    # Results of earlier runs with other options are kept, with the command of those runs.
    table.write_text(rows.replace("--token-mixing none", "--lr 9"))
    (out / "mixing" / "by-linear-none.7" / "settings").write_text("other teachers")
    changed = run(*command, "--", "--max-update", "10", check=False)
    for name in ("none.7", "by-linear-none.7"):
        assert (
            f"mixing/{name} failed: error: " in changed.stdout and "created with different settings" in changed.stdout
        )
    assert "== mixing/pupil-0.5.7" in done.stdout and "== mixing/pupil-0.5.7" not in changed.stdout
    assert len(before) == 3 and {path: path.stat().st_mtime_ns for path in before} == before
    linear, none, pupil = json.loads((out / "mixing" / "results.json").read_text())["rows"]
    commands = (out / "mixing" / "none.7" / "command").read_text().splitlines()
    assert none["runs"][0]["commands"] == commands
    expected = f"scripts/train.sh {corpus} resmlp_tiny --name mixing/none.7 --out {out} -- --token-mixing none"
    assert commands == [f"{expected} --max-update 10 --seed 7"]
    assert [run["seed"] for run in none["runs"]] == [7] and none["runs"][0]["updates"] == 10
    assert none["bleu"] - linear["bleu"] == pytest.approx(none["runs"][0]["difference"])
    assert none["parameters"] < linear["parameters"] and none["valid_perplexity"] > 1
    assert "| none | 1 |" in done.stdout
    assert f"\n{commands[0]}\n" in done.stdout
    distill, train = pupil["runs"][0]["commands"]
    assert distill.startswith(
        f"scripts/distill.sh {corpus} --into {out}/mixing/by-linear-none.7 --teacher {out}/mixing/linear.7/"
    )
    assert f" --data {out}/mixing/by-linear-none.7 -- --max-update 10 --seed 7" in train
    report = json.loads((out / "mixing" / "pupil-0.5.7" / "newstest2014-full" / "scores.json").read_text())
    assert report["metadata"]["train"]["distilled"]["pairs"] > 0
    # The pupil was trained on translations by its teachers instead of the references.
    taught = out / "mixing" / "by-linear-none.7" / "pieces" / "train.de"
    assert len(read_lines(taught)) == len(read_lines(out / "pieces" / "train.de"))
    assert str(taught.parent.parent / "data-bin") in (out / "mixing" / "pupil-0.5.7.log").read_text()


@pytest.mark.slow
def test_distillation_trains_on_the_translations_of_the_teacher(reproduced, corpus, tmp_path):
    out, teacher = tmp_path / "out", reproduced[0] / "resmlp_tiny" / "average2.pt"
    shutil.copytree(reproduced[0], out)
    limit = ("--max-len-b", "3")
    twice = run(SCRIPTS / "distill.sh", corpus, "--teacher", teacher, "--out", out, "--", "--nbest", "2", check=False)
    assert "several translations per sentence" in twice.stderr
    shutil.rmtree(out / "distilled")
    # The longest sentences are excluded on both sides.
    longest = sorted(len(line.split()) for line in read_lines(out / "pieces" / "train.en"))[-3]
    skip = ("--max-source-positions", longest)
    run(SCRIPTS / "distill.sh", corpus, "--teacher", teacher, "--out", out, "--", *limit, *skip)
    run(SCRIPTS / "train.sh", corpus, "--out", out / "distilled")
    assert (out / "distilled" / "resmlp_tiny" / "checkpoints" / "checkpoint_last.pt").exists()
    kept = [line for line in read_lines(out / "pieces" / "train.en") if len(line.split()) < longest]
    assert read_lines(out / "distilled" / "pieces" / "train.en") == kept
    assert json.loads((out / "distilled" / "pieces" / "train.json").read_text())["distilled"]["pairs"] == len(kept)
    translated = read_lines(out / "distilled" / "pieces" / "train.de")
    assert 0 < max(len(line.split()) for line in translated) <= 3
    # The training targets are the teacher's translations, line by line. The validation set is unchanged.
    expected = run(
        *("fairseq-interactive", out / "data-bin", "--user-dir", PLUGIN, "--path", teacher),
        *("--beam", "4", "--lenpen", "0.6", "--cpu", *limit),
        stdin="\n".join(kept[:5]) + "\n",
    )
    assert re.findall(r"^H-\d+\t\S+\t(.*)$", expected.stdout, re.M) == translated[:5]
    for part in ("pieces/valid.de", "data-bin/dict.de.txt", "data-bin/valid.en-de.de.bin"):
        assert (out / "distilled" / part).read_bytes() == (out / part).read_bytes()


@pytest.mark.slow
def test_seeds_are_averaged_and_compared_seed_by_seed(tmp_path):
    def make_run(name, seed, words):
        """Write a run directory; every second translation is cut to its first `words` words."""
        directory = tmp_path / f"{name}.{seed}" / "test"
        directory.mkdir(parents=True)
        reference = [f"one two three four five {i}" for i in range(20)]
        lines = [" ".join(line.split()[:words]) if i % 2 else line for i, line in enumerate(reference)]
        for file, content in (("hyp", lines), ("ref", reference)):
            (directory / file).write_text("\n".join(content) + "\n")
        score = {"name": "sacreBLEU", "value": 10.0 * seed + words, "signature": "s"}
        report = {
            "scores": [score, {**score, "name": "chrF2"}],
            "target_lang": "de",
            "metadata": {"corpus": "c", "test": "test", "valid_perplexity": "7.5"},
            "checkpoint": {"parameters": 1_000_000, "updates": 9, "training_seconds": 60.0 * seed},
            **{
                kind: {
                    "file": str(directory / file),
                    "sha256": hashlib.sha256((directory / file).read_bytes()).hexdigest(),
                }
                for kind, file in (("hypotheses", "hyp"), ("reference", "ref"))
            },
        }
        (directory / "scores.json").write_text(json.dumps(report))
        (directory.parent / "command").write_text(f"scripts/train.sh c resmlp_tiny --name {directory.parent.name}\n")
        # after 1200 updates 16 and 36 for short, 14 and 34 for whole (seeds 1 and 2)
        perplexities = {400: 90.0, 800: 30.0, 1200: 20.0 * seed - words}
        perplexities[1600] = perplexities[1200] - 1
        log = "| epoch 001 | valid on 'valid' subset | loss 4 | ppl {} | num_updates {}\n"
        (directory.parent / "train.log").write_text("".join(log.format(y, x) for x, y in perplexities.items()))

    for seed in (1, 2):
        make_run("short", seed, words=4)
        make_run("whole", seed, words=6)
    make_run("short-1.5", 1, words=6)  # a run of another row, and a directory that is not a run
    (tmp_path / "short.1.bak").mkdir()
    rows = ("--rows", "short", "whole", "not-yet")
    command = ("python", SCRIPTS / "compare_runs.py", tmp_path, "--test", "test", *rows, "--baseline")
    wrong = run(*command, "shrot", check=False)
    assert wrong.stderr == "error: --baseline shrot is not one of the rows: short, whole, not-yet\n"
    done = run(*command, "short")
    short, whole = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (whole["bleu"], whole["bleu_deviation"], whole["seconds"]) == (21.0, pytest.approx(50**0.5), 90.0)
    assert [run["p"] < 0.05 for run in whole["runs"]] == [True, True] and whole["runs"][0]["difference"] > 0
    assert "difference" not in short["runs"][0]
    # short ends at 15 and 35; whole reaches 14 after 1200 updates, and with seed 2, 30 after 800.
    assert [run["level_after"] for run in whole["runs"]] == [1200, 800]
    one, two = whole["runs"]
    mean = f"{(one['difference'] + two['difference']) / 2:+.1f} ({one['p']:.3f}, {two['p']:.3f})"
    assert f"\n| whole | 2 | 21.0 ± 7.1 | {mean} | 1,200; 800 | 7.50 ± 0.00 | " in done.stdout
    assert re.search(r"^\| short \| 2 \| 19.0 ± 7.1 \| -.* \| never; 800 \|", run(*command, "whole").stdout, re.M)
    assert "scripts/train.sh c resmlp_tiny --name whole.1\n" in done.stdout

    # Seed 1 of whole is only in earlier.json: first while seed 1 of short is still in the directory, then without it.
    earlier = tmp_path / "earlier.json"
    run(*command, "short")
    shutil.copy(tmp_path / "results.json", earlier)
    (tmp_path / "whole.1").rename(tmp_path / "elsewhere")
    apart = run(*command, "short", "--earlier", earlier)
    apart_mean = f"{(2.0 + two['difference']) / 2:+.1f} (–, {two['p']:.3f})"  # scores 16.0 and 14.0 in the JSON
    assert f"\n| whole | 2 | 21.0 ± 7.1 | {apart_mean} | 1,200; 800 | " in apart.stdout
    assert "–: no paired test, because the translations were not kept" in " ".join(apart.stdout.split())
    (tmp_path / "short.1").rename(tmp_path / "elsewhere.2")
    done = run(*command, "short", "--earlier", earlier)
    assert f"\n| whole | 2 | 21.0 ± 7.1 | {mean} | 1,200; 800 | 7.50 ± 0.00 | " in done.stdout
    for name, moved in (("whole.1", "elsewhere"), ("short.1", "elsewhere.2")):
        (tmp_path / moved).rename(tmp_path / name)

    (tmp_path / "whole.2" / "test" / "hyp").write_text("another translation\n" * 20)
    wrong = run(*command, "short", check=False)
    assert wrong.stderr == f"error: {tmp_path}/whole.2/test/hyp has changed since it was scored; " + (
        "run scripts/ablate.sh to score it again\n"
    )
    wrong = run(*command[:4], "another", *command[5:], "short", check=False)
    assert wrong.stderr == f"error: no scores on another found in {tmp_path}; run scripts/ablate.sh first\n"


def test_bleu_is_reported_by_source_length(tmp_path):
    words = ["king", "dog", "old", "small", "the", "sees"]
    for language in ("en", "de"):
        lines = [" ".join((words * 2)[i % 6 : i % 6 + 2 + i % 5]) for i in range(120)]
        (tmp_path / f"text.{language}").write_text("".join(f"{line}\n" for line in lines))
    models = (f"one={GOLDEN / 'model.pt'}", f"other={GOLDEN / 'model.pt'}")
    text = (f"short={tmp_path / 'text'}", f"joined={tmp_path / 'text'}*2")
    command = ("python", SCRIPTS / "bleu_by_length.py", "--models", *models, "--data", GOLDEN, "--text", *text)
    files = ("--spm", GOLDEN / "sentencepiece.bpe.model", "--out", tmp_path / "lengths.json")
    wrong = run(*command, "more", *files, check=False)
    assert wrong.returncode == 2 and "'more' does not have the form NAME=VALUE" in wrong.stderr
    wrong = run(*command, f"more={tmp_path / 'absent'}", *files, check=False)
    assert wrong.stderr.endswith(f"--text: {tmp_path / 'absent'}.en not found\n")
    for language, count in (("en", 3), ("de", 2)):
        (tmp_path / f"odd.{language}").write_text("a b\n" * count)
    wrong = run(*command, f"more={tmp_path / 'odd'}", *files, check=False)
    assert "odd.en has 3 lines and" in wrong.stderr and "Traceback" not in wrong.stderr
    done = run(*command, *files, "--edges", "3,4,9", "--longest", "8", "--lines", "30")
    assert "joined, 1 to 3 words: skipped, only 0 lines\n" in done.stdout
    rows = json.loads((tmp_path / "lengths.json").read_text())["rows"]
    # At most 30 lines from each group: 48, 24 and 48 lines, and 36 pairs of lines
    expected = [("short", "1 to 3", 30), ("short", "4 to 4", 24), ("short", "5 to 8", 30), ("joined", "5 to 8", 30)]
    assert [(row["text"], row["words"], row["lines"]) for row in rows] == expected
    assert all(row["bleu"]["one"] == row["bleu"]["other"] for row in rows)
    sources, references = ([x for x in read_lines(tmp_path / f"text.{y}") if len(x.split()) == 4] for y in ("en", "de"))
    translations = ResMLPModel.from_pretrained(GOLDEN).translate(sources, beam=4)
    expected = sacrebleu.corpus_bleu(translations, [references])
    assert rows[1]["bleu"]["one"] == pytest.approx(expected.score)
    assert rows[1]["length"]["one"] == pytest.approx(expected.sys_len / expected.ref_len)


# Files whose appearance triggers the kill, step by step
MOMENTS = (
    "downloads/training-parallel-commoncrawl.tgz",
    "raw.part",
    "raw",
    "spm.model",
    "pieces.part/train.json",
    "data-bin.part/train.en-de.en.bin",
    "data-bin",
    "resmlp_tiny/checkpoints/checkpoint_1_10.pt*",
    "resmlp_tiny/checkpoints/checkpoint_last.pt*",
    "resmlp_tiny/checkpoints/checkpoint_*_20.pt",
    "resmlp_tiny/average2.pt*",
    "resmlp_tiny/newstest2014-full.part",
    "resmlp_tiny/newstest2014-full/scores.json",
)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_result_when_run_again(reproduced, archives, corpus):
    out = archives.parent / "killed"
    with mirror(archives) as server:
        command = [SCRIPTS / "reproduce.sh", corpus, "--mirror", server.url, "--out", out, "--", "--log-interval", "5"]
        for moment in MOMENTS:
            process = subprocess.Popen(
                list(map(str, command)), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while not list(out.glob(moment)):
                assert process.poll() is None, f"reproduce.sh ended before it wrote {moment}"
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        run(*command)
    for name in ("newstest2014-full", "newstest2014-filtered"):
        results = [place / "resmlp_tiny" / name for place in (out, reproduced[0])]
        assert read_lines(results[0] / "translation.de") == read_lines(results[1] / "translation.de")
        scores = [json.loads((result / "scores.json").read_text())["scores"] for result in results]
        assert scores[0] == scores[1]
    models = [
        torch.load(place / "resmlp_tiny" / "average2.pt", weights_only=True)["model"] for place in (out, reproduced[0])
    ]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


DATA = ROOT.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs Europarl and newstest2013 in ../shared/data")
def test_real_text_of_wmt14_is_processed_end_to_end(tmp_path):
    def pair(path):
        return [[f"{line}\n" for line in read_lines(path.with_name(f"{path.name}.{x}"))] for x in ("en", "de")]

    train, news = pair(DATA / "europarl20k.en-de" / "train"), pair(DATA / "newstest2013" / "en-de")
    build_archives(
        tmp_path / "archives",
        train=[side[:19998] for side in train],
        valid=[side[200:] for side in news],
        test=[side[:200] for side in news],
    )
    corpus = copy_corpus(tmp_path / "archives", tmp_path / "corpus", SETTINGS + "vocab_size=8000 batch_tokens=2000\n")
    with mirror(tmp_path / "archives") as server:
        run(SCRIPTS / "reproduce.sh", corpus, "--mirror", server.url, "--out", tmp_path / "run")
    report = json.loads((tmp_path / "run" / "pieces" / "train.json").read_text())
    assert report["kept"] + sum(report["dropped"].values()) == 19998
    assert len(read_lines(tmp_path / "run" / "raw" / "valid.de")) == 2800
    for name, lines in (("newstest2014-full", 200), ("newstest2014-filtered", 195)):
        results = tmp_path / "run" / "resmlp_tiny" / name
        assert len(read_lines(results / "translation.de")) == lines
        assert json.loads((results / "scores.json").read_text())["lines"] == lines
