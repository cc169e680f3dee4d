"""A program that translates text with CTranslate2, to compare with: `fairseq-resmlp bench --ctranslate2`.

python -m fairseq_resmlp.evaluation.ctranslate2_program DIRECTORY SENTENCEPIECE INPUT OUTPUT TYPE BEAM THREADS
"""

import os
import sys

import ctranslate2
import sentencepiece

BATCH = 64  # sentences, as in fairseq-resmlp translate


def main() -> None:
    directory, sentencepiece_model, source, output, compute_type, beam, threads = sys.argv[1:]
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_model)
    translator = ctranslate2.Translator(
        directory, compute_type=compute_type, inter_threads=1, intra_threads=int(threads)
    )
    with open(source, encoding="utf-8", newline="\n") as file:
        tokens = [tokenizer.encode(line.rstrip("\n"), out_type=str) for line in file]
    results = translator.translate_batch(
        tokens,
        beam_size=int(beam),
        max_batch_size=BATCH,
        use_vmap=os.path.exists(os.path.join(directory, "vmap.txt")),
    )
    with open(output, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{tokenizer.decode(result.hypotheses[0])}\n" for result in results)


if __name__ == "__main__":
    main()
