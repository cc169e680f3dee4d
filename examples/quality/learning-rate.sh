# What makes short trainings stable and good: learning rate, warm-up, clipping, the initial A, the optimizer, of the
# paper's layer and of resmlp_small. The first 1,600 updates. A table of scripts/ablate.sh.
first=(--max-update 1600 --save-interval-updates 200)
adam=(--optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt)
row linear-lr-0.025 resmlp_small_linear --lr 0.025 "${first[@]}"
row linear-lr-0.05 resmlp_small_linear "${first[@]}"
row linear-lr-0.1 resmlp_small_linear --lr 0.1 "${first[@]}"
row linear-lr-0.1-warmup-1000 resmlp_small_linear --lr 0.1 --warmup-updates 1000 "${first[@]}"
row linear-warmup-100 resmlp_small_linear --warmup-updates 100 "${first[@]}"
row linear-no-clipping resmlp_small_linear --clip-norm 0 "${first[@]}"
row linear-random-A resmlp_small_linear --mixing-init-std 0.02 "${first[@]}"
row linear-adam-1e-3 resmlp_small_linear "${adam[@]}" --lr 1e-3 "${first[@]}"
row linear-adam-3e-3 resmlp_small_linear "${adam[@]}" --lr 3e-3 "${first[@]}"
row small-lr-0.025 resmlp_small --lr 0.025 "${first[@]}"
row small-lr-0.05 resmlp_small "${first[@]}"
row small-lr-0.1 resmlp_small --lr 0.1 "${first[@]}"
row small-dropout-0.3 resmlp_small --dropout 0.3 "${first[@]}"
row small-adam-1e-3 resmlp_small "${adam[@]}" --lr 1e-3 "${first[@]}"
