"""Options that cannot work are refused in one line before a command loads anything."""

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import train

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
        (["--amp", "--bf16"], "--amp and --bf16 cannot be combined: use one of them"),
        (["--fp16", "--cpu"], "--fp16 requires a GPU: omit it, or use --bf16"),
        (["--memory-efficient-fp16", "--cpu"], "--memory-efficient-fp16 requires a GPU"),
        (["--optimizer", "adam", "--adam-betas", "0.9"], r"--adam-betas is not a pair such as .*: 0\.9"),
        (["--optimizer-overrides", "{lr"], "--optimizer-overrides is not a Python dictionary .*: {lr"),
        (["--lr-scheduler", "polynomial_decay"], "polynomial_decay requires --total-num-update"),
        (["--num-shards", "2"], "--num-shards has no effect in this command"),
        (["--seed", "-1"], "--seed -1 is less than 0"),
        (["--seed", "9" * 12], "--seed is out of range: use at most 4294967295"),
        (["--lr", ""], "--lr has no value"),
        (["--max-epoch", "-1"], "--max-epoch -1 is less than 0"),
        (["--distributed-rank", "1"], "--distributed-rank 1 must be less than --distributed-world-size 1"),
        (["--dataset-impl", "fasta"], "--dataset-impl fasta is not supported by --task translation"),
        (["--eval-bleu", "--eval-bleu-remove-bpe", "spm"], "--eval-bleu-remove-bpe spm is not supported"),
        (["--write-checkpoints-asynchronously"], "--write-checkpoints-asynchronously requires iopath"),
        (["--num-batch-buckets", "2"], "--num-batch-buckets does not work with NumPy 2"),
        (["--tpu"], "--tpu requires torch_xla"),
        (["--profile", "--cpu"], "--profile requires a GPU"),
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
        (["--distributed-world-size", "2"], "would translate only a part of the set: use --num-shards 2"),
        (["--print-step"], "--print-step is for --task translation_lev only"),
        (["--tokenizer", "moses", "-s", "en"], "--tokenizer moses requires --source-lang and --target-lang"),
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
        ("eval_lm", [*GENERATE, "--task", "translation"], "fairseq-eval-lm does not support --task translation"),
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
    parse("training", *TRAIN, "--patience", "3", "--disable-validation", "--keep-interval-updates", "2")
    assert "--patience has no effect with --disable-validation" in caplog.text
    assert "--keep-interval-updates has no effect without --save-interval-updates" in caplog.text
    parse("validation", *GENERATE, "--task", "translation", "--criterion=cross_entropy")
    assert "--criterion has no effect in this command" in caplog.text


def test_generation_divides_the_batches_among_shards_as_among_processes():
    args = parse("generation", *GENERATE, "--num-shards", "3", "--shard-id", "2")
    assert (args.distributed_world_size, args.distributed_rank) == (3, 2)


def test_a_shard_does_not_replace_the_results_of_another_one(tmp_path):
    options = [*GENERATE, "--num-shards", "2", "--results-path", str(tmp_path)]
    parse("generation", *options)
    (tmp_path / "generate-test.txt").touch()
    with pytest.raises(InputError, match=r"generate-test\.txt exists, perhaps from another shard"):
        parse("generation", *options, "--shard-id", "1")


def test_the_configuration_of_hydra_is_checked_like_the_command_line():
    cfg = convert_namespace_to_omegaconf(parse("training", *TRAIN, "--max-tokens", "100"))
    train.add_defaults(cfg)
    cfg.dataset.max_tokens = 0
    with pytest.raises(InputError, match="--max-tokens 0 is less than 1"):
        train.add_defaults(cfg)
