"""Each mend of fairseq: what it mends, and that it steps aside where fairseq needs it no longer."""

import argparse
import functools
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import PLUGIN, ROOT, make_dictionary, make_model, make_sentences, make_task, run, train_options
from fairseq import optim, options, tasks, utils
from fairseq.data import LanguagePairDataset, data_utils
from fairseq.file_io import PathManager
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, AMPOptimizer
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf

from fairseq_resmlp import mends
from fairseq_resmlp.errors import InputError


def test_options_are_evaluated_as_values_and_not_as_code(tmp_path):
    assert utils.eval_str_list("[0.9, -0.98]") == [0.9, -0.98]
    assert utils.eval_str_list("[(512, 3)] * 2 + [(1, 2)]", type=tuple) == [(512, 3), (512, 3), (1, 2)]
    assert utils.eval_bool("False") is False and utils.eval_bool(None, default=True) is True
    for code in (f"open({str(tmp_path / 'evidence')!r}, 'w')", "[x for x in (1,)]", "().__class__", "9 ** 9", "f'{1}'"):
        with pytest.raises(InputError, match="is no plain value: it is not evaluated"):
            utils.eval_str_list(code)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", range(1, 21))
def test_sets_of_any_size_lose_no_sentence(size):
    sentences = make_sentences(size)
    dictionary = make_dictionary()
    task = make_task()
    lengths = [len(s) for s in sentences]
    dataset = LanguagePairDataset(sentences, lengths, dictionary, sentences, lengths, dictionary)
    for limits in ({"max_tokens": 40}, {"max_sentences": 16}, {"max_tokens": 60, "max_sentences": 5}):
        batches = task.get_batch_iterator(dataset, required_batch_size_multiple=8, **limits)
        ids = [i for batch in batches.next_epoch_itr(shuffle=False) for i in batch["id"].tolist()]
        assert sorted(ids) == list(range(size))


def test_a_checkpoint_is_never_half_written_under_its_own_name(tmp_path, monkeypatch):
    source, target = tmp_path / "checkpoint_1_10.pt", tmp_path / "checkpoint_last.pt"
    source.write_bytes(b"new" * 1000)
    target.write_bytes(b"old")

    def copies_half(src, dst):
        with open(dst, "wb") as out:
            out.write(b"new" * 500)
        raise OSError("No space left on device")

    said = r"cannot write \S+checkpoint_last\.pt, which is as it was before: No space left on device"
    with monkeypatch.context() as patch, pytest.raises(InputError, match=said):
        patch.setattr(shutil, "copyfile", copies_half)
        PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == b"old"
    on_disk = []
    monkeypatch.setattr(os, "fsync", lambda file: on_disk.append(target.read_bytes()))
    assert PathManager.copy(str(source), str(target), overwrite=True)  # fairseq asserts that it is true
    assert target.read_bytes() == source.read_bytes()
    assert on_disk == [b"old"]  # brought to the disk before it takes the place of the old one


def test_amp_gives_the_optimizer_the_same_gradients_as_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", functools.partial(torch.amp.GradScaler, "cpu"))
    steps = []
    for amp in (False, True):
        parameter = torch.nn.Parameter(torch.ones(2))
        cfg = OmegaConf.create(
            {
                "optimizer": {"_name": "adagrad", "lr": [0.1], "weight_decay": 0.0},
                "common": {"fp16_init_scale": 128, "min_loss_scale": 1e-4},
            }
        )
        if amp:
            optimizer = AMPOptimizer.build_optimizer(cfg, [parameter])
        else:
            optimizer = optim.build_optimizer(cfg.optimizer, [parameter])
        for scale in (1.0, 3.0):
            optimizer.zero_grad()
            optimizer.backward((parameter * torch.tensor([scale, -scale])).sum())
            optimizer.clip_grad_norm(100.0)
            optimizer.step()
        steps.append((parameter.detach(), optimizer.optimizer.state[parameter]["sum"]))
    torch.testing.assert_close(steps[1], steps[0])


def test_an_empty_set_makes_no_batch():
    assert data_utils.batch_by_size(iter([]), lambda i: 1, max_sentences=4, required_batch_size_multiple=8) == []


