"""All patches together."""

import json
import shutil
import sys

import pytest
from fairseq import options
from fairseq.data import data_utils

from fairseq_resmlp.fairseq_patches.apply import apply_patches
from support.commands import run, train_options
from support.paths import PLUGIN


def test_applying_the_patches_twice_changes_nothing():
    before = (data_utils.batch_by_size, options.parse_args_and_arch, sys.excepthook)
    apply_patches()
    assert before == (data_utils.batch_by_size, options.parse_args_and_arch, sys.excepthook)


# Prints the functions that patches have replaced, and those that a part of fairseq still calls unpatched.
BYPASSED = """
import importlib, inspect, sys

commands = "eval_lm generate hydra_train hydra_validate interactive preprocess score train validate"
names = [f"fairseq_cli.{command}" for command in commands.split()]
for name in ["fairseq_resmlp.model.registration", *names][:: 1 if sys.argv[1] == "first" else -1]:
    importlib.import_module(name)

places = {}
for module in [m for name, m in sys.modules.items() if name.split(".")[0] in ("fairseq", "fairseq_cli")]:
    for name, value in list(vars(module).items()):
        places[module.__name__, name] = value
        if inspect.isclass(value):
            places |= {(value.__module__, value.__qualname__, key): entry for key, entry in vars(value).items()}
places = {place: getattr(value, "__func__", value) for place, value in places.items()}
originals = {}
for value in places.values():
    while getattr(value, "__globals__", {}).get("__name__", "").startswith("fairseq_resmlp.fairseq_patches."):
        value = getattr(value, "__wrapped__", None)
        if value is not None:
            originals[id(value)] = value.__qualname__
print("patched:", *sorted(set(originals.values())))
print("bypassed:", *sorted(".".join(place) for place, value in places.items() if id(value) in originals))
"""


@pytest.mark.parametrize("order", [pytest.param("first", marks=pytest.mark.slow), "last"])
def test_no_command_of_fairseq_bypasses_a_patch(tmp_path, order, record_promise):
    """A command that imports a function by name keeps the original if it is imported before the plugin."""
    (tmp_path / "bypassed.py").write_text(BYPASSED)
    patched, bypassed = run("python", tmp_path / "bypassed.py", order).stdout.splitlines()[-2:]
    assert bypassed == "bypassed:"
    names = patched.split()[1:]
    assert {"save_checkpoint", "add_defaults", "Trainer.train_step", "get_valid_stats", "batch_by_size"} <= set(names)
    record_promise(
        "No command of fairseq bypasses a patch, whether it or the plugin is imported first",
        f"{len(names)} functions of fairseq",
    )


# Runs fairseq's commands in one process: `python twice.py ORDER FILE`, with a list of commands in FILE.
TWICE = """
import contextlib, importlib, io, json, sys

order, file = sys.argv[1:]
commands = json.load(open(file))
if order == "first":
    import fairseq_resmlp.model.registration
programs = [importlib.import_module(f"fairseq_cli.{name}") for name, *_ in commands]
for program, (name, *options) in zip(programs, commands):
    sys.argv, output = [name, *options], io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(output):
        program.cli_main()
    output.seek(0)
    print("output:", json.dumps([line for line in output.read().split("\\n") if line[1:2] == "-"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["first", "last"])
def test_commands_that_are_run_twice_in_a_process_give_the_same_result(trained, tmp_path, order, record_promise):
    translate = ["--path", str(trained / "checkpoints" / "checkpoint_best.pt"), "--cpu", "--user-dir", str(PLUGIN)]
    data = str(trained / "data-bin")
    for language in ("src", "tgt"):  # --replace-unk needs raw text
        shutil.copy(trained / f"test.{language}", trained / "data-bin" / f"test.src-tgt.{language}")
    alignment = ["--print-alignment", "hard", "--dataset-impl", "raw"]
    different = [
        ["generate", data, *translate],
        [
            "generate",
            data,
            *translate,
            "--diverse-beam-groups",
            "5",
            "--diverse-beam-strength",
            "5",
            "--batch-size",
            "8",
        ],
        ["generate", data, *translate, "--replace-unk", "", *alignment, "--unkpen", "-50", "--max-len-b", "4"],
        [
            "generate",
            data,
            *translate,
            "--sampling",
            "--nbest",
            "5",
            "--seed",
            "3",
            "--required-batch-size-multiple",
            "1",
        ],
        ["generate", data, *translate, "--score-reference", "--batch-size", "5"],
        ["generate", data, *translate, "--num-shards", "2", "--shard-id", "1"],
        ["validate", data, *translate, "--task", "translation", "--max-tokens", "400"],
    ]
    (tmp_path / "twice.py").write_text(TWICE)
    (tmp_path / "commands").write_text(json.dumps(different * 2))
    done = run("python", tmp_path / "twice.py", order, tmp_path / "commands", cwd=tmp_path)
    output = [line for line in done.stdout.splitlines() if line.startswith("output: ")]
    count = len(different)
    assert len(output) == 2 * count
    assert output[:count] == output[count:]
    assert len(set(output[:4])) == 4 and "H-20" in output[0]
    record_promise("fairseq's commands give the same result when run twice in a process", f"{count} commands, 2 orders")


def test_training_and_generation_print_no_warnings(trained, tmp_path):
    command = ("fairseq-train", *train_options(trained / "data-bin", tmp_path), "--max-update", "1")
    training = run(*command, env={})  # in a new process, to include the warnings of importing fairseq
    generation = run(
        *("fairseq-generate", trained / "data-bin", "--user-dir", PLUGIN, "--cpu"),
        *("--path", trained / "checkpoints" / "checkpoint_best.pt"),
    )
    assert "Warning" not in training.stdout + training.stderr + generation.stdout + generation.stderr
