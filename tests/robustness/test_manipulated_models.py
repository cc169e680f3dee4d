"""Exported models whose weights were changed, with the right checksum: an error in one line, or translations."""

import hashlib
import json
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.model_format import CONFIG, WEIGHTS
from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.model.export import export_model
from support.paths import GOLDEN

LARGEST = torch.finfo(torch.float32).max
VALUES = {
    torch.int8: [-128, 127, 0],
    torch.float32: [LARGEST, -LARGEST, 1e38, -1e30, 1e20, 0.0, 1e-45, float("inf"), float("nan")],
}


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_manipulated_weights_are_refused_or_translate(dtype, tmp_path, request, record_promise):
    """Values of one tensor, or all of them, become a number at or beyond the limits of its type."""
    rng = random.Random(4)
    cases = request.config.getoption("--fuzz-lines") // 20
    directory = tmp_path / "model"
    export_model(str(GOLDEN), str(directory), dtype=dtype)
    weights, config = load_file(directory / WEIGHTS), json.loads((directory / CONFIG).read_text())
    refused = 0
    for _ in range(cases):
        name = rng.choice(sorted(weights))
        changed = weights[name].clone()
        if rng.random() < 0.5:
            changed.fill_(rng.choice(VALUES[changed.dtype]))
        else:
            changed.view(-1)[rng.randrange(changed.numel())] = rng.choice(VALUES[changed.dtype])
        save_file({**weights, name: changed}, directory / WEIGHTS)
        config["sha256"][WEIGHTS] = hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()
        (directory / CONFIG).write_text(json.dumps(config))
        try:
            translator = Translator.load(str(directory))
            translations = translator.translate_batch(["Two women said that.", "A dog"], beam=2, max_len_b=5)
            assert len(translations) == 2
        except InputError as error:
            refused += 1
            assert str(error).isprintable()
    assert 0 < refused < cases
    record_promise(
        f"A {dtype} model with manipulated weights and the right checksum is refused in one line, or translates",
        f"{refused:,} of {cases:,} changes refused; the others give finite scores",
    )