def test_batching_is_left_alone_where_fairseq_loses_nothing(monkeypatch):
    def mended(indices, *args, **kwargs):
        return [indices]

    monkeypatch.setattr(data_utils, "batch_by_size", mended)
    mends.keep_last_batch()
    assert data_utils.batch_by_size is mended


def test_mending_twice_changes_nothing():
    before = (data_utils.batch_by_size, options.parse_args_and_arch, sys.excepthook)
    mends.apply()
    assert before == (data_utils.batch_by_size, options.parse_args_and_arch, sys.excepthook)


def test_help_shows_the_options_of_the_architecture_with_their_defaults():
    text = " ".join(run("fairseq-train", "--user-dir", PLUGIN, "--arch", "resmlp_base", "--help").stdout.split())
    assert "--encoder-max-positions" in text
    assert "number of encoder layers (default: 6; 12 in resmlp_base_12, resmlp_wmt_en_de_12" in text


def test_a_sentence_too_long_is_named_with_its_length_n_and_the_option():
    dictionary = make_dictionary()
    short, long = torch.tensor([5, 2]), torch.tensor([5] * 11 + [2])
    task = make_task()
    mends.name_long_sentences(task)
    for source, target, message in (
        (
            long,
            short,
            r"sentence 1 of valid: a source of 12 .* N = 10.*--encoder-max-positions 12.* --skip-invalid-size",
        ),
        (short, long, r"sentence 1 of valid: a target of 12 .* N = 9.*--decoder-max-positions 12"),
    ):
        dataset = LanguagePairDataset(
            [short, source], [2, len(source)], dictionary, [short, target], [2, len(target)], dictionary
        )
        task.datasets["valid"] = dataset
        with pytest.raises(InputError, match=message):
            task.get_batch_iterator(dataset, max_sentences=4, max_positions=(10, 9))
        kept = task.get_batch_iterator(dataset, max_sentences=4, max_positions=(10, 9), ignore_invalid_inputs=True)
        assert [b["id"].tolist() for b in kept.next_epoch_itr(shuffle=False)] == [[0]]


def test_the_tasks_own_limit_is_named_where_it_is_the_smaller_one():
    dictionary, long = make_dictionary(), torch.tensor([5] * 11 + [2])
    task = make_task(max_source_positions=10)
    mends.name_long_sentences(task)
    dataset = LanguagePairDataset([long], [12], dictionary, [long], [12], dictionary)
    with pytest.raises(InputError, match="longer than 10: raise --max-source-positions"):
        task.get_batch_iterator(dataset, max_sentences=4, max_positions=(10, 24))


def test_generation_without_sentence_numbers_works_as_in_fairseq():
    sample = {"net_input": {"src_tokens": torch.tensor([[5, 6, 2]]), "src_lengths": torch.tensor([3])}}
    model, dictionary = make_model(), make_task().target_dictionary
    for search in (None, DiverseBeamSearch(dictionary, num_groups=2, diversity_strength=0.5)):
        generator = SequenceGenerator([model], dictionary, beam_size=4, max_len_b=5, search_strategy=search)
        assert len(generator.generate([model], sample)[0]) == 4


def test_a_task_without_a_dataclass_is_left_alone():
    cfg = argparse.Namespace(task="no such task", source_lang=None)
    with pytest.raises((AssertionError, KeyError)):  # fairseq's own words, not ours
        tasks.setup_task(cfg)


def test_hydra_keeps_an_adagrad_that_it_knows(monkeypatch):
    monkeypatch.setitem(OPTIMIZER_DATACLASS_REGISTRY, "adagrad", "fairseq's own")
    mends.let_hydra_use_adagrad()
    assert OPTIMIZER_DATACLASS_REGISTRY["adagrad"] == "fairseq's own"


def test_an_input_error_ends_a_command_in_one_line():
    code = "import fairseq_resmlp; from fairseq_resmlp.errors import InputError; raise InputError('no such thing')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "error: no such thing\n"


