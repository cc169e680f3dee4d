# What makes short trainings stable and good: learning rate, warm-up, clipping, the initial A, the optimizer. Some stop
# where they have shown what they will become. A table of scripts/ablate.sh; docs/learning-rate.md says what came of it.
first=(--max-update 800 --save-interval-updates 200)
adam=(--optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt)
row linear-lr-0.05 resmlp_small_linear --max-update 1200
row linear-lr-0.1 resmlp_small_linear --lr 0.1 --max-update 2000
row linear-lr-0.2-warmup-32000 resmlp_small_linear --lr 0.2 --warmup-updates 32000 "${first[@]}"
row linear-no-clipping resmlp_small_linear --clip-norm 0 "${first[@]}"
row linear-random-A resmlp_small_linear --mixing-init-std 0.02 "${first[@]}"
row linear-adam-1e-3 resmlp_small_linear "${adam[@]}" --lr 1e-3 "${first[@]}"
row linear-layernorm-lr-0.1 resmlp_small_linear --normalization layer --lr 0.1 --max-update 1200
