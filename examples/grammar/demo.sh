#!/usr/bin/env -S bash -p
# From raw text to BLEU on the grammar corpus, in a few minutes on a CPU. `make demo` runs this script.
# Every command is printed before it runs. A second run reuses the output of the first.
#
#   examples/grammar/demo.sh [DIR]     DIR is the output directory (default: demo)
. "$(dirname -- "$0")/../../scripts/environment.sh"
out=$(realpath -m -- "${1:-demo}")
cd -- "$(dirname -- "$0")/../.."
out=${out#"$PWD/"}
check_path DIR "$out"

run() {
    printf '\n$' >&2
    printf ' %q' "$@" >&2
    printf '\n' >&2
    "$@"
}

run_line() {
    printf '\n$ %s\n' "$1" >&2
    eval "$1"
}

# train_and_translate NAME OPTION...: train a model in $out/NAME and write its translation of the test set there.
train_and_translate() {
    local name=$1
    shift
    mkdir -p "$out/$name" # fairseq opens the log file before it creates this directory
    run fairseq-train "$out/data-bin" --user-dir fairseq_resmlp --arch resmlp_tiny --share-all-embeddings "$@" \
        --optimizer adagrad --lr 0.1 --lr-scheduler fixed --warmup-updates 300 --clip-norm 1.0 \
        --criterion fused_label_smoothed_cross_entropy --label-smoothing 0.1 \
        --max-tokens 1000 --max-epoch 3 --no-epoch-checkpoints --seed 1 --cpu \
        --save-dir "$out/$name" --log-interval 100 --log-format simple --log-file "$out/$name/train.log"
    run fairseq-generate "$out/data-bin" --user-dir fairseq_resmlp --path "$out/$name/checkpoint_best.pt" \
        --beam 4 --remove-bpe sentencepiece --max-tokens 4000 --cpu --results-path "$out/$name"
    # Lines H-<sentence> <score> <translation>, grouped by length: restore the order of the test set
    local dir
    dir=$(printf %q "$out/$name")
    run_line "grep ^H- $dir/generate-test.txt | sed s/^H-// | sort -n | cut -f3 > $dir/test.hyp.de"
}

share_cores 1
mkdir -p "$out"
if [ ! -d "$out/data-bin" ]; then
    run python examples/grammar/make_corpus.py "$out/raw"
    run fairseq-resmlp spm-train "$out"/raw/train.en "$out"/raw/train.de --model "$out/spm.model" --vocab-size 1000
    run fairseq-resmlp spm-encode "$out"/raw/{train,valid,test}.{en,de} --model "$out/spm.model" --out-dir "$out/pieces"
    rm -rf "$out/data-bin.part"
    run fairseq-preprocess -s en -t de --trainpref "$out/pieces/train" --validpref "$out/pieces/valid" \
        --testpref "$out/pieces/test" --joined-dictionary --destdir "$out/data-bin.part" --workers 2
    mv "$out/data-bin.part" "$out/data-bin"
fi

train_and_translate linear
# The same training with A = 0: only cross-attention mixes tokens.
train_and_translate none --token-mixing none

# The model directory that ResMLPModel.from_pretrained loads
mkdir -p "$out/model"
cp "$out/linear/checkpoint_best.pt" "$out/model/model.pt"
cp "$out"/data-bin/dict.{en,de}.txt "$out/model"
cp "$out/spm.model" "$out/model/sentencepiece.bpe.model"

echo
echo "Five of the 500 test sentences:"
paste "$out/raw/test.en" "$out/linear/test.hyp.de" "$out/raw/test.de" |
    awk -F '\t' 'NR <= 5 { printf "\nsource       %s\ntranslation  %s\nreference    %s\n", $1, $2, $3 }'
echo
echo "With token mixing:"
run sacrebleu "$out/raw/test.de" -i "$out/linear/test.hyp.de" -f text
echo
echo "Without it (--token-mixing none):"
run sacrebleu "$out/raw/test.de" -i "$out/none/test.hyp.de" -f text
cat <<END

Output:
  $out/raw                     the corpus, raw text
  $out/spm.model, $out/pieces  SentencePiece model, and the corpus in SentencePiece tokens
  $out/data-bin                the corpus binarized by fairseq-preprocess
  $out/linear, $out/none       checkpoints, logs, translations
  $out/model                   the model with token mixing, to translate with:

python -c "from fairseq_resmlp import ResMLPModel
print(ResMLPModel.from_pretrained('$out/model').translate(['The old king sees a small dog.']))"

Next: plot what the layers have learned, or translate in a browser. Install the dependencies of these commands with
make install EXTRAS=server,report

fairseq-resmlp report $out/linear $out/none --out $out/report
fairseq-resmlp serve $out/model
END
