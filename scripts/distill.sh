#!/usr/bin/env bash
# Sequence-level distillation (Kim and Rush, 2016, arXiv 1606.07947): a teacher translates the training text, and its
# translation takes the place of the reference.
#
#   scripts/distill.sh CORPUS --teacher FILE[:FILE...] [--out DIR] [--into DIR] [-- OPTION...]
#
#   --teacher FILE   checkpoint of any fairseq model trained on CORPUS; several are an ensemble
#   --out DIR        where prepare.sh wrote (default: runs/CORPUS)
#   --into DIR       write there, in the same layout (default: DIR of --out, /distilled)
#   OPTION...        more options for fairseq-generate
#
# Then --out with that folder trains and evaluates on it: scripts/train.sh CORPUS --out runs/CORPUS/distilled.
accepts='--teacher --out --into --'
. "$(dirname "$0")/common.sh"
[ -e "$out/data-bin" ] || fail "$out/data-bin is not there: run scripts/prepare.sh $corpus first"
[ -n "$teacher" ] || fail "--teacher is missing: the checkpoint that translates the training text"
of_teacher=$(content_of "$teacher") || fail "--teacher $teacher: name checkpoints that are there, joined by colons"
into=${into:-$out/distilled}
no_one_else_in "$into"
same_settings "$into/settings" "$of_teacher $(sha256sum < "$out/pieces/train.$source") $(declare -p beam lenpen options)"

step "$corpus, distilled 1/2: the teacher's translation of the training text"
translate() {
    local pieces=$into/pieces.part split language
    run fairseq-generate "$out/data-bin" --user-dir "$plugin" --path "$teacher" --gen-subset train \
        --beam "$beam" --lenpen "$lenpen" --max-tokens 4000 --skip-invalid-size-inputs-valid-test \
        --results-path "$pieces" "${options[@]}"
    # Lines H-<sentence> <score> <pieces>, longest first: by number, with the source of that number
    grep ^H- "$pieces/generate-train.txt" | sed s/^H-// | LC_ALL=C sort -n > "$pieces/hypotheses"
    [ -z "$(cut -f1 "$pieces/hypotheses" | uniq -d)" ] || fail "several translations of a sentence: leave --nbest out"
    cut -f3 "$pieces/hypotheses" > "$pieces/train.$target"
    awk -F '\t' 'NR == FNR { wanted[$1 + 1]; next } FNR in wanted' "$pieces/hypotheses" "$out/pieces/train.$source" \
        > "$pieces/train.$source"
    rm "$pieces/generate-train.txt" "$pieces/hypotheses"
    for split in valid $(test_sets); do
        for language in "$source" "$target"; do cp "$out/pieces/$split.$language" "$pieces"; done
    done
    local pairs
    pairs=$(wc -l < "$pieces/train.$source")
    python -c 'import json, sys
print(json.dumps({**json.load(open(sys.argv[1])), "distilled": {"teacher_sha256": sys.argv[2], "pairs": int(sys.argv[3])}}))' \
        "$out/pieces/train.json" "$of_teacher" "$pairs" > "$pieces/train.json"
    echo "$pairs of $(wc -l < "$out/pieces/train.$source") pairs"
}
once "$into/pieces" translate
for file in raw spm.model; do ln -sfn "$(realpath "$out/$file")" "$into/$file"; done

step "$corpus, distilled 2/2: binarised"
testpref=$(for split in $(test_sets); do echo "$into/pieces/$split"; done | paste -sd,)
once "$into/data-bin" run fairseq-preprocess -s "$source" -t "$target" \
    --trainpref "$into/pieces/train" --validpref "$into/pieces/valid" --testpref "$testpref" \
    --srcdict "$out/data-bin/dict.$source.txt" --joined-dictionary --destdir "$into/data-bin.part" --workers "$(nproc)"
