#!/usr/bin/env bash
# Train and evaluate every row of a table, with several seeds, and put them side by side.
#
#   scripts/ablate.sh CORPUS TABLE [--seeds LIST] [--jobs N] [--from DIR] [--out DIR] [-- OPTION...]
#
#   TABLE          a file such as examples/quality/comparison.sh: it calls row NAME ARCH OPTION... once a row, or
#                  taught NAMES NAME ARCH OPTION... for a row that is trained on what the models of the rows NAMES, such
#                  as big,small, translate together; it may set `against` to the row that the others are compared with
#   --seeds LIST   such as 1,2,3 (default: 1)
#   --jobs N       trainings at a time, each on its share of the cores (default: 1)
#   --from, --out  as for prepare.sh
#   OPTION...      more options of fairseq-train for every row
#
# The models are in DIR/TABLE/NAME.SEED, the results in DIR/TABLE/results.json. It can be stopped anywhere and run
# again: what is done is not done twice, and what was begun goes on.
accepts='TABLE --seeds --jobs --from --out --'
. "$(dirname "$0")/common.sh"
[ -n "$second" ] || fail "name a table, such as $(ls "$root"/examples/quality/*.sh | head -n 1)"
[ -f "$second" ] || fail "no table $second: $0 --help says what one is"
table=$(realpath "$second")
[ "${jobs:=1}" -ge 1 ] 2> /dev/null || fail "--jobs $jobs is no number of trainings"
results=$out/$(basename "$table" .sh)
[[ ${seeds:=1} =~ ^(0|[1-9][0-9]*)(,(0|[1-9][0-9]*))*$ ]] || fail "--seeds $seeds: write numbers joined by commas, such as 1,2,3"
IFS=, read -ra seeds <<< "$seeds"
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > jobs ? cores / jobs : 1))}
"$root/scripts/prepare.sh" "$corpus_argument" ${from:+--from "$from"} --out "$out"

no_one_else_in "$results"
rm -f "$results/failed"
elsewhere=()
[ "$out" = "runs/$corpus" ] || elsewhere=(--out "$out")

# begin NAME COMMAND...: COMMAND as soon as a place is free, its output to a log
begin() {
    local name=${results#"$out/"}/$1
    shift
    while [ "$(jobs -pr | wc -l)" -ge "$jobs" ]; do wait -n || true; done
    step "$name"
    "$@" > "$out/$name.log" 2>&1 || {
        echo "$name failed: $(grep -h error: "$out/$name.log" | tail -n 1) ($out/$name.log)" | tee -a "$results/failed"
        false
    } &
}
# typed SCRIPT ARGUMENT...: how one would type it
typed() {
    printf 'scripts/%s' "$1"
    printf ' %q' "${@:2}"
    echo
}
# translate_training_text INTO TEACHERS
translate_training_text() {
    local command=("$corpus_argument" --into "$1" --teacher "$2" "${elsewhere[@]}")
    "$root/scripts/distill.sh" "${command[@]}" && typed distill.sh "${command[@]}" > "$1/command"
}
# train_and_evaluate NAME DATA ARCH OPTION...: DATA is what translate_training_text wrote, or ''
train_and_evaluate() {
    local folder=$results/$1 data=$2
    local model=("$corpus_argument" "$3" --name "${folder#"$out/"}" "${elsewhere[@]}")
    local command=("${model[@]}" ${data:+--data "$data"} -- "${@:4}")
    "$root/scripts/train.sh" "${command[@]}" || return
    # The scores are of this, whatever the table says when it is run again.
    { [ -z "$data" ] || cat "$data/command"; typed train.sh "${command[@]}"; } > "$folder/command"
    "$root/scripts/evaluate.sh" "${model[@]}"
}
row() { taught '' "$@"; }
# taught NAMES NAME ARCH OPTION...: as the head says, NAMES may be empty
taught() {
    [ $# -ge 3 ] || fail "$table: row ${2:-} needs a name and an architecture"
    [[ $2 =~ ^[[:alnum:]._-]+$ ]] || fail "$table: the name of row $2 is not of letters, digits, ., - and _"
    local data='' teachers=() name
    for name in ${1//,/ }; do
        [[ " ${rows[*]} " == *" $name "* ]] || fail "$table: row $2 is taught by $name, which is no row above it"
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
        begin "$(basename "$data")" translate_training_text "$data" "$(IFS=:; echo "${teachers[*]}")"
        wait "$!" || return 0 # nothing to learn from
    fi
    begin "$2.$seed" train_and_evaluate "$2.$seed" "$data" "$3" "${@:4}" "${options[@]}" --seed "$seed"
}
against=''
# What was begun does not go on without this script: each training is a process group of its own.
set -m
trap 'for job in $(jobs -p); do kill -- "-$job"; done 2> /dev/null' EXIT
trap 'exit 130' INT TERM
for seed in "${seeds[@]}"; do
    rows=()
    . "$table"
done
wait
status=0
python "$root/scripts/quality.py" "$results" --test "$(test_sets | head -n 1)" --rows "${rows[@]}" \
    ${against:+--against "$against"} || status=$?
[ ! -e "$results/failed" ] || fail "$(wc -l < "$results/failed") of the trainings failed: $results/failed"
exit "$status"
