"""Record results of fairseq's compiled extensions: python tests/golden/make_extensions.py, in an environment with them.

extensions.json contains drawn inputs and the results: for batching the lengths of the batches, for BLEU all counts.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from fairseq import libbleu  # noqa: F401  fails without the extensions
from fairseq.data.data_utils_fast import batch_by_size_vec
from fairseq.scoring import bleu

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "unit" / "fairseq_patches"), str(HERE.parent)]
if not (HERE / "extensions.json").exists():  # which the test reads when it is imported
    (HERE / "extensions.json").write_text("{}")

from test_extensions import draw_sizes  # noqa: E402

rng = random.Random(0)
batches = []
for _ in range(1000):
    sizes, *limits = draw_sizes(rng)
    found = batch_by_size_vec(np.arange(len(sizes), dtype=np.int64), sizes, *limits)
    batches.append([sizes.tolist(), *limits, [len(batch) for batch in found]])


def sentence():
    tokens = [rng.randint(3, 8) for _ in range(rng.randrange(1, 15))]
    return [1] * rng.randrange(3) + tokens + [2] * rng.randrange(2) + [1] * rng.randrange(3)


scores = []
for _ in range(200):
    scorer, one_init = bleu.Scorer(bleu.BleuConfig(pad=1, eos=2, unk=3)), rng.random() < 0.3
    scorer.reset(one_init)
    pairs = [(sentence(), sentence()) for _ in range(rng.randrange(1, 4))]
    for reference, translation in pairs:
        scorer.add(torch.IntTensor(reference), torch.IntTensor(translation))
    stat = [getattr(scorer.stat, name) for name, _ in scorer.stat._fields_]
    scores.append([one_init, pairs, stat, scorer.result_string()])
(HERE / "extensions.json").write_text(json.dumps({"batches": batches, "bleu": scores}, separators=(",", ":")) + "\n")
