# Table for scripts/ablate.sh: tuning fairseq's Transformer, the baseline of comparison.sh. Learning rate, LayerNorm
# before instead of after each sublayer, dropout. Results: docs/ablations.md
. "$(dirname "$table")/peer.bash"
for lr in 5e-4 1e-3 2e-3 4e-3; do row "lr-$lr" "${transformer[@]}" --lr "$lr"; done
for lr in 2e-3 4e-3; do row "pre-norm-lr-$lr" "${transformer[@]}" --lr "$lr" "${pre_norm[@]}"; done
row dropout-0.3 "${transformer[@]}" --lr 2e-3 --dropout 0.3
