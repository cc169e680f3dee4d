#!/usr/bin/env bash
# From public archives to what fairseq-train reads.
#
#   scripts/prepare.sh CORPUS [--from DIR | --mirror URL] [--out DIR]
#
#   CORPUS         wmt14.en-de, wmt14.en-fr, multi30k.en-de, multi30k.en-fr, tatoeba.en-de, or a folder with a corpus.sh
#   --from DIR     take local text, DIR/train.en and so on, one file a split and language, and download nothing
#   --mirror URL   download URL/FILE in place of each file's own address
#   --out DIR      write there (default: runs/CORPUS)
#
# It can be stopped at any point and run again: what is done is not done twice.
accepts='--from --mirror --out'
. "$(dirname "$0")/common.sh"
no_one_else_in "$out"

[ -z "$from" ] || from=$(realpath -e "$from") || fail "--from: there is no such folder"
# Text of other settings is never taken for this one's.
same_settings "$out/settings" "$(declare -p source target vocab_size files texts from)"

step "$corpus 1/5: the files"
if [ -n "$from" ]; then
    echo "local text of $from"
    declare -A seen=()
    local_texts=()
    for ((i = 0; i < ${#texts[@]}; i += 3)); do
        split=${texts[i]}
        [ -z "${seen[$split]:-}" ] || continue
        seen[$split]=1
        # What the corpus holds out of train may lie there as a split of its own all the same.
        if [ "${texts[i + 1]}" = held-out ] && [ ! -e "$from/$split.$source" ]; then
            local_texts+=("${texts[@]:i:3}")
        else
            local_texts+=("$split" "$from/$split.$source" "$from/$split.$target")
        fi
    done
    texts=("${local_texts[@]}")
elif [ -e "$out/raw" ]; then
    echo "$out/downloads is done"
else
    run fairseq-resmlp download "${files[@]}" --to "$out/downloads" ${mirror:+--mirror "$mirror"}
fi

step "$corpus 2/5: raw text"
once "$out/raw" run fairseq-resmlp collect "${texts[@]}" --languages "$source" "$target" \
    --downloads "$out/downloads" --out-dir "$out/raw.part"

step "$corpus 3/5: $vocab_size pieces for both languages"
raw=$out/raw pieces=$out/pieces
[ -e "$out/spm.model" ] && echo "$out/spm.model is done" ||
    run fairseq-resmlp spm-train "$raw/train.$source" "$raw/train.$target" \
        --model "$out/spm.model" --vocab-size "$vocab_size"

step "$corpus 4/5: text to pieces"
encode() {
    run fairseq-resmlp spm-encode "$raw/train.$source" "$raw/train.$target" --model "$out/spm.model" \
        --out-dir "$pieces.part" --clean --report "$pieces.part/train.json"
    # What is scored is never cleaned.
    local files=()
    for split in valid $(test_sets); do files+=("$raw/$split.$source" "$raw/$split.$target"); done
    run fairseq-resmlp spm-encode "${files[@]}" --model "$out/spm.model" --out-dir "$pieces.part"
}
once "$pieces" encode

step "$corpus 5/5: binarised"
testpref=$(for split in $(test_sets); do echo "$pieces/$split"; done | paste -sd,)
once "$out/data-bin" run fairseq-preprocess -s "$source" -t "$target" \
    --trainpref "$pieces/train" --validpref "$pieces/valid" --testpref "$testpref" \
    --joined-dictionary --destdir "$out/data-bin.part" --workers "$(nproc)"
