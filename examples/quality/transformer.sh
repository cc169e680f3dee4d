# Tuning fairseq's Transformer, the peer of comparison.sh: learning rate, LayerNorm before each sublayer rather than after,
# dropout. A table of scripts/ablate.sh; docs/quality.md says what came of it.
. "$(dirname "$table")/peer.bash"
for lr in 5e-4 1e-3 2e-3 4e-3; do row "lr-$lr" "${transformer[@]}" --lr "$lr"; done
for lr in 2e-3 4e-3; do row "pre-norm-lr-$lr" "${transformer[@]}" --lr "$lr" "${pre_norm[@]}"; done
row dropout-0.3 "${transformer[@]}" --lr 2e-3 --dropout 0.3
