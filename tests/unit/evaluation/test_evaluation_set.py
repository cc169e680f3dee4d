"""Scores of a model on the text of its run."""

import math

import pytest
import torch

from fairseq_resmlp.evaluation.evaluation_set import EvaluationSet
from fairseq_resmlp.evaluation.run_directory import find_run
from support.run_directories import SOURCES, write_run_directory


def test_perplexity_equals_that_of_the_sentences_one_by_one(tmp_path):
    run = find_run(str(write_run_directory(tmp_path / "run")))
    cfg, task, model = run.load()
    evaluation = EvaluationSet(run, cfg, task, 200)
    bits, count = 0.0, 0
    for source, target in evaluation.pairs:
        prev_output_tokens = torch.cat([target[-1:], target[:-1]])[None]
        with torch.inference_mode():
            output = model(source[None], None, prev_output_tokens)
            log_probs = model.get_normalized_probs(output, log_probs=True)[0].gather(1, target[:, None])
        bits -= float(log_probs.sum()) / math.log(2)
        count += len(target)
    assert evaluation.perplexity(model) == pytest.approx(2 ** (bits / count), rel=1e-4)
    assert len(evaluation.pairs) < len(SOURCES)  # one reference is longer than N
