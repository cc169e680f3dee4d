# Table for scripts/ablate.sh: base size on real text. Only the first row has been run. One thread of a CPU with
# AVX512-BF16 needs two seconds per update:
# scripts/ablate.sh tatoeba.en-de examples/quality/base-size.sh -- --bf16 --max-update 2800
row linear resmlp_base --lr 0.05 --warmup-updates 2000
row toeplitz-linear resmlp_base --token-mixing toeplitz_linear --normalization layer --lr 0.05 --warmup-updates 2000
row toeplitz-16 resmlp_base --token-mixing toeplitz --mixing-heads 16 --normalization layer --lr 0.05 \
    --warmup-updates 2000
row transformer-base transformer_wmt_en_de --optimizer adam --adam-betas '(0.9,0.98)' --lr 1e-3 \
    --lr-scheduler inverse_sqrt --warmup-updates 2000 --encoder-normalize-before --decoder-normalize-before
