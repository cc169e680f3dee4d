# Seq2seq ResMLP and fairseq's Transformer of the same dimensions. A table of scripts/ablate.sh; docs/quality.md says
# what came of it.
against=transformer
transformer=(
    transformer --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --encoder-layers 3 --encoder-attention-heads 4
    --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-layers 3 --decoder-attention-heads 4
    --optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt
)
row transformer "${transformer[@]}" --lr 2e-3
row linear resmlp_small_linear
row toeplitz-16 resmlp_small
