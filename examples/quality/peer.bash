# fairseq's models with the dimensions of resmlp_small and the recipe of fairseq's examples. Sourced by the tables.
adam=(--optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt)
dimensions=(
    --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --encoder-layers 3 --encoder-attention-heads 4
    --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-layers 3 --decoder-attention-heads 4
)
transformer=(transformer "${dimensions[@]}" "${adam[@]}")
# Lightweight convolutions (Wu et al., 2019), in PyTorch. Kernels grow from layer to layer, as in the paper. LightConv
# returns features in another form than the fused criterion expects.
lightconv=(
    lightconv "${dimensions[@]}" --encoder-conv-dim 256 --decoder-conv-dim 256
    --encoder-kernel-size-list '[3,7,15]' --decoder-kernel-size-list '[3,7,15]' "${adam[@]}"
    --criterion label_smoothed_cross_entropy
)
pre_norm=(--encoder-normalize-before --decoder-normalize-before)
