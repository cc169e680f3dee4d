# Table for scripts/ablate.sh: ablations of the paper's layer. Each row after the first changes one part, or LayerNorm
# and one more part. Training is about half as long as in comparison.sh (3,200 of 6,000 updates on Multi30k).
# Results: docs/ablations.md
baseline=linear
short=(--max-update 3200)
row linear resmlp_small_linear "${short[@]}"
row none resmlp_small_linear --token-mixing none "${short[@]}"
row heads-4 resmlp_small_linear --mixing-heads 4 "${short[@]}"
row toeplitz resmlp_small_linear --token-mixing toeplitz "${short[@]}"
row toeplitz-16 resmlp_small_linear --token-mixing toeplitz --mixing-heads 16 "${short[@]}"
row conv resmlp_small_linear --token-mixing conv "${short[@]}"
row mlp resmlp_small_linear --token-mixing mlp "${short[@]}"
row layernorm resmlp_small_linear --normalization layer "${short[@]}"
row layernorm-no-bias resmlp_small_linear --normalization layer --no-mixing-bias "${short[@]}"
row layernorm-conv resmlp_small_linear --token-mixing conv --normalization layer "${short[@]}"
row learned-positions resmlp_small_linear --positional-embeddings learned "${short[@]}"
row sinusoidal-positions resmlp_small_linear --positional-embeddings sinusoidal "${short[@]}"
row no-bias resmlp_small_linear --no-mixing-bias "${short[@]}"
row relu resmlp_small_linear --activation-fn relu "${short[@]}"