@pytest.mark.parametrize("error", ["ValueError('a bug')", "FileNotFoundError(2, 'No such file', 'mine.json')"])
def test_other_errors_keep_their_traceback(error):
    code = f"import fairseq_resmlp; raise {error}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("program", ["fairseq-train", "fairseq_cli/train.py"])
def test_a_missing_file_ends_a_command_of_fairseq_in_one_line(tmp_path, program):
    (tmp_path / program).parent.mkdir(exist_ok=True)
    for error, said in (("open('absent')", "[Errno 2] No such file or directory: 'absent'"), ("1", "BrokenPipeError")):
        (tmp_path / program).write_text(f"import fairseq_resmlp\n{error}\nraise BrokenPipeError")
        done = subprocess.run(
            [sys.executable, tmp_path / program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT}
        )
        assert (done.returncode, done.stderr) == (1, f"error: {said}\n")


def test_training_and_generation_warn_about_nothing(trained, tmp_path):
    command = ("fairseq-train", *train_options(trained / "data-bin", tmp_path), "--max-update", "1")
    training = run(*command, env={})  # an environment of its own, so that fairseq is imported anew, too
    generation = run(
        *("fairseq-generate", trained / "data-bin", "--user-dir", PLUGIN, "--cpu"),
        *("--path", trained / "checkpoints" / "checkpoint_best.pt"),
    )
    assert "Warning" not in training.stdout + training.stderr + generation.stdout + generation.stderr


def test_a_training_that_ends_while_a_batch_is_made_ends_well(tmp_path):
    """torch aborts where Python ends a thread in the midst of it (pytorch issues 38228 and 117762)."""
    (tmp_path / "ends.py").write_text(
        "import sys, torch, fairseq_resmlp\n"
        "from fairseq.data.iterators import BufferedIterator\n"
        "class Batches:\n"
        "    def __len__(self):\n"
        "        return 10**9\n"
        "    def __iter__(self):\n"
        "        while True:\n"
        "            for _ in range(500):\n"
        "                batch = torch.zeros(300, 30).clone()\n"
        "            yield batch\n"
        "with_room, without = BufferedIterator(10**9, Batches()), BufferedIterator(1, Batches())\n"
        "next(with_room), next(without)\n"
        "sys.exit(3)\n"
    )
    done = run(sys.executable, tmp_path / "ends.py", env={"PYTHONPATH": str(ROOT)}, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_bf16_needs_no_tpu_and_one_is_taken_only_where_it_is_asked_for():
    for arguments, tpu in ((["--bf16"], False), (["--memory-efficient-bf16"], False), (["--bf16", "--tpu"], True)):
        parser = options.get_training_parser()
        args = options.parse_args_and_arch(parser, ["data", "--arch", "resmlp_tiny", *arguments])
        assert args.bf16 and args.tpu is tpu


def test_bf16_trains_on_a_cpu_resumes_and_its_checkpoint_translates(toy, tmp_path):
    command = ["fairseq-train", *train_options(toy / "data-bin", tmp_path), "--bf16"]
    run(*command, "--max-epoch", "1")
    again = run(*command, "--max-epoch", "2")
    assert "Loaded checkpoint" in again.stdout + again.stderr
    weight = torch.load(tmp_path / "checkpoint_last.pt")["model"]["decoder.layers.0.ffn.B.weight"]
    assert torch.equal(weight, weight.bfloat16().float())
    done = run(
        *("fairseq-generate", toy / "data-bin", "--user-dir", PLUGIN, "--cpu"),
        *("--path", tmp_path / "checkpoint_last.pt"),
    )
    assert "Translated 21 sentences" in done.stdout + done.stderr


def test_memory_efficient_bf16_trains_with_adam_and_names_the_remedy_with_adagrad(toy, tmp_path):
    command = ["fairseq-train", *train_options(toy / "data-bin", tmp_path), "--max-update", "2"]
    refused = run(*command, "--memory-efficient-bf16", check=False)
    assert refused.returncode == 1
    assert "error: --memory-efficient-bf16 does not go with Adagrad: take --bf16 or another" in refused.stderr
    run(*command, "--memory-efficient-bf16", "--optimizer", "adam", "--lr", "0.001")
