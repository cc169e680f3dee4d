# Table for scripts/ablate.sh: seq2seq ResMLP and fairseq's Transformer of the same dimensions, with LayerNorm after
# each sublayer (fairseq's default) and before. Results: docs/quality.md
baseline=transformer-pre-norm
. "$(dirname "$table")/peer.bash"
row transformer "${transformer[@]}" --lr 2e-3
row transformer-pre-norm "${transformer[@]}" --lr 2e-3 "${pre_norm[@]}"
row linear resmlp_small_linear
row linear-tuned resmlp_small_linear --lr 0.1 --dropout 0.1
row linear-layernorm resmlp_small_linear --normalization layer
row toeplitz-linear resmlp_small_linear --token-mixing toeplitz_linear --normalization layer
row resmlp_small resmlp_small
