#!/usr/bin/env bash
# From nothing to BLEU: prepare.sh, (distill.sh,) train.sh and evaluate.sh, one after the other.
#
#   scripts/reproduce.sh CORPUS [ARCH] [--teacher FILE[:FILE...]] [--from DIR | --mirror URL] [--out DIR] [-- OPTION...]
#
#   CORPUS         wmt14.en-de, wmt14.en-fr, multi30k.en-de, multi30k.en-fr, tatoeba.en-de, or a folder with a corpus.sh
#   ARCH           an architecture of the plugin (default: the corpus' own)
#   --teacher FILE  train on the teacher's translation of the training text, by distill.sh, in DIR/distilled
#   --from DIR     take local text, DIR/train.en and so on, one file a split and language, and download nothing
#   --mirror URL   download URL/FILE in place of each file's own address
#   --out DIR      write there (default: runs/CORPUS)
#   OPTION...      more options for fairseq-train
#
# It can be stopped at any point and run again: what is done is not done twice.
accepts='ARCH --teacher --from --mirror --out --'
. "$(dirname "$0")/common.sh"
"$root/scripts/prepare.sh" "$corpus_argument" ${from:+--from "$from"} ${mirror:+--mirror "$mirror"} --out "$out"
if [ -n "$teacher" ]; then
    "$root/scripts/distill.sh" "$corpus_argument" --teacher "$teacher" --out "$out"
    out=$out/distilled
fi
"$root/scripts/train.sh" "$corpus_argument" "$arch" --out "$out" -- "${options[@]}"
"$root/scripts/evaluate.sh" "$corpus_argument" "$arch" --out "$out"
