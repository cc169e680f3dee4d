#!/usr/bin/env bash
# Average the last checkpoints, take the perplexity on the validation set, translate the test sets with beam search,
# and score them, saying which BLEU each is.
#
#   scripts/evaluate.sh CORPUS [ARCH] [--name NAME] [--out DIR] [--against FILE] [-- OPTION...]
#
#   ARCH             the architecture that was trained (default: the corpus' own)
#   --name NAME      the name that train.sh was given (default: ARCH)
#   --out DIR        where prepare.sh and train.sh wrote (default: runs/CORPUS)
#   --against FILE   another system's translation of the first test set: compare by paired bootstrap
#   OPTION...        more options for fairseq-generate
#
# For each test set it writes a folder DIR/NAME/TEST with the translation, scores.txt and scores.json, in place of one by
# another model or with other options.
accepts='ARCH --name --out --against --'
. "$(dirname "$0")/common.sh"
mapfile -t checkpoints < <(find "$model/checkpoints" -name 'checkpoint_*_*.pt' 2> /dev/null | sort -V | tail -n "$average")
[ ${#checkpoints[@]} -gt 0 ] || fail "no checkpoints in $model/checkpoints: scripts/train.sh $corpus $arch writes one" \
    "after every $save_updates updates"
no_one_else_in "$model"

step "$corpus, ${name:-$arch} 1/3: the mean of ${#checkpoints[@]} checkpoints"
mean=$model/average${#checkpoints[@]}.pt
if [ "$mean" -nt "${checkpoints[-1]}" ]; then
    echo "$mean is done"
else
    run fairseq-resmlp average "${checkpoints[@]}" --output "$mean"
fi

step "$corpus, ${name:-$arch} 2/3: perplexity on the validation set"
if [ "$model/valid.txt" -nt "$mean" ]; then
    echo "$model/valid.txt is done"
else
    run fairseq-validate "$out/data-bin" --user-dir "$plugin" --path "$mean" --task translation --valid-subset valid \
        --max-tokens 4000 2>&1 | tee "$model/valid.txt.part"
    mv "$model/valid.txt.part" "$model/valid.txt"
fi
perplexity=$(sed -n "s/.*valid on 'valid' subset.* ppl \([^ ]*\).*/\1/p" "$model/valid.txt")
[ -n "$perplexity" ] || fail "fairseq-validate gave no perplexity: see $model/valid.txt"
echo "perplexity: $perplexity"

number=''
for test in $(test_sets); do
    step "$corpus, ${name:-$arch} 3/3: $test"
    results=$model/$test
    generate=(fairseq-generate "$out/data-bin" --user-dir "$plugin" --path "$mean" --gen-subset "test$number"
        --beam "$beam" --lenpen "$lenpen" --remove-bpe sentencepiece --max-tokens 4000 "${options[@]}")
    made_by="${generate[*]} $(sha256sum < "$mean")"
    if [ -e "$results" ] && [ "$(cat "$results/made_by")" != "$made_by" ]; then
        echo "$results is of another model or command: made anew"
        rm -rf "$results"
    fi
    translate() {
        run "${generate[@]}" --results-path "$results.part"
        # Lines H-<sentence> <score> <translation>, longest sentences first: back into the order of the test set
        grep ^H- "$results.part/generate-test$number.txt" | sed s/^H-// | LC_ALL=C sort -n | cut -f3 \
            > "$results.part/translation.$target"
        echo "$made_by" > "$results.part/made_by"
    }
    once "$results" translate
    fairseq-resmlp score "$results/translation.$target" --reference "$out/raw/$test.$target" --target-lang "$target" \
        --checkpoint "$mean" --record corpus="$corpus" --record test="$test" \
        --record valid_perplexity="$perplexity" \
        --record average="${checkpoints[*]}" --record generate="${generate[*]}" --record-json train="$model/train.json" \
        ${against:+--against "$against"} --json "$results/scores.json" | tee "$results/scores.txt"
    number=$((number + 1)) against=''
done
