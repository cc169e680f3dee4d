"""The variants of the model that parametrized tests cover, and translation with fairseq's beam search."""

import pytest
from fairseq.sequence_generator import SequenceGenerator

from fairseq_resmlp.modules.token_mixing import TOKEN_MIXING
from support.models import make_batch, make_task

# Tests of masks, batches and caches run with each of these options.
VARIANTS = [
    {},
    *({"token_mixing": name} for name in TOKEN_MIXING if name != "linear"),
    {"token_mixing": "conv", "mixing_kernel": 3},
    {"mixing_heads": 4},
    {"token_mixing": "toeplitz", "mixing_heads": 16},
    {"token_mixing": "toeplitz_linear", "mixing_heads": 4, "no_mixing_bias": True},
    {"no_mixing_bias": True, "activation_fn": "relu", "mixing_init_std": 0.1},
    {"normalization": "layer", "positional_embeddings": "learned"},
    {"activation_fn": "geglu", "token_mixing": "toeplitz"},
    {"positional_embeddings": "sinusoidal"},
]

# Without mixing, hypotheses with the same pairs of neighbors in another order have equal scores, so that the order of
# several beams is arbitrary.
VARIANTS_AND_BEAM = pytest.mark.parametrize(
    "options, beam", [(options, 1 if options.get("token_mixing") == "none" else 4) for options in VARIANTS], ids=str
)


def generate(model, sources, left_pad_source=True, beam=4, **options):
    """Translate one batch with fairseq's beam search. Returns {index of the source: hypotheses}."""
    generator = SequenceGenerator([model], make_task().target_dictionary, beam_size=beam, max_len_b=15, **options)
    sample = make_batch(sources, sources, left_pad_source)
    return dict(zip(sample["id"].tolist(), generator.generate([model], sample), strict=True))
