#!/usr/bin/env -S bash -p
# Sequence-level distillation (Kim and Rush, 2016, arXiv 1606.07947): translate the training text with a teacher, and
# replace the references with its translations.
#
#   scripts/distill.sh CORPUS --teacher FILE[:FILE...] [--out DIR] [--into DIR] [-- OPTION...]
#
#   --teacher FILE   checkpoint of any fairseq model trained on CORPUS; several checkpoints form an ensemble
#   --out DIR        output directory of prepare.sh (default: runs/CORPUS)
#   --into DIR       output directory, with the same layout (default: DIR/distilled, with DIR from --out)
#   OPTION...        more options for fairseq-generate
#
# To train and evaluate on the result, pass its directory: scripts/train.sh CORPUS --out runs/CORPUS/distilled
accepts='--teacher --out --into --'
. "$(dirname -- "$0")/common.sh"
[ -e "$out/data-bin" ] || fail "$out/data-bin not found: run scripts/prepare.sh $corpus first"
[ -n "$teacher" ] || fail "--teacher is required"
teacher_sha256=$(sha256_of "$teacher") || fail "--teacher $teacher: specify existing checkpoints, joined by colons"
into=${into:-$out/distilled}
[ "$(realpath -m "$into")" != "$(realpath -m "$out")" ] || fail "--into and --out are both $out: choose another --into"
lock_directory "$into"
require_same_settings "$into/settings" \
    "$teacher_sha256 $(sha256sum < "$out/pieces/train.$source") $(declare -p beam lenpen options)"

step "$corpus, distill 1/2: translate the training text with the teacher"
translate() {
    local pieces=$into/pieces.part split language
    run fairseq-generate "$out/data-bin" --user-dir "$plugin" --path "$teacher" --gen-subset train \
        --beam "$beam" --lenpen "$lenpen" --max-tokens 4000 --skip-invalid-size-inputs-valid-test \
        --results-path "$pieces" "${options[@]}"
    # Lines H-<sentence> <score> <tokens>, grouped by length: sort by sentence number and pair with the source
    grep ^H- "$pieces/generate-train.txt" | sed s/^H-// | LC_ALL=C sort -n > "$pieces/hypotheses"
    [ -z "$(cut -f1 "$pieces/hypotheses" | uniq -d)" ] || fail "several translations per sentence: remove --nbest"
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
distilled = {"teacher_sha256": sys.argv[2], "pairs": int(sys.argv[3])}
print(json.dumps({**json.load(open(sys.argv[1])), "distilled": distilled}))' \
        "$out/pieces/train.json" "$teacher_sha256" "$pairs" > "$pieces/train.json"
    echo "$pairs of $(wc -l < "$out/pieces/train.$source") pairs"
}
once "$into/pieces" translate
for file in raw spm.model; do ln -sfn "$(realpath "$out/$file")" "$into/$file"; done

step "$corpus, distill 2/2: binarize"
testpref=$(for split in $(test_sets); do echo "$into/pieces/$split"; done | paste -sd,)
once "$into/data-bin" run fairseq-preprocess -s "$source" -t "$target" \
    --trainpref "$into/pieces/train" --validpref "$into/pieces/valid" --testpref "$testpref" \
    --srcdict "$out/data-bin/dict.$source.txt" --joined-dictionary --destdir "$into/data-bin.part" --workers "$(nproc)"
