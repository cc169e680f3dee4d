"""Training curves are read from text logs and from TensorBoard files."""

import os
import sys

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.evaluation.run_directory import find_run
from fairseq_resmlp.evaluation.training_log import read_training_log
from support.commands import run, train_options

LENGTH = 1_000_000


@pytest.mark.parametrize("form", ["json", "simple"])
def test_text_logs_and_tensorboard_files_give_the_same_curves(toy, tmp_path, form):
    options = [*train_options(toy / "data-bin", tmp_path / "checkpoints"), "--max-epoch", "2", "--log-interval", "3"]
    logs = ["--log-format", form, "--log-file", tmp_path / "train.log", "--tensorboard-logdir", tmp_path / "events"]
    run("fairseq-train", *options, *logs, "--no-save")
    directory = find_run(str(tmp_path))
    assert directory.logs and len(directory.events) == 3
    from_events = read_training_log(directory)
    directory.events = []
    from_text = read_training_log(directory)
    assert set(from_events) == set(from_text) == {"train", "valid"}
    assert {"loss", "ppl", "lr", "gnorm", "wps"} <= set(from_text["train"])
    for split, metrics in from_text.items():
        for name, (updates, values) in metrics.items():
            assert updates == from_events[split][name][0] == sorted(updates)
            assert values == pytest.approx(from_events[split][name][1], rel=1e-5)
    assert len(from_text["train"]["loss"][0]) > len(from_text["valid"]["loss"][0]) == 2


def test_the_log_of_a_resumed_and_killed_training_is_read_up_to_its_end(tmp_path):
    simple = [
        "x | INFO | train_inner | epoch 001:  10 / 500 loss=9, nll_loss=9.402, wps=inf, num_updates=10, wall=4",
        "x | INFO | train_inner | epoch 001:  20 / 500 loss=8, num_updates=20",
        "Traceback | INFO | train_inner | epoch of something else",
        "x | INFO | train_inner | epoch 001:  20 / 500 loss=7, num_updates=20",
        "x | INFO | valid | epoch 001 | valid on 'valid' subset | loss 6.5 | bleu 12.5 | num_updates 20 | best 6.5",
        "x | INFO | train_inner | epoch 001:  30 / 500 lo",
    ]
    json_lines = [
        'x | INFO | train_inner | {"epoch": 1, "loss": "9", "num_updates": "10", "wps": "inf"}',
        'x | INFO | train_inner | {"epoch": 1, "loss": "8", "num_updates": "20"}',
        "Traceback {of something else",
        'x | INFO | train_inner | {"epoch": 1, "loss": "7", "num_updates": "20"}',
        'x | INFO | valid | {"epoch": 1, "valid_loss": "6.5", "valid_bleu": "12.5", "valid_num_updates": "20"}',
        'x | INFO | train_inner | {"epoch": 1, "lo',
    ]
    for log in (json_lines, simple):
        (tmp_path / "train.log").write_text("\n".join(log))
        assert read_training_log(find_run(str(tmp_path))) == {
            "train": {"loss": ([10, 20], [9, 7])},
            "valid": {"loss": ([20], [6.5]), "bleu": ([20], [12.5])},
        }


def test_a_log_without_curves_is_an_error_that_lists_the_options_to_use(tmp_path):
    (tmp_path / "train.log").write_text("unrelated text")
    with pytest.raises(InputError, match="training log not found in .*--tensorboard-logdir .*--log-format simple"):
        read_training_log(find_run(str(tmp_path)))


def test_without_tensorboard_the_error_names_the_package_to_install(tmp_path, monkeypatch):
    (tmp_path / "events.out.tfevents.1").touch()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(InputError, match=r"pip install 'fairseq-resmlp\[report\]'"):
        read_training_log(find_run(str(tmp_path)))


ODD_LINES = {
    "updates that are not a number": '{"loss": 1, "num_updates": [1]}',
    "an infinite number of updates": '{"loss": 1, "num_updates": 1e999}',
    "a negative number of updates": '{"loss": 1, "num_updates": -5}',
    "more updates than plots can show": '{"loss": 1, "num_updates": "9999999999999999999999"}',
    "updates of 5,000 digits": f"epoch 1 | loss 4 | num_updates {'9' * 5000}",
    "a digit that is not decimal": "epoch 001: 1 / 2 loss=1, num_updates=\u00b2",
    "a value of 400 digits": f'{{"loss": 1{"0" * 400}, "num_updates": 3}}',
    "a value that is not a number": "epoch 001: 1 / 2 loss=--..e, num_updates=3",
    "a value that plots cannot show": '{"loss": 1e300, "ppl": 1e-300, "num_updates": 3}',
    "deep nesting": "{" + '"a":{' * 100_000,
    "NUL": "\0" * 1000,
}


@pytest.mark.parametrize("line", ODD_LINES.values(), ids=list(ODD_LINES))
def test_lines_without_usable_numbers_are_skipped(line, tmp_path):
    usual = "epoch 001: 10 / 500 loss=9, num_updates=10"
    (tmp_path / "train.log").write_text(f"{line}\n{usual}\n")
    assert read_training_log(find_run(str(tmp_path))) == {"train": {"loss": ([10], [9.0])}}


@pytest.mark.parametrize(
    "line",
    [
        "epoch 001: " + "a" * LENGTH,
        "epoch 001 | " + "a" * LENGTH,
        "epoch 001: a=" + "1" * LENGTH + "x",
        "epoch 001: " + "a=1 " * (LENGTH // 4),
        "epoch 001: " + "a=1, " * (LENGTH // 5),
        "epoch " + "1" * LENGTH,
        "epoch 1" * (LENGTH // 7),
        "epoch 001" + " " * LENGTH,
        "{" * LENGTH,
        '{"' + "a" * LENGTH,
    ],
    ids=lambda line: line[:14],
)
def test_long_lines_of_any_form_are_read_in_linear_time(line, tmp_path):
    """With a quadratic search, this would take hours."""
    (tmp_path / "train.log").write_text(f"{line}\nepoch 001: 10 / 500 loss=9, num_updates=10\n")
    assert read_training_log(find_run(str(tmp_path)))["train"]["loss"] == ([10], [9.0])


@pytest.mark.parametrize("name", ["train.log", "events.out.tfevents.1", "events.out.tfevents.2"])
def test_a_log_that_is_not_a_regular_file_is_refused_without_opening_it(name, tmp_path):
    (tmp_path / "events.out.tfevents.1").touch()
    (tmp_path / "train.log").touch()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    run_directory = find_run(str(tmp_path))
    if name == "train.log":
        run_directory.events = []
    with pytest.raises(InputError, match=f"{name} is a pipe: specify a regular file"):
        read_training_log(run_directory)
