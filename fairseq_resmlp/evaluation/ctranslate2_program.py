"""A program that translates text with CTranslate2, for `fairseq-resmlp bench`.

python -m fairseq_resmlp.evaluation.ctranslate2_program DIRECTORY SENTENCEPIECE INPUT OUTPUT TYPE BEAM BATCH THREADS
"""

import os
import sys

import ctranslate2
import sentencepiece


def main() -> None:
    directory, sentencepiece_model, source, output, compute_type, beam, batch, threads = sys.argv[1:]
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_model)
    workers = min(2, int(threads))  # as in the inference engine
    translator = ctranslate2.Translator(
        directory, compute_type=compute_type, inter_threads=workers, intra_threads=-(-int(threads) // workers)
    )
    with open(source, encoding="utf-8", newline="\n") as file:
        tokens = [tokenizer.encode(line.rstrip("\n"), out_type=str) for line in file]
    results = translator.translate_batch(
        tokens,
        beam_size=int(beam),
        max_batch_size=int(batch),
        use_vmap=os.path.exists(os.path.join(directory, "vmap.txt")),
    )
    with open(output, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{tokenizer.decode(result.hypotheses[0])}\n" for result in results)


if __name__ == "__main__":
    main()
