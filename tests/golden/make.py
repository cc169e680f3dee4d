"""Train the golden model and store its translations: python tests/golden/make.py (about a minute).

Run it only if checkpoints of older versions no longer need to load. tests/unit/model/test_registration.py compares the
translations of the current version with the stored ones.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def run(*command):
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


with tempfile.TemporaryDirectory() as directory:
    tmp = Path(directory)
    run(sys.executable, "examples/grammar/make_corpus.py", tmp / "raw", "--train", 3000, "--valid", 50, "--test", 50)
    raw = [tmp / "raw" / f"{split}.{language}" for split in ("train", "valid", "test") for language in ("en", "de")]
    run("fairseq-resmlp", "spm-train", *raw[:2], "--model", tmp / "spm.model", "--vocab-size", 400)
    run("fairseq-resmlp", "spm-encode", *raw, "--model", tmp / "spm.model", "--out-dir", tmp / "encoded")
    prefixes = [part for split in ("train", "valid") for part in (f"--{split}pref", tmp / "encoded" / split)]
    run(
        *("fairseq-preprocess", "-s", "en", "-t", "de", *prefixes),
        *("--joined-dictionary", "--destdir", tmp / "data-bin"),
    )
    sizes = [f"--{side}-{name}" for side in ("encoder", "decoder") for name in ("embed-dim=16", "ffn-embed-dim=32")]
    run(
        *("fairseq-train", tmp / "data-bin", "--user-dir", "fairseq_resmlp", "--arch", "resmlp_tiny", *sizes),
        *("--encoder-max-positions", "40", "--decoder-max-positions", "40", "--share-all-embeddings"),
        *("--optimizer", "adagrad", "--lr", "0.1", "--lr-scheduler", "fixed", "--warmup-updates", "100"),
        *("--max-tokens", "1000", "--max-epoch", "8", "--seed", "1", "--cpu", "--clip-norm", "1.0"),
        *("--no-epoch-checkpoints", "--no-save-optimizer-state", "--save-dir", tmp / "checkpoints"),
    )
    shutil.copy(tmp / "checkpoints" / "checkpoint_best.pt", HERE / "model.pt")
    shutil.copy(tmp / "spm.model", HERE / "sentencepiece.bpe.model")
    for language in ("en", "de"):
        shutil.copy(tmp / "data-bin" / f"dict.{language}.txt", HERE)
    sources = (tmp / "raw" / "test.en").read_text(encoding="utf-8").split("\n")[:8] + ["", "An unknown word: 42!"]

from fairseq_resmlp import ResMLPModel  # noqa: E402

hub = ResMLPModel.from_pretrained(HERE)
expected = []
for source in sources:
    hypotheses = hub.generate([hub.encode(source)], beam=4)[0]
    expected.append(
        {
            "source": source,
            "hypotheses": [
                {
                    "translation": hub.decode(h["tokens"]),
                    "scores": [round(score, 6) for score in h["positional_scores"].tolist()],
                }
                for h in hypotheses
            ],
        }
    )
lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in expected)
(HERE / "expected.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
