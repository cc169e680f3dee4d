"""The shell scripts, whatever the caller has exported, and whatever paths and names it passes.

Stand-ins for the Python commands write the files that the scripts expect, so that only the scripts are tested.
"""

import os
import re
import shutil
import subprocess

import pytest

from support.commands import run
from support.paths import ROOT

# Every stand-in is this script. It writes to the paths in its options, and one line about itself to commands.log.
STAND_IN = r"""#!/usr/bin/env -S bash -p
option() { # option NAME: print its value
    while [ $# -gt 1 ] && [ "$1" != -- ]; do shift; done
    local name=$2; shift 2
    while [ $# -gt 1 ]; do [ "$1" != "$name" ] || printf %s "$2"; shift; done
}
get() { option -- "$1" "${arguments[@]}"; }
name=${0##*/}
arguments=("$@")
case "$name ${1-}" in
    "python -c") [[ $2 != *device_count* ]] || echo 0 ;;
    "fairseq-resmlp download") mkdir -p "$(get --to)" ;;
    "fairseq-resmlp extract")
        mkdir -p "$(get --out-dir)"
        while [ "$2" != --languages ]; do
            for language in en de; do echo "a line" > "$(get --out-dir)/$2.$language"; done
            shift 3
        done ;;
    "fairseq-resmlp spm-train") echo model > "$(get --model)" ;;
    "fairseq-resmlp spm-encode")
        shift
        for file; do [ "$file" != --model ] || break; cp "$file" "$(get --out-dir)"; done
        [[ " $* " != *" --report "* ]] || echo '{}' > "$(get --report)" ;;
    "fairseq-resmlp average") echo average > "$(get --output)" ;;
    "fairseq-resmlp score") echo '{}' > "$(get --json)"; echo "sacreBLEU 1.0" ;;
    fairseq-preprocess*) mkdir -p "$(get --destdir)"; echo dict > "$(get --destdir)/dict.en.txt" ;;
    fairseq-train*)
        mkdir -p "$(get --save-dir)"
        echo $PYTHONUTF8 > "$(get --save-dir)/checkpoint_1_10.pt"
        echo 2 > "$(get --save-dir)/checkpoint_2_20.pt" ;;
    fairseq-validate*) echo "epoch 001 | valid on 'valid' subset | loss 4 | ppl 2.5 | wps 1" ;;
    fairseq-generate*) mkdir -p "$(get --results-path)"; subset=$(get --gen-subset)
        printf 'S-%s\ta\nH-%s\t-1.5\tb%s\n' 1 1 1 0 0 0 > "$(get --results-path)/generate-$subset.txt" ;;
esac
"""
COMMANDS = (
    "python",
    "fairseq-resmlp",
    *(f"fairseq-{name}" for name in ("preprocess", "train", "validate", "generate")),
)
SETTINGS = (ROOT / "examples" / "multi30k.en-de" / "corpus.sh").read_text()


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Directory of the stand-ins."""
    directory = tmp_path_factory.mktemp("stand-ins")
    for name in COMMANDS:
        (directory / name).write_text(STAND_IN)
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Directory of local text for --from."""
    directory = tmp_path_factory.mktemp("source")
    for name in ("train.en", "train.de", "valid.en", "valid.de", "test2016.en", "test2016.de"):
        (directory / name).write_text("a line\n")
    return directory


@pytest.fixture
def script(stand_ins, tmp_path):
    """Function that runs a script with the stand-ins. Returns the finished process."""

    def run_script(name, *arguments, env=None, shell=(), cwd=tmp_path, path=None):
        words = [*shell, f"{ROOT}/scripts/{name}" if cwd == tmp_path else f"scripts/{name}", *map(str, arguments)]
        environment = {"HOME": str(tmp_path), "PATH": f"{stand_ins}:{path or os.environ['PATH']}", **(env or {})}
        return subprocess.run(
            words, cwd=cwd, env=environment, capture_output=True, timeout=60, stdin=subprocess.DEVNULL
        )

    return run_script


def content(directory):
    """Return the files below a directory and their content, with its own path replaced.

    The warnings about the locale are those of the stand-ins, which are Bash scripts.
    """
    here = str(directory).encode()
    return {
        str(file.relative_to(directory)): re.sub(rb"bash: warning: .*\n", b"", file.read_bytes().replace(here, b"DIR"))
        for file in directory.rglob("*")
        if file.is_file()
    }


