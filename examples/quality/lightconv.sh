# Table for scripts/ablate.sh: tuning fairseq's LightConv, which has convolutions in place of self-attention. Learning
# rate, normalization before instead of after each sublayer. Not run yet.
. "$(dirname "$table")/peer.bash"
for lr in 1e-3 2e-3 4e-3; do row "lr-$lr" "${lightconv[@]}" --lr "$lr"; done
row pre-norm-lr-2e-3 "${lightconv[@]}" --lr 2e-3 "${pre_norm[@]}"
