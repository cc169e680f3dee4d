# The learning rate of fairseq's Transformer: the one with the lowest perplexity on the validation set is the peer of
# comparison.sh. A table of scripts/ablate.sh; docs/quality.md says what came of it.
transformer=(
    transformer --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --encoder-layers 3 --encoder-attention-heads 4
    --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-layers 3 --decoder-attention-heads 4
    --optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt
)
for lr in 5e-4 1e-3 2e-3; do row "lr-$lr" "${transformer[@]}" --lr "$lr"; done
