# What the other scripts share: options, set-up, the corpus. Sourced, not run; the
# script has named what it takes in `accepts`: ARCH or TABLE, if it has a second argument, and its options.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

usage() {
    # The comment at the head of the script
    sed -n '2,/^[^#]/ { s/^# \{0,1\}//p }' "$0"
    exit "${1:-0}"
}

step() { printf '\n== %s\n' "$*"; }

# run COMMAND...: print it as it could be typed, then run it.
run() {
    printf '$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

# once FOLDER COMMAND...: COMMAND makes FOLDER.part, which becomes FOLDER when it is whole. Nothing if FOLDER is there.
once() {
    local folder=$1
    shift
    if [ -e "$folder" ]; then
        echo "$folder is done"
        return
    fi
    rm -rf "$folder.part"
    "$@"
    mv "$folder.part" "$folder"
}

# no_one_else_in FOLDER: stop if another run works in it. The lock goes with the last process that holds it.
no_one_else_in() {
    mkdir -p "$1"
    exec 9> "$1/.lock"
    flock -n 9 || fail "another run is working in $1"
}

# option NAME DEFAULT: the value that OPTION... give it, the last one as for fairseq.
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

# forget NAME...: leave these options and their values out of OPTION...
forget() {
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

# content_of FILE[:FILE...]: the SHA-256 of each, joined by colons
content_of() {
    local files
    IFS=: read -ra files <<< "$1"
    sha256sum "${files[@]}" | cut -d' ' -f1 | paste -sd:
}

# test_sets: the names of the splits that are neither train nor valid, in order
test_sets() {
    local i
    for ((i = 0; i < ${#texts[@]}; i += 3)); do echo "${texts[i]}"; done | awk '$0 != "train" && $0 != "valid" && !seen[$0]++'
}

# same_settings FILE SETTINGS: stop if FILE, beside which work is kept, holds other settings.
same_settings() {
    if [ ! -e "$1" ]; then
        echo "$2" > "$1.part"
        mv "$1.part" "$1"
    fi
    [ "$(cat "$1")" = "$2" ] || fail "$(dirname "$1") was begun with other settings, listed in $1: choose another folder," \
        "remove the folder, or remove that file to go on all the same. The settings now: $2"
}

corpus='' second='' name='' from='' mirror='' out='' data='' against='' teacher='' into='' table='' seeds='' jobs='' options=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage ;;
        -*) [[ " $accepts " == *" $1 "* ]] || fail "unknown option $1: $0 --help lists what there is" ;;&
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
                fail "one argument too many: $1"
            fi
            ;;
    esac
    shift
done
[ -n "$corpus" ] || usage 2

# A name of examples/, or any folder with a corpus.sh
corpus_argument=$corpus
folder=$root/examples/$corpus
[ -f "$corpus/corpus.sh" ] && folder=$(realpath "$corpus")
corpora=$(cd "$root/examples" && ls -d ./*/corpus.sh | sed 's|^\./||; s|/corpus.sh||' | tr '\n' ' ')
[ -f "$folder/corpus.sh" ] || fail "no corpus $corpus: there are ${corpora% }, and any folder with a corpus.sh"
. "$folder/corpus.sh"
corpus=$(basename "$folder")
out=${out:-runs/$corpus}
arch=${second:-$default_arch}
model=$out/${name:-$arch}
plugin=$(realpath --relative-to . "$root/fairseq_resmlp")

# An environment with everything that is active, or that of `make demo`.
complete() {
    command -v fairseq-resmlp > /dev/null && python -c 'import importlib.util as u, sys
sys.exit(not all(map(u.find_spec, ("fairseq", "sacremoses", "tensorboardX"))))'
}
if ! complete; then
    export PATH=$root/.venv/bin:$PATH
    complete || make -C "$root" --no-print-directory .venv/installed-reproduce
fi
