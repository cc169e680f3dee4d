# Table for scripts/ablate.sh: stability and quality of short training runs. Learning rate, warm-up, clipping, initial
# A, optimizer. Some rows stop early, when the result is clear. Results: docs/training.md
short=(--max-update 800 --save-interval-updates 200)
adam=(--optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt)
row linear-lr-0.05 resmlp_small_linear --max-update 1200
row linear-lr-0.1 resmlp_small_linear --lr 0.1 --max-update 2000
row linear-lr-0.2-warmup-32000 resmlp_small_linear --lr 0.2 --warmup-updates 32000 "${short[@]}"
row linear-no-clipping resmlp_small_linear --clip-norm 0 "${short[@]}"
row linear-random-A resmlp_small_linear --mixing-init-std 0.02 "${short[@]}"
row linear-adam-1e-3 resmlp_small_linear "${adam[@]}" --lr 1e-3 "${short[@]}"
row linear-layernorm-lr-0.1 resmlp_small_linear --normalization layer --lr 0.1 --max-update 1200