def error_line(done):
    """Return the only line on standard error."""
    assert done.returncode != 0
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def expected(stand_ins, source, tmp_path_factory):
    """What reproduce.sh writes in an ordinary environment."""
    out = tmp_path_factory.mktemp("expected") / "out"
    command = [ROOT / "scripts" / "reproduce.sh", "multi30k.en-de", "--from", source, "--out", out]
    environment = {"PATH": f"{stand_ins}:{os.environ['PATH']}"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    files = content(out)
    assert files["resmlp_small/test2016/translation.de"] == b"b0\nb1\n"
    assert files["resmlp_small/checkpoints/checkpoint_1_10.pt"] == b"1\n"
    assert "resmlp_small/test2016/scores.json" in files and "resmlp_small/valid.txt" in files
    return files


ENVIRONMENTS = {
    "CDPATH with .": {"CDPATH": ".:/tmp"},
    "CDPATH without .": {"CDPATH": "/usr:/"},
    "a cd that prints": {"BASH_FUNC_cd%%": '() { builtin cd "$@" && ls; }'},
    "functions": {f"BASH_FUNC_{x}%%": "() { echo unexpected; }" for x in ("grep", "sort", "mv", "printf", "realpath")},
    "GREP_OPTIONS": {"GREP_OPTIONS": "--color=always -v", "GREP_COLORS": "mt=01;31"},
    "POSIXLY_CORRECT": {"POSIXLY_CORRECT": "1"},
    "BASH_ENV": {"BASH_ENV": "{file}"},
    "IFS": {"IFS": ",/a"},
    "noclobber": {"SHELLOPTS": "braceexpand:hashall:interactive-comments:noclobber"},
    "noglob and nounset": {"SHELLOPTS": "braceexpand:hashall:interactive-comments:noglob:nounset"},
    "no brace expansion": {"SHELLOPTS": "hashall:interactive-comments:posix"},
    "BASHOPTS": {"BASHOPTS": "failglob:nocasematch:nocaseglob:dotglob:lastpipe:xpg_echo"},
    "BASH_COMPAT": {"BASH_COMPAT": "31"},
    "GLOBIGNORE": {"GLOBIGNORE": "*"},
    "TMOUT": {"TMOUT": "1"},
    "locale that does not exist": {"LC_ALL": "xx_YY.UTF-8"},
    "POSIX locale": {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
    "Python": {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "ascii", "PYTHONINSPECT": "1", "PYTHONUTF8": "0"},
    "names of the settings": dict.fromkeys(
        ("source", "target", "files", "texts", "beam", "lr", "arch", "options", "updates", "devices", "update_freq"),
        "1",
    ),
    "names of the options": dict.fromkeys(("corpus", "second", "name", "from", "out", "data", "into", "mirror"), "x"),
    "other names": dict.fromkeys(
        ("root", "model", "plugin", "accepts", "split", "test", "number", "results", "mean", "raw", "filter", "value"),
        "x",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_exported_variables_change_nothing(script, source, expected, tmp_path, environment, record_promise):
    (tmp_path / "file").write_text("set -o noclobber; shopt -s failglob; cd() { builtin cd /; }; CDPATH=/:/usr\n")
    environment = {name: value.replace("{file}", str(tmp_path / "file")) for name, value in environment.items()}
    arguments = ("multi30k.en-de", "--from", source, "--out", tmp_path / "out")
    done = script("reproduce.sh", *arguments, env=environment, shell=["bash"], cwd=ROOT)  # without the -p of line 1
    assert done.returncode == 0, done.stderr
    assert b"unexpected" not in done.stdout
    assert content(tmp_path / "out") == expected
    record_promise("Exported variables and functions do not change what the scripts do", f"{len(ENVIRONMENTS)} kinds")


def test_many_exported_variables_together_change_nothing(script, source, expected, tmp_path):
    environment = {
        name: value
        for kind, variables in ENVIRONMENTS.items()
        if kind not in ("BASH_ENV", "no brace expansion")
        for name, value in variables.items()
    }
    arguments = ("multi30k.en-de", "--from", source, "--out", tmp_path / "out")
    done = script("reproduce.sh", *arguments, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out") == expected


# Paths and names

ACCEPTED = ["-x", "--out", "a 'b\"c", "\\$HOME`x`", "*[a]?é", "~", "#;&|=%s"]
REFUSED = ["a,b", "a:b", "a\nb", "a\tb", "${x}", "a\x1bb"]


def first_only_fast(values, count=2):
    """Return the values for parametrization; those after the first few are slow tests."""
    return [*values[:count], *(pytest.param(value, marks=pytest.mark.slow) for value in values[count:])]


@pytest.mark.slow
@pytest.mark.parametrize("value", ACCEPTED)
def test_unusual_directories_work(script, source, expected, tmp_path, value, record_promise):
    shutil.copytree(source, tmp_path / "from" / value)
    done = script("reproduce.sh", "multi30k.en-de", "--from", tmp_path / "from" / value, "--out", value)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / value).keys() == expected.keys()
    figure = f"{len(ACCEPTED)} and {len(REFUSED)} paths"
    record_promise("Paths with unusual characters work, or are refused before anything is written", figure)


@pytest.mark.parametrize("value", first_only_fast(REFUSED))
@pytest.mark.parametrize("name, option", [("prepare.sh", "--out"), ("train.sh", "--name"), ("distill.sh", "--into")])
def test_directories_that_fairseq_would_misread_are_refused_at_once(script, tmp_path, name, option, value):
    line = error_line(script(name, "multi30k.en-de", option, value))
    assert option in line and "choose a path without commas, colons" in line
    assert list(tmp_path.iterdir()) == []


RESERVED = ["raw", "data-bin", "pieces/x", "downloads", "spm.model", "..", "a/../b", "x.part", "-x", "."]


@pytest.mark.parametrize("name", first_only_fast(RESERVED))
def test_a_model_cannot_have_the_name_of_other_files_of_a_run(script, tmp_path, name):
    assert f"--name {name}" in error_line(script("train.sh", "multi30k.en-de", "--name", name))
    assert list(tmp_path.iterdir()) == []


def write_corpus(directory, test="test2016", **settings):
    directory.mkdir()
    text = SETTINGS.replace("    test2016 ", f"    {test} ") + "".join(f"{x}={y}\n" for x, y in settings.items())
    (directory / "corpus.sh").write_text(text)
    return directory


COLLISIONS = [
    *("checkpoints", "tensorboard", "settings", "train.log", "train.json", "valid.txt", "average5.pt", "command"),
    *("a/b", "..", ".lock", "a.part", "'a b'", "a,b", "a:b", "'*'", "-x", "''", r"'a\b'", "'[a]'", "$'a\\nb'"),
]


@pytest.mark.parametrize("test", first_only_fast(COLLISIONS))
def test_splits_that_collide_with_files_of_a_run_are_refused(script, tmp_path, test, record_promise):
    corpus = write_corpus(tmp_path / "corpus", test)
    assert "corpus.sh: split " in error_line(script("prepare.sh", corpus, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    record_promise("A split that has the name of another file of a run is refused", f"{len(COLLISIONS)} names")


@pytest.mark.parametrize("settings", [{"source": "json"}, {"target": "en"}, {"source": "'a b'"}, {"target": "../de"}])
def test_languages_that_collide_with_other_files_are_refused(script, tmp_path, settings):
    line = error_line(script("prepare.sh", write_corpus(tmp_path / "corpus", **settings)))
    assert "is not a language code" in line or "source and target are both en" in line


def test_a_setting_or_a_value_that_is_missing_is_named(script, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "corpus.sh").write_text("source=en target=de\n")
    assert "corpus.sh does not set texts: copy it" in error_line(script("prepare.sh", corpus))
    assert error_line(script("prepare.sh", corpus, "--out", "")) == "error: --out needs a value"


# Directories of the user


def test_only_results_of_the_script_itself_are_replaced(script, source, tmp_path):
    arguments = ("multi30k.en-de", "--out", tmp_path / "out")
    results = tmp_path / "out" / "resmlp_small" / "test2016"
    assert script("reproduce.sh", *arguments, "--from", source).returncode == 0
    shutil.move(results, tmp_path / "results")
    results.mkdir()
    (results / "thesis.tex").write_text("work of a year")
    for _ in range(2):
        assert "test2016 was not written by this script: move it" in error_line(script("evaluate.sh", *arguments))
    assert (results / "thesis.tex").read_text() == "work of a year"
    # The user has added a file to results of the script, which are then replaced.
    shutil.copytree(tmp_path / "results", results, dirs_exist_ok=True)
    line = error_line(script("evaluate.sh", *arguments, "--", "--beam", "1"))
    assert "also contains other files" in line
    assert (results / "thesis.tex").exists()
    (results / "thesis.tex").unlink()
    assert b"replacing it" in script("evaluate.sh", *arguments, "--", "--beam", "1").stdout
    assert "--beam 1" in (results / "made_by").read_text()


@pytest.mark.parametrize("name", first_only_fast(["raw.part", "pieces.part", "data-bin.part"], 1))
def test_only_unfinished_output_of_the_scripts_is_removed(script, source, tmp_path, name):
    arguments = ("multi30k.en-de", "--out", tmp_path / "out", "--from", source)
    part = tmp_path / "out" / name
    part.mkdir(parents=True)
    (part / "mine").touch()
    assert f"{name} was not left by an interrupted run: move it" in error_line(script("prepare.sh", *arguments))
    assert (part / "mine").exists()
    (part / ".fairseq-resmlp").touch()  # as in what the script leaves
    assert script("prepare.sh", *arguments).returncode == 0
    assert not part.exists() and not (part.with_suffix("") / "mine").exists()


# Locks


@pytest.fixture(scope="module")
def no_flock(tmp_path_factory):
    """Directory of all commands except flock."""
    directory = tmp_path_factory.mktemp("no-flock")
    found = {}
    for path in os.environ["PATH"].split(":"):
        found.update({file.name: file.path for file in os.scandir(path)} | found if os.path.isdir(path) else {})
    for name, path in found.items():
        if name != "flock":
            (directory / name).symlink_to(path)
    return directory


@pytest.mark.parametrize(
    "flock, message",
    [
        (None, "error: flock not found: install util-linux"),
        ("exit 1", "error: another run is using "),
        ("exit 71", "warning: the file system of "),
    ],
)
def test_a_missing_lock_is_told_apart_from_a_second_run(script, source, no_flock, tmp_path, flock, message):
    (tmp_path / "commands").mkdir()
    if flock:
        (tmp_path / "commands" / "flock").write_text(f"#!/bin/sh\n{flock}\n")
        (tmp_path / "commands" / "flock").chmod(0o755)
    path = f"{tmp_path}/commands:{no_flock}"
    done = script("prepare.sh", "multi30k.en-de", "--from", source, "--out", "out", path=path)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith(message)
    assert (done.returncode == 0) == message.startswith("warning")


@pytest.mark.parametrize("kind", ["directory", "FIFO", "link"])
def test_a_lock_that_is_no_file_does_not_hang_and_is_not_emptied(script, source, tmp_path, kind):
    (tmp_path / "out").mkdir()
    lock, other = tmp_path / "out" / ".lock", tmp_path / "other"
    other.write_text("content")
    {"directory": lock.mkdir, "FIFO": lambda: os.mkfifo(lock), "link": lambda: lock.symlink_to(other)}[kind]()
    done = script("prepare.sh", "multi30k.en-de", "--from", source, "--out", tmp_path / "out")
    assert (done.returncode == 0) == (kind == "link")
    assert kind == "link" or ".lock is not a file: remove it" in error_line(done)
    assert other.read_text() == "content"


# Environments of other programs


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0"}])
def test_a_world_size_without_torchrun_is_refused(script, tmp_path, variables):
    (tmp_path / "out" / "data-bin").mkdir(parents=True)
    line = error_line(script("train.sh", "multi30k.en-de", "--out", tmp_path / "out", env=variables))
    assert "RANK and LOCAL_RANK are not set as by torchrun: unset WORLD_SIZE" in line


def test_the_password_of_a_mirror_is_not_printed(script, tmp_path):
    done = script("prepare.sh", "multi30k.en-de", "--mirror", "https://me:secret@host/x", "--out", tmp_path / "out")
    assert b"--mirror https://***@host/x" in done.stdout.replace(b"\\*", b"*")
    assert b"secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("before", ["", "error", "error,ignore:`torch.jit.script` is deprecated"])
def test_the_filter_of_warnings_is_added_once(before):
    filter = "ignore:`torch.jit.script` is deprecated"
    expected = before if filter in before else ",".join(filter_ for filter_ in (before, filter) if filter_)
    shown = 'printf %s "$PYTHONWARNINGS"'
    makefile = (
        f"include Makefile\nshown:\n\t@{shown.replace('$', '$$')}\nagain:\n\t@$(MAKE) -s -f - shown < /dev/fd/3\n"
    )
    for command, stdin in (
        (["bash", "-pc", f". scripts/environment.sh; {shown}"], ""),
        (["make", "-s", "-f", "-", "PYTHON=python", "shown"], makefile),
    ):
        environment = {**os.environ, "PYTHONWARNINGS": before}
        for _ in range(2):  # also if the caller has added it
            done = subprocess.run(command, cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True)
            assert done.stdout == expected, done.stderr
            environment["PYTHONWARNINGS"] = done.stdout


@pytest.mark.slow
def test_a_real_run_in_a_directory_with_unusual_characters_and_an_ascii_locale(tmp_path):
    run(
        "python",
        ROOT / "examples" / "grammar" / "make_corpus.py",
        tmp_path / "text",
        "--train",
        400,
        "--valid",
        10,
        "--test",
        10,
    )
    for language in ("en", "de"):
        os.rename(tmp_path / "text" / f"test.{language}", tmp_path / "text" / f"test2016.{language}")
    corpus = write_corpus(
        tmp_path / "c o'r,p:üs",
        default_arch="resmlp_tiny",
        **{"vocab_size": 300, "batch_tokens": 800, "device_tokens": 800, "updates": 4, "save_updates": 2, "average": 2},
    )
    out = "-o 'ü\"[x]*$HOME`;&|<>(){}%@=~!\\#"
    arguments = (corpus, "--from", tmp_path / "text", "--out", out)
    environment = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run(ROOT / "scripts" / "prepare.sh", *arguments, cwd=tmp_path, env=environment)
    run(ROOT / "scripts" / "reproduce.sh", *arguments, cwd=tmp_path)  # in forks, which costs less
    assert (tmp_path / out / "resmlp_tiny" / "test2016" / "scores.json").exists()
