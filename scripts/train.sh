#!/usr/bin/env bash
# Train by the paper's recipe, with the settings of the corpus.
#
#   scripts/train.sh CORPUS [ARCH] [--name NAME] [--out DIR] [--data DIR] [-- OPTION...]
#
#   ARCH          an architecture of the plugin or of fairseq (default: the corpus' own)
#   --name NAME   checkpoints are in DIR/NAME/checkpoints (default: ARCH)
#   --out DIR     where prepare.sh wrote (default: runs/CORPUS)
#   --data DIR    train on the text there, where distill.sh wrote, rather than on that of --out
#   OPTION...     more options for fairseq-train, such as -- --lr 0.1
#
# It uses all GPUs of the machine, or its CPU. An update takes as many tokens whatever the number of devices. Several
# machines, or several processes on CPUs:
#
#   torchrun --nproc-per-node 2 --no-python scripts/train.sh CORPUS ARCH
#
# Run again, it goes on from its last checkpoint. Several machines need DIR on a file system that they share.
accepts='ARCH --name --out --data --'
. "$(dirname "$0")/common.sh"
if [ -z "$data" ]; then
    [ -e "$out/data-bin" ] || fail "$out/data-bin is not there: run scripts/prepare.sh $corpus first"
else
    [ -e "$data/data-bin" ] || fail "--data: $data/data-bin is not there: scripts/distill.sh $corpus --into $data makes it"
fi
text=${data:-$out}

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
devices=${WORLD_SIZE:-$((gpus > 0 ? gpus : 1))}
update_freq=$(((batch_tokens + devices * device_tokens - 1) / (devices * device_tokens)))
max_tokens=$((batch_tokens / (devices * update_freq)))

[ "$max_tokens" -gt 250 ] || fail "$batch_tokens tokens an update are $max_tokens for each of $devices devices, fewer than" \
    "the longest sentence has: use fewer devices (CUDA_VISIBLE_DEVICES), or raise batch_tokens in $folder/corpus.sh"
updates=$(option --max-update "$updates") save_updates=$(option --save-interval-updates "$save_updates")
[[ $updates =~ ^[1-9][0-9]*$ && $save_updates =~ ^[1-9][0-9]*$ ]] || fail "--max-update $updates and" \
    "--save-interval-updates $save_updates: write whole numbers above 0"
[ $((updates % save_updates)) = 0 ] || fail "$updates updates (--max-update) are not a multiple of $save_updates: the last" \
    "ones would not be in the average; take others, or another --save-interval-updates"

device_options=(--cpu)
criterion=fused_label_smoothed_cross_entropy # the same loss in less time and memory
if [ "$gpus" != 0 ]; then
    # With --fp16 fairseq rounds the parameters; --amp rounds products alone. Aff does not normalise activations.
    device_options=(--amp)
    criterion=label_smoothed_cross_entropy # the fused one takes two products in float32 where features are in float16
fi
if [ "$devices" -gt 1 ]; then
    # Without it the other ranks refuse what rank 0 sends them from a checkpoint.
    device_options+=(--load-checkpoint-on-all-dp-ranks)
fi
if [ -n "${WORLD_SIZE:-}" ]; then
    device_options+=(--distributed-world-size "$WORLD_SIZE" --distributed-rank "$RANK" --distributed-no-spawn
        --distributed-init-method env:// --device-id "$LOCAL_RANK")
    [ "$gpus" != 0 ] || device_options+=(--distributed-backend gloo --ddp-backend legacy_ddp)
fi

mkdir -p "$model"
log=/dev/null
if [ "${RANK:-0}" = 0 ]; then
    log=$model/train.log
    no_one_else_in "$model"
    # One model is never trained by two recipes. It can be trained for longer, saved and logged more often.
    settings=$(
        forget --save-interval-updates --log-interval
        # Other schedules follow from the number of updates.
        [[ ! $(option --lr-scheduler fixed) =~ ^(fixed|inverse_sqrt)$ ]] || forget --max-update
        declare -p arch dropout lr warmup_updates criterion devices max_tokens update_freq options
    )
    [ -z "$data" ] || settings+=" data: $(sha256sum < "$data/data-bin/train.$source-$target.$target.bin")"
    teacher=$(option --teacher '')
    if [ -n "$teacher" ]; then
        of_teacher=$(content_of "$teacher") || fail "--teacher $teacher: name checkpoints that are there, joined by colons"
        settings+=" teacher: $of_teacher"
    fi
    same_settings "$model/settings" "$settings"
    cp "$text/pieces/train.json" "$model" # for evaluate.sh: what it learned from
    step "$corpus, ${name:-$arch}: $updates updates of $batch_tokens tokens, on $devices $([ "$gpus" = 0 ] && echo CPU || echo GPU)" \
        "process(es) with $max_tokens tokens and --update-freq $update_freq"
fi
run fairseq-train "$text/data-bin" --user-dir "$plugin" --arch "$arch" --share-all-embeddings --dropout "$dropout" \
    --optimizer adagrad --lr "$lr" --lr-scheduler fixed --warmup-updates "$warmup_updates" --clip-norm 1.0 \
    --criterion "$criterion" --label-smoothing 0.1 \
    --max-tokens "$max_tokens" --update-freq "$update_freq" --max-update "$updates" --seed 1 \
    --save-interval-updates "$save_updates" --keep-interval-updates "$average" \
    --no-epoch-checkpoints --save-interval 1000000 --validate-interval 1000000 \
    --save-dir "$model/checkpoints" --tensorboard-logdir "$model/tensorboard" \
    --log-format simple --log-interval 100 "${device_options[@]}" "${options[@]}" 2>&1 | tee -a "$log"
