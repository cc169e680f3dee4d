# fairseq's Transformer with the dimensions of resmlp_small and the recipe of fairseq's examples. Sourced by the tables.
transformer=(
    transformer --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --encoder-layers 3 --encoder-attention-heads 4
    --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-layers 3 --decoder-attention-heads 4
    --optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt
)
pre_norm=(--encoder-normalize-before --decoder-normalize-before)
