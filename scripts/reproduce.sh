#!/usr/bin/env -S bash -p
# Run the whole experiment, from raw text to BLEU: prepare.sh, train.sh and evaluate.sh, and distill.sh with --teacher.
#
#   scripts/reproduce.sh CORPUS [ARCH] [--teacher FILE[:FILE...]] [--from DIR | --mirror URL] [--out DIR] [-- OPTION...]
#
#   CORPUS          wmt14.en-de, wmt14.en-fr, multi30k.en-de, multi30k.en-fr, tatoeba.en-de, or a directory that
#                   contains a corpus.sh
#   ARCH            architecture of the plugin (default: default_arch of the corpus)
#   --teacher FILE  train on the teacher's translation of the training text, written to DIR/distilled by distill.sh
#   --from DIR      use local text instead of downloading: for each split, DIR/train.en and DIR/train.de, also with .txt
#                   or .gz, or one document such as DIR/train.tsv with both languages: .tsv, .csv, .tmx, .xlf, also .gz
#   --mirror URL    download URL/FILE instead of each file's own address
#   --out DIR       output directory (default: runs/CORPUS)
#   OPTION...       more options for fairseq-train
#
# The script can be interrupted at any point and run again. Finished steps are skipped.
accepts='ARCH --teacher --from --mirror --out --'
. "$(dirname -- "$0")/common.sh"
"$root/scripts/prepare.sh" "$corpus_argument" ${from:+--from "$from"} ${mirror:+--mirror "$mirror"} --out "$out"
if [ -n "$teacher" ]; then
    "$root/scripts/distill.sh" "$corpus_argument" --teacher "$teacher" --out "$out"
    out=$out/distilled
fi
"$root/scripts/train.sh" "$corpus_argument" "$arch" --out "$out" -- "${options[@]}"
"$root/scripts/evaluate.sh" "$corpus_argument" "$arch" --out "$out"

model=$out/$arch
exported=$model/exported
read -r test < <(test_sets)
test=$out/raw/$test.$source
step "$corpus, $arch: done. Checkpoints, logs, translations and scores are in $model. Next:"
next() { printf '%s\n' "$(printf ' %q' "$@" | cut -c2-)"; }
[ -z "$activate" ] || echo "$activate"
if [ -e "$exported" ]; then
    echo "# $exported exists: remove it to export the model again"
else
    next fairseq-resmlp export "$model" "$exported"
fi
next fairseq-resmlp translate "$exported" --input "$test" --output "$model/translation.$target"
python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("fastapi"))' ||
    next python -m pip install "$root[server]"
next fairseq-resmlp serve "$exported"
