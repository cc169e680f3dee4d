# The learning rate of fairseq's Transformer: the one with the lowest perplexity on the validation set is the peer of
# comparison.sh. A table of scripts/ablate.sh; docs/quality.md says what came of it.
. "$(dirname "$table")/peer.bash"
for lr in 5e-4 1e-3 2e-3 4e-3; do row "lr-$lr" "${transformer[@]}" --lr "$lr"; done
