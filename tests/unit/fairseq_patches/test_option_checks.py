"""Options that cannot work are refused in one line before a command loads anything."""

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import preprocess, train

from fairseq_resmlp.common.errors import InputError

TRAIN = ["data", "--arch", "resmlp_tiny"]
GENERATE = ["data", "--path", "model.pt"]


def parse(command, *arguments):
    """Parse the arguments of a fairseq command as the command does."""
    parser = getattr(options, f"get_{command}_parser")()
    return options.parse_args_and_arch(parser, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-tokens", "0"], "--max-tokens 0 is less than 1"),
        (["--batch-size", "-1"], "--batch-size -1 is less than 1"),
        (["--update-freq", "4,0"], "--update-freq 0 is less than 1"),
        (["--num-workers", "-1"], "--num-workers -1 is less than 0"),
        (["--save-interval", "0"], "--save-interval 0 is less than 1"),
        (["--clip-norm", "nan"], "--clip-norm nan is not a number"),
        (["--fp16", "--cpu"], "--fp16 requires a GPU: omit it, or use --bf16"),
        (["--memory-efficient-fp16", "--cpu"], "--memory-efficient-fp16 requires a GPU"),
        (["--optimizer", "adam", "--adam-betas", "0.9"], r"--adam-betas is not a pair such as .*: 0\.9"),
        (["--optimizer-overrides", "{lr"], "--optimizer-overrides is not a Python dictionary .*: {lr"),
        (["--lr-scheduler", "polynomial_decay"], "polynomial_decay requires --total-num-update"),
        (["--num-shards", "2"], "--num-shards has no effect in this command"),
    ],
)
def test_impossible_training_options_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse("training", *TRAIN, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beam", "0"], "--beam 0 is less than 1"),
        (["--nbest", "0"], "--nbest 0 is less than 1"),
        (["--lenpen", "nan"], "--lenpen nan is not a number"),
        (["--lenpen", "1e4"], "--lenpen is out of range: use at most 100"),
        (["--max-len-b", "9" * 400], "--max-len-b is out of range: use at most 1000000000"),
        (["--prefix-size", "-1"], "--prefix-size -1 is less than 0"),
        (
            ["--sampling", "--nbest", "5", "--diverse-beam-groups", "5"],
            "--sampling and --diverse-beam-groups cannot",
        ),
        (["--sampling", "--nbest", "2"], "--sampling requires --nbest to be equal to --beam"),
        (["--replace-unk", ""], "--replace-unk requires --print-alignment"),
        (["--constraints"], "--constraints is not supported by this command: use fairseq-interactive"),
        (["--model-overrides", "[1]"], r"--model-overrides is not a Python dictionary .*: \[1\]"),
        (["--remove-bpe", "spm"], "--remove-bpe spm is not supported: use one of sentencepiece"),
        (["--bpe", "sentencepiece"], "--bpe sentencepiece requires --sentencepiece-model"),
        (["--num-shards", "2", "--shard-id", "2"], "--shard-id 2 must be less than --num-shards 2"),
    ],
)
def test_impossible_generation_options_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse("generation", *GENERATE, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--constraints", "--print-alignment"], "--print-alignment cannot be combined with --constraints"),
        (["--score-reference"], "--score-reference is not supported by fairseq-interactive"),
        (["--results-path", "out"], "--results-path is not supported by fairseq-interactive"),
        (["--print-alignment", "soft"], "--print-alignment soft is not supported by fairseq-interactive: use hard"),
        (["--num-shards", "2"], "--num-shards has no effect in this command"),
    ],
)
def test_options_that_fairseq_interactive_ignores_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse("interactive_generation", *GENERATE, *arguments)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("training", ["data"], "architecture not specified: use --arch"),
        ("generation", ["data"], "model not specified: use --path"),
        ("validation", ["data", "--path", "model.pt"], "task not specified: use --task"),
    ],
)
def test_a_missing_architecture_model_or_task_is_named(command, arguments, message):
    with pytest.raises(InputError, match=message):
        parse(command, *arguments)


def test_options_that_have_no_effect_but_do_no_harm_only_cause_a_warning(caplog):
    parse("training", *TRAIN, "--amp", "--cpu")
    parse("generation", *GENERATE, "--nbest", "9")
    assert "--amp has no effect without a GPU: training in float32" in caplog.text
    assert "--nbest 9 is larger than --beam 5" in caplog.text


def test_generation_divides_the_batches_among_shards_as_among_processes():
    args = parse("generation", *GENERATE, "--num-shards", "3", "--shard-id", "2")
    assert (args.distributed_world_size, args.distributed_rank) == (3, 2)


def test_the_configuration_of_hydra_is_checked_like_the_command_line():
    cfg = convert_namespace_to_omegaconf(parse("training", *TRAIN, "--max-tokens", "100"))
    train.add_defaults(cfg)
    cfg.dataset.max_tokens = 0
    with pytest.raises(InputError, match="--max-tokens 0 is less than 1"):
        train.add_defaults(cfg)


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({}, ["--workers", "0"], "--workers 0 is less than 1"),
        ({"train.src": b"\xff\xfe\x00abc\n"}, [], r"train\.src is not UTF-8: convert it"),
        ({"dict.src.txt": b"w1 1\n"}, [], r"dict\.src\.txt exists: choose another --destdir"),
        ({"words.txt": b"a b c\n"}, ["--srcdict", "words.txt"], r"words\.txt is not a dictionary of fairseq"),
    ],
)
def test_preprocessing_reports_unusable_files_and_options(tmp_path, monkeypatch, files, arguments, message):
    for name, content in {"train.src": b"w1\n", "train.tgt": b"w1\n", **files}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    command = ["-s", "src", "-t", "tgt", "--trainpref", "train", "--destdir", ".", *arguments]
    with pytest.raises(InputError, match=message):
        preprocess.main(options.get_preprocessing_parser().parse_args(command))


def test_preprocessing_needs_both_languages(tmp_path):
    args = options.get_preprocessing_parser().parse_args(["-s", "src", "--destdir", str(tmp_path)])
    with pytest.raises(InputError, match="languages not specified"):
        preprocess.main(args)
