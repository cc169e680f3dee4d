#!/usr/bin/env -S bash -p
# Prepare a corpus: download, extract the raw text, train a SentencePiece model, clean and encode, binarize.
#
#   scripts/prepare.sh CORPUS [--from DIR | --mirror URL] [--out DIR]
#
#   CORPUS         wmt14.en-de, wmt14.en-fr, multi30k.en-de, multi30k.en-fr, tatoeba.en-de, or a directory that
#                  contains a corpus.sh
#   --from DIR     use local text instead of downloading: for each split, DIR/train.en and DIR/train.de, also with .txt
#                  or .gz, or one document such as DIR/train.tsv with both languages: .tsv, .csv, .tmx, .xlf, also .gz
#   --mirror URL   download URL/FILE instead of each file's own address
#   --out DIR      output directory (default: runs/CORPUS)
#
# The script can be interrupted at any point and run again. Finished steps are skipped.
accepts='--from --mirror --out'
. "$(dirname -- "$0")/common.sh"
lock_directory "$out"

if [ -n "$from" ]; then
    [ -d "$from" ] || fail "--from $from: directory not found"
    from=$(realpath "$from")
fi
# Output of a run with different settings is never reused.
require_same_settings "$out/settings" \
    "$(declare -p source target vocab_size files texts from; [ "$join_share" = 0 ] || declare -p join_share)"

# local_text SPLIT: set `places` to the source and the target of a split in --from, or to () if there is none.
local_text() {
    local suffix found=()
    places=()
    for suffix in '' .gz .txt .txt.gz; do
        [ ! -e "$from/$1.$source$suffix" ] || found+=("$from/$1."{"$source","$target"}"$suffix")
    done
    for suffix in {tsv,csv,tmx,xlf,xliff}{,.gz}; do
        [ ! -e "$from/$1.$suffix" ] || found+=("$from/$1.$suffix" "$from/$1.$suffix")
    done
    [ ${#found[@]} -le 2 ] || fail "$from has several texts of $1, such as ${found[0]} and ${found[2]}: keep one of them"
    places=("${found[@]}")
}

step "$corpus 1/5: download"
if [ -n "$from" ]; then
    echo "using local text in $from"
    declare -A seen=()
    local_texts=()
    for ((i = 0; i < ${#texts[@]}; i += 3)); do
        split=${texts[i]}
        [ -z "${seen[$split]:-}" ] || continue
        seen[$split]=1
        local_text "$split"
        # A split that the corpus holds out of train is used if DIR contains it.
        if [ ${#places[@]} = 0 ] && [ "${texts[i + 1]}" = held-out ]; then places=("${texts[@]:i+1:2}"); fi
        [ ${#places[@]} = 2 ] || fail "--from $from: found neither $split.$source and $split.$target, also with .txt or" \
            ".gz, nor $split.tsv, .csv, .tmx or .xlf"
        local_texts+=("$split" "${places[@]}")
    done
    texts=("${local_texts[@]}")
elif [ -e "$out/raw" ]; then
    echo "$out/raw exists, download skipped"
elif [ ${#files[@]} = 0 ]; then
    echo "the corpus has no files to download"
else
    run fairseq-resmlp download "${files[@]}" --to "$out/downloads" ${mirror:+--mirror "$mirror"}
fi

step "$corpus 2/5: extract the raw text"
once "$out/raw" run fairseq-resmlp extract "${texts[@]}" --languages "$source" "$target" \
    --downloads "$out/downloads" --out-dir "$out/raw.part"

step "$corpus 3/5: train a SentencePiece model with $vocab_size tokens"
raw=$out/raw pieces=$out/pieces
[ -e "$out/spm.model" ] && echo "$out/spm.model exists, skipped" ||
    run fairseq-resmlp spm-train "$raw/train.$source" "$raw/train.$target" \
        --model "$out/spm.model" --vocab-size "$vocab_size"

step "$corpus 4/5: clean and encode"
join=()
[ "$join_share" = 0 ] || join=(--join-share "$join_share")
encode() {
    run fairseq-resmlp spm-encode "$raw/train.$source" "$raw/train.$target" --model "$out/spm.model" \
        --out-dir "$pieces.part" --clean "${join[@]}" --report "$pieces.part/train.json"
    # Validation and test sets are never cleaned.
    local files=()
    for split in valid $(test_sets); do files+=("$raw/$split.$source" "$raw/$split.$target"); done
    run fairseq-resmlp spm-encode "${files[@]}" --model "$out/spm.model" --out-dir "$pieces.part"
}
once "$pieces" encode

step "$corpus 5/5: binarize"
testpref=$(for split in $(test_sets); do echo "$pieces/$split"; done | paste -sd,)
once "$out/data-bin" run fairseq-preprocess -s "$source" -t "$target" \
    --trainpref "$pieces/train" --validpref "$pieces/valid" --testpref "$testpref" \
    --joined-dictionary --destdir "$out/data-bin.part" --workers "$(nproc)"
