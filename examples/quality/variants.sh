# What each part of the model is worth: one part changed at a time, half the updates of a full training. A table of
# scripts/ablate.sh; docs/quality.md says what came of it.
against=linear
short=(--max-update 3200)
row linear resmlp_small "${short[@]}"
row transformer-1e-3 transformer --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --encoder-layers 3 \
    --encoder-attention-heads 4 --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-layers 3 \
    --decoder-attention-heads 4 --optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt --lr 1e-3 \
    "${short[@]}"
row none resmlp_small --token-mixing none "${short[@]}"
row heads-4 resmlp_small --mixing-heads 4 "${short[@]}"
row toeplitz resmlp_small --token-mixing toeplitz "${short[@]}"
row toeplitz-16 resmlp_small --token-mixing toeplitz --mixing-heads 16 "${short[@]}"
row conv resmlp_small --token-mixing conv "${short[@]}"
row mlp resmlp_small --token-mixing mlp "${short[@]}"
row layernorm resmlp_small --normalization layer "${short[@]}"
row learned-positions resmlp_small --positional-embeddings learned "${short[@]}"
row sinusoidal-positions resmlp_small --positional-embeddings sinusoidal "${short[@]}"
row no-bias resmlp_small --no-mixing-bias "${short[@]}"
row relu resmlp_small --activation-fn relu "${short[@]}"
row random-A resmlp_small --mixing-init-std 0.02 "${short[@]}"
row lr-0.1 resmlp_small --lr 0.1 --warmup-updates 1000 "${short[@]}"
row no-clipping resmlp_small --clip-norm 0 "${short[@]}"
row adam resmlp_small --optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt --lr 1e-3 "${short[@]}"
