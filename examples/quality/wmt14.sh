# Table for scripts/ablate.sh: WMT14 at base size. The paper's layer, the variants that are best at small size, and
# fairseq's Transformer base with the recipe of Vaswani et al. (2017). Not run.
baseline=transformer-base
row transformer-base transformer_wmt_en_de --optimizer adam --adam-betas '(0.9,0.98)' --lr 7e-4 \
    --lr-scheduler inverse_sqrt --warmup-updates 4000 --warmup-init-lr 1e-7 --clip-norm 0 --dropout 0.1
row linear resmlp_base
row toeplitz-linear resmlp_base --token-mixing toeplitz_linear --normalization layer
row toeplitz-16 resmlp_base --token-mixing toeplitz --mixing-heads 16 --normalization layer
