# Table for scripts/ablate.sh: tuning fairseq's LightConv, the attention-free peer of comparison.sh. Learning rate,
# normalization before instead of after each sublayer. Results: docs/quality.md
. "$(dirname "$table")/peer.bash"
for lr in 1e-3 2e-3 4e-3; do row "lr-$lr" "${lightconv[@]}" --lr "$lr"; done
row pre-norm-lr-2e-3 "${lightconv[@]}" --lr 2e-3 "${pre_norm[@]}"
