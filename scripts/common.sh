# Shared by the other scripts: option parsing, environment setup, corpus settings. This file is sourced, not run. The
# script that sources it sets `accepts` to its options, preceded by ARCH or TABLE if it has such an argument.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

usage() {
    # The comment at the top of the script
    sed -n '2,/^[^#]/ { s/^# \{0,1\}//p }' "$0"
    exit "${1:-0}"
}

step() { printf '\n== %s\n' "$*"; }

# run COMMAND...: print the command in a form that can be pasted into a shell, then run it.
run() {
    printf '$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

# once DIR COMMAND...: run COMMAND, which creates DIR.part, then rename that to DIR. Skipped if DIR exists.
once() {
    local dir=$1
    shift
    if [ -e "$dir" ]; then
        echo "$dir exists, skipped"
        return
    fi
    rm -rf "$dir.part"
    "$@"
    mv "$dir.part" "$dir"
}

# lock_directory DIR: fail if another run uses DIR. The lock is released with the last process that holds it.
lock_directory() {
    mkdir -p "$1"
    exec 9> "$1/.lock"
    flock -n 9 || fail "another run is using $1"
}

# option NAME DEFAULT: print the value of NAME in OPTION..., the last one if repeated, as in fairseq.
option() {
    local i value=$2
    for ((i = 0; i < ${#options[@]}; i++)); do
        case ${options[i]} in
            "$1") value=${options[i + 1]-} ;;
            "$1="*) value=${options[i]#*=} ;;
        esac
    done
    echo "$value"
}

# remove_options NAME...: remove these options and their values from OPTION...
remove_options() {
    local i kept=()
    for ((i = 0; i < ${#options[@]}; i++)); do
        case " $* " in
            *" ${options[i]} "*) i=$((i + 1)) ;;
            *" ${options[i]%%=*} "*) ;;
            *) kept+=("${options[i]}") ;;
        esac
    done
    options=("${kept[@]}")
}

# sha256_of FILE[:FILE...]: print the SHA-256 of each file, joined by colons.
sha256_of() {
    local files
    IFS=: read -ra files <<< "$1"
    sha256sum "${files[@]}" | cut -d' ' -f1 | paste -sd:
}

# test_sets: print the splits that are neither train nor valid, in order.
test_sets() {
    local i
    for ((i = 0; i < ${#texts[@]}; i += 3)); do echo "${texts[i]}"; done |
        awk '$0 != "train" && $0 != "valid" && !seen[$0]++'
}

# require_same_settings FILE SETTINGS: write FILE, or fail if it contains other settings.
require_same_settings() {
    if [ ! -e "$1" ]; then
        echo "$2" > "$1.part"
        mv "$1.part" "$1"
    fi
    [ "$(cat "$1")" = "$2" ] || fail "$(dirname "$1") was created with different settings, listed in $1: choose" \
        "another directory, remove the directory, or remove that file to continue anyway. Current settings: $2"
}

corpus='' second='' name='' from='' mirror='' out='' data='' baseline='' teacher='' into='' table='' seeds='' jobs=''
options=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage ;;
        --against) [[ " $accepts " != *" --baseline "* ]] || fail "--against was renamed to --baseline" ;;&
        -*) [[ " $accepts " == *" $1 "* ]] || fail "unknown option $1; see $0 --help" ;;&
        --)
            shift
            options=("$@")
            break
            ;;
        --*)
            [ $# -ge 2 ] || fail "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        *)
            if [ -z "$corpus" ]; then
                corpus=$1
            elif [ -z "$second" ] && [[ $accepts =~ ^(ARCH|TABLE) ]]; then
                second=$1
            else
                fail "unexpected argument: $1"
            fi
            ;;
    esac
    shift
done
[ -n "$corpus" ] || usage 2

# A name in examples/, or any directory with a corpus.sh
corpus_argument=$corpus
corpus_dir=$root/examples/$corpus
[ -f "$corpus/corpus.sh" ] && corpus_dir=$(realpath "$corpus")
corpora=$(cd "$root/examples" && ls -d ./*/corpus.sh | sed 's|^\./||; s|/corpus.sh||' | paste -sd' ')
[ -f "$corpus_dir/corpus.sh" ] ||
    fail "corpus $corpus not found: use one of ${corpora// /, }, or a directory with a corpus.sh"
. "$corpus_dir/corpus.sh"
corpus=$(basename "$corpus_dir")
out=${out:-runs/$corpus}
arch=${second:-$default_arch}
model=$out/${name:-$arch}
plugin=$(realpath --relative-to . "$root/fairseq_resmlp")

# Use the active environment if it is complete, else that of `make demo`.
environment_is_complete() {
    command -v fairseq-resmlp > /dev/null && python -c 'import importlib.util as u, sys
sys.exit(not all(map(u.find_spec, ("fairseq", "sacremoses", "tensorboardX"))))'
}
if ! environment_is_complete; then
    export PATH=$root/.venv/bin:$PATH
    environment_is_complete || make -C "$root" --no-print-directory install EXTRAS=reproduce
fi
