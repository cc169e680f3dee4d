#!/usr/bin/env -S bash -p
# Train a model with the paper's recipe and the settings of the corpus.
#
#   scripts/train.sh CORPUS [ARCH] [--name NAME] [--out DIR] [--data DIR] [-- OPTION...]
#
#   ARCH          architecture of the plugin or of fairseq (default: default_arch of the corpus)
#   --name NAME   write to DIR/NAME, with DIR from --out (default: ARCH)
#   --out DIR     output directory of prepare.sh (default: runs/CORPUS)
#   --data DIR    train on the output of distill.sh in this directory instead of the data in --out
#   OPTION...     more options for fairseq-train, such as -- --lr 0.1
#
# All GPUs of the machine are used, or its CPU. The number of tokens per update does not depend on the number of
# devices. Use torchrun for several machines, or for several processes on CPUs:
#
#   torchrun --nproc-per-node 2 --no-python scripts/train.sh CORPUS ARCH
#
# Run the same command again to resume from the last checkpoint. Several machines need DIR on a shared file system.
accepts='ARCH --name --out --data --'
. "$(dirname -- "$0")/common.sh"
if [ -z "$data" ]; then
    [ -e "$out/data-bin" ] || fail "$out/data-bin not found: run scripts/prepare.sh $corpus first"
else
    [ -e "$data/data-bin" ] ||
        fail "--data: $data/data-bin not found: run scripts/distill.sh $corpus --into $data first"
fi
text=${data:-$out}

if [ -n "${WORLD_SIZE:-}" ]; then
    [[ $WORLD_SIZE =~ ^[1-9][0-9]*$ && ${RANK-} =~ ^[0-9]+$ && ${LOCAL_RANK-} =~ ^[0-9]+$ ]] ||
        fail "WORLD_SIZE is $WORLD_SIZE, but RANK and LOCAL_RANK are not set as by torchrun: unset WORLD_SIZE, or" \
            "start this script with torchrun"
fi
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
devices=${WORLD_SIZE:-$((gpus > 0 ? gpus : 1))}
update_freq=$(((batch_tokens + devices * device_tokens - 1) / (devices * device_tokens)))
max_tokens=$((batch_tokens / (devices * update_freq)))

[ "$max_tokens" -gt 250 ] || fail "$batch_tokens tokens per update on $devices devices are $max_tokens tokens per" \
    "device, fewer than the longest sentence has: use fewer devices (CUDA_VISIBLE_DEVICES), or increase batch_tokens" \
    "in $corpus_dir/corpus.sh"
updates=$(option --max-update "$updates") save_updates=$(option --save-interval-updates "$save_updates")
[[ $updates =~ ^[1-9][0-9]*$ && $save_updates =~ ^[1-9][0-9]*$ ]] || fail "--max-update $updates and" \
    "--save-interval-updates $save_updates must be positive integers"
[ $((updates % save_updates)) = 0 ] || fail "--max-update $updates is not a multiple of --save-interval-updates" \
    "$save_updates: the last updates would not be in the average"

device_options=(--cpu)
criterion=fused_label_smoothed_cross_entropy # the same loss, faster and with less memory
if [ "$gpus" != 0 ]; then
    # --fp16 rounds the parameters, --amp only the products. Aff does not normalize activations.
    device_options=(--amp)
    criterion=label_smoothed_cross_entropy # the fused one computes two products in float32 for float16 features
fi
if [ "$devices" -gt 1 ]; then
    # Without this option, the other ranks reject the checkpoint state that rank 0 sends them.
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
    lock_directory "$model"
    # A model is never trained with two recipes. It can be trained for longer, and saved and logged more often.
    settings=$(
        remove_options --save-interval-updates --log-interval
        # Other schedules depend on the number of updates.
        [[ ! $(option --lr-scheduler fixed) =~ ^(fixed|inverse_sqrt)$ ]] || remove_options --max-update
        declare -p arch dropout lr warmup_updates criterion devices max_tokens update_freq options
    )
    [ -z "$data" ] || settings+=" data: $(sha256sum < "$data/data-bin/train.$source-$target.$target.bin")"
    teacher=$(option --teacher '')
    if [ -n "$teacher" ]; then
        teacher_sha256=$(sha256_of "$teacher") ||
            fail "--teacher $teacher: specify existing checkpoints, joined by colons"
        settings+=" teacher: $teacher_sha256"
    fi
    require_same_settings "$model/settings" "$settings"
    cp "$text/pieces/train.json" "$model" # for evaluate.sh: describes the training data
    device=$([ "$gpus" = 0 ] && echo CPU || echo GPU)
    step "$corpus, ${name:-$arch}: $updates updates of $batch_tokens tokens, on $devices $device process(es) with" \
        "$max_tokens tokens and --update-freq $update_freq"
fi
run fairseq-train "$text/data-bin" --user-dir "$plugin" --arch "$arch" --share-all-embeddings --dropout "$dropout" \
    --optimizer adagrad --lr "$lr" --lr-scheduler fixed --warmup-updates "$warmup_updates" --clip-norm 1.0 \
    --criterion "$criterion" --label-smoothing 0.1 \
    --max-tokens "$max_tokens" --update-freq "$update_freq" --max-update "$updates" --seed 1 \
    --save-interval-updates "$save_updates" --keep-interval-updates "$average" \
    --no-epoch-checkpoints --save-interval 1000000 --validate-interval 1000000 \
    --save-dir "$model/checkpoints" --tensorboard-logdir "$model/tensorboard" \
    --log-format simple --log-interval 100 "${device_options[@]}" "${options[@]}" 2>&1 | tee -a "$log"
