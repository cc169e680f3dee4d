"""Options of validation are checked before training begins."""

import pytest
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.model.config import ResMLPConfig
from support.models import TINY, make_task
from support.training import train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_bleu_args": "{beam: 4}"}, r"--eval-bleu-args is not JSON such as .*: {beam: 4} \(Expecting"),
        ({"eval_bleu_args": "[4]"}, "--eval-bleu-args is not a JSON object"),
        ({"eval_bleu_args": '{"bem": 4}'}, "bem is not an option of fairseq-generate: did you mean beam"),
        ({"eval_bleu_args": '{"max-len-b": 4}'}, "max-len-b is not an option of fairseq-generate"),
        ({"eval_bleu_args": '{"beam": "4"}'}, 'beam must be a int, not "4"'),
        ({"eval_bleu_args": '{"beam": 0}'}, "--beam 0 is less than 1"),
        ({"eval_bleu_args": '{"lenpen": NaN}'}, "--lenpen nan is not a number"),
        ({"eval_bleu_detok_args": "x"}, "--eval-bleu-detok-args is not JSON"),
        ({"eval_bleu_detok": "mosess"}, "--eval-bleu-detok mosess not found: use one of .*moses"),
    ],
)
def test_options_of_bleu_are_checked_before_the_model_is_built(options, message):
    task = make_task(eval_bleu=True, **options)
    with pytest.raises(InputError, match=message):
        task.build_model(ResMLPConfig(**TINY))


def test_valid_options_of_bleu_are_accepted():
    task = make_task(eval_bleu=True, eval_bleu_args='{"beam": 3, "lenpen": 1, "match_source_len": true}')
    cfg = OmegaConf.create(FairseqConfig(model=ResMLPConfig(_name="resmlp", **TINY)))
    task.build_model(cfg.model)
    assert task.sequence_generator.beam_size == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["bleu", "--maximize-best-checkpoint-metric"], "metric bleu is not computed in validation: add --eval-bleu"),
        (["nll"], "metric nll is not computed in validation: use one of .*loss, nll_loss, .*ppl"),
    ],
)
def test_a_metric_that_validation_does_not_compute_is_refused_before_the_first_update(toy, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(toy / "data-bin", tmp_path, "--best-checkpoint-metric", *options, "--max-update", "1")
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.slow
def test_a_metric_with_the_wrong_direction_causes_a_warning(toy, tmp_path, caplog):
    train(toy / "data-bin", tmp_path, "--best-checkpoint-metric", "ppl", "--max-update", "1")
    assert "worst" not in caplog.text
    options = ("--best-checkpoint-metric", "ppl", "--maximize-best-checkpoint-metric")
    train(toy / "data-bin", tmp_path, *options, "--max-update", "2")
    assert "checkpoint_best.pt will be the checkpoint with the worst ppl: omit --maximize-best" in caplog.text
