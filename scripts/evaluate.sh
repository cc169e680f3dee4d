#!/usr/bin/env -S bash -p
# Average the last checkpoints, compute the perplexity on the validation set, translate the test sets with beam search,
# and score the translations.
#
#   scripts/evaluate.sh CORPUS [ARCH] [--name NAME] [--out DIR] [--baseline FILE] [-- OPTION...]
#
#   ARCH             architecture that was trained (default: default_arch of the corpus)
#   --name NAME      name that was passed to train.sh (default: ARCH)
#   --out DIR        output directory of prepare.sh and train.sh (default: runs/CORPUS)
#   --baseline FILE  another system's translation of the first test set, to compare with by paired bootstrap
#   OPTION...        more options for fairseq-generate
#
# The translation, scores.txt and scores.json of each test set are written to DIR/NAME/TEST. Results of another model or
# of other options in that directory are replaced.
accepts='ARCH --name --out --baseline --'
. "$(dirname -- "$0")/common.sh"
mapfile -t checkpoints < <(
    find "$model/checkpoints" -name 'checkpoint_*_*.pt' 2> /dev/null | sort -V | tail -n "$average"
)
[ ${#checkpoints[@]} -gt 0 ] || fail "no checkpoints found in $model/checkpoints: scripts/train.sh $corpus $arch" \
    "writes one every $save_updates updates"
lock_directory "$model"

step "$corpus, ${name:-$arch} 1/3: average ${#checkpoints[@]} checkpoints"
mean=$model/average${#checkpoints[@]}.pt
if [ "$mean" -nt "${checkpoints[-1]}" ]; then
    echo "$mean exists, skipped"
else
    run fairseq-resmlp average "${checkpoints[@]}" --output "$mean"
fi

step "$corpus, ${name:-$arch} 2/3: perplexity on the validation set"
if [ "$model/valid.txt" -nt "$mean" ]; then
    echo "$model/valid.txt exists, skipped"
else
    run fairseq-validate "$out/data-bin" --user-dir "$plugin" --path "$mean" --task translation --valid-subset valid \
        --max-tokens 4000 2>&1 | tee "$model/valid.txt.part"
    mv "$model/valid.txt.part" "$model/valid.txt"
fi
perplexity=$(sed -n "s/.*valid on 'valid' subset.* ppl \([^ ]*\).*/\1/p" "$model/valid.txt")
[ -n "$perplexity" ] || fail "fairseq-validate printed no perplexity: see $model/valid.txt"
echo "perplexity: $perplexity"

number=''
for test in $(test_sets); do
    step "$corpus, ${name:-$arch} 3/3: translate and score $test"
    results=$model/$test
    generate=(fairseq-generate "$out/data-bin" --user-dir "$plugin" --path "$mean" --gen-subset "test$number"
        --beam "$beam" --lenpen "$lenpen" --remove-bpe sentencepiece --max-tokens 4000 "${options[@]}")
    made_by="${generate[*]} $(sha256sum < "$mean")"
    if [ -e "$results" ]; then
        [ -f "$results/made_by" ] || fail "$results was not written by this script: move it, or rename the test set" \
            "$test in $corpus_dir/corpus.sh"
        if [ "$(cat "$results/made_by")" != "$made_by" ]; then
            other=$(find "$results/" -mindepth 1 ! -name "generate-test*.txt" ! -name "translation.$target" \
                ! -name made_by ! -name scores.txt ! -name scores.json ! -name .fairseq-resmlp)
            [ -z "$other" ] || fail "$results is from another model or command, but also contains other files: move" \
                "it, or remove it"
            echo "$results is from another model or command: replacing it"
            rm -r "$results"
        fi
    fi
    translate() {
        run "${generate[@]}" --results-path "$results.part"
        # Lines H-<sentence> <score> <translation>, grouped by length: restore the order of the test set
        grep ^H- "$results.part/generate-test$number.txt" | sed s/^H-// | LC_ALL=C sort -n | cut -f3 \
            > "$results.part/translation.$target"
        echo "$made_by" > "$results.part/made_by"
    }
    once "$results" translate
    fairseq-resmlp score "$results/translation.$target" --reference "$out/raw/$test.$target" --target-lang "$target" \
        --checkpoint "$mean" --metadata corpus="$corpus" --metadata test="$test" \
        --metadata valid_perplexity="$perplexity" --metadata average="${checkpoints[*]}" \
        --metadata generate="${generate[*]}" --metadata-json train="$model/train.json" \
        ${baseline:+--baseline "$baseline"} --json "$results/scores.json" | tee "$results/scores.txt"
    number=$((number + 1)) baseline=''
done
