#!/usr/bin/env -S bash -p
# Train and evaluate every row of a table with several seeds, and compare the rows.
#
#   scripts/ablate.sh CORPUS TABLE [--seeds LIST] [--jobs N] [--from DIR] [--out DIR] [-- OPTION...]
#
#   TABLE          Bash file such as examples/quality/comparison.sh. It calls row NAME ARCH OPTION... for each model,
#                  or taught NAMES NAME ARCH OPTION... for a model that is trained on the translations of an ensemble
#                  of earlier rows NAMES, such as big,small. It may set `baseline` to the row that the others are
#                  compared with
#   --seeds LIST   comma-separated seeds, such as 1,2,3 (default: 1)
#   --jobs N       number of models trained at the same time, sharing the cores equally (default: 1)
#   --from, --out  as for prepare.sh
#   OPTION...      more options for fairseq-train, for every row
#
# Models are written to DIR/TABLE/NAME.SEED, results to DIR/TABLE/results.json. The script can be interrupted at any
# point and run again. Finished steps are skipped, and training resumes.
accepts='TABLE --seeds --jobs --from --out --'
. "$(dirname -- "$0")/common.sh"
[ -n "$second" ] || fail "specify a table, such as $root/examples/quality/comparison.sh"
[ -f "$second" ] || fail "table $second not found; see $0 --help"
table=$(realpath "$second")
! grep -q "^against=" "$table" || fail "$table: the variable against was renamed to baseline"
[ "${jobs:=1}" -ge 1 ] 2> /dev/null || fail "--jobs $jobs is not a positive integer"
name=$(basename "$table" .sh)
check_run_name "table" "$name"
results=$out/$name
[[ ${seeds:=1} =~ ^(0|[1-9][0-9]*)(,(0|[1-9][0-9]*))*$ ]] ||
    fail "--seeds $seeds: specify numbers separated by commas, such as 1,2,3"
IFS=, read -ra seeds <<< "$seeds"
share_cores "$jobs"
"$root/scripts/prepare.sh" "$corpus_argument" ${from:+--from "$from"} --out "$out"

lock_directory "$results"
rm -f "$results/failed"
out_option=()
[ "$out" = "runs/$corpus" ] || out_option=(--out "$out")

# start_job NAME COMMAND...: run COMMAND in the background when a job slot is free, with its output in a log.
start_job() {
    local name=${results#"$out/"}/$1
    shift
    while [ "$(jobs -pr | wc -l)" -ge "$jobs" ]; do wait -n || true; done
    step "$name"
    "$@" > "$out/$name.log" 2>&1 || {
        echo "$name failed: $(grep -h error: "$out/$name.log" | tail -n 1) ($out/$name.log)" | tee -a "$results/failed"
        false
    } &
}
# print_command SCRIPT ARGUMENT...: print the command in a form that can be pasted into a shell.
print_command() {
    printf 'scripts/%s' "$1"
    printf ' %q' "${@:2}"
    echo
}
# translate_training_text INTO TEACHERS
translate_training_text() {
    local command=("$corpus_argument" --into "$1" --teacher "$2" "${out_option[@]}")
    "$root/scripts/distill.sh" "${command[@]}" && print_command distill.sh "${command[@]}" > "$1/command"
}
# train_and_evaluate NAME DATA ARCH OPTION...: DATA is the output of translate_training_text, or ''.
train_and_evaluate() {
    local dir=$results/$1 data=$2
    local model=("$corpus_argument" "$3" --name "${dir#"$out/"}" "${out_option[@]}")
    local command=("${model[@]}" ${data:+--data "$data"} -- "${@:4}")
    "$root/scripts/train.sh" "${command[@]}" || return
    # Record the command that led to these scores; the table may change before the next run.
    { [ -z "$data" ] || cat "$data/command"; print_command train.sh "${command[@]}"; } > "$dir/command"
    "$root/scripts/evaluate.sh" "${model[@]}"
}
row() { taught '' "$@"; }
# taught NAMES NAME ARCH OPTION...: see the usage text; NAMES may be empty.
taught() {
    [ $# -ge 3 ] || fail "$table: row ${2:-} needs a name and an architecture"
    [[ $2 =~ ^[[:alnum:]._-]+$ ]] || fail "$table: row name $2 may contain only letters, digits, ., - and _"
    local data='' teachers=() name
    for name in ${1//,/ }; do
        [[ " ${rows[*]} " == *" $name "* ]] || fail "$table: row $2 is taught by $name, which is not an earlier row"
    done
    rows+=("$2")
    if [ -n "$1" ]; then
        data=$results/by-${1//,/-}.$seed
        [ -e "$data/command" ] || wait # for the teachers
        for name in ${1//,/ }; do
            teachers+=("$(printf '%s\n' "$results/$name.$seed"/average*.pt | sort -V | tail -n 1)")
            [ -e "${teachers[-1]}" ] || {
                echo "$2.$seed failed: its teacher $name.$seed has not been trained" | tee -a "$results/failed"
                return 0
            }
        done
        start_job "$(basename "$data")" translate_training_text "$data" "$(IFS=:; echo "${teachers[*]}")"
        wait "$!" || return 0 # no training data
    fi
    start_job "$2.$seed" train_and_evaluate "$2.$seed" "$data" "$3" "${@:4}" "${options[@]}" --seed "$seed"
}
baseline=''
# Stop all jobs when this script ends: each job is a process group of its own.
set -m
trap 'for job in $(jobs -p); do kill -- "-$job"; done 2> /dev/null' EXIT
trap 'exit 130' INT TERM
for seed in "${seeds[@]}"; do
    rows=()
    . "$table"
done
wait
status=0
read -r test < <(test_sets)
python "$root/scripts/compare_runs.py" "$results" --test "$test" --rows "${rows[@]}" \
    ${baseline:+--baseline "$baseline"} || status=$?
[ ! -e "$results/failed" ] || fail "$(wc -l < "$results/failed") of the runs failed: see $results/failed"
exit "$status"
