# Shared by the other scripts: option parsing, environment setup, corpus settings. This file is sourced, not run. The
# script that sources it sets `accepts` to its options, preceded by ARCH or TABLE if it has such an argument.
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    # The comment at the top of the script
    sed -n '2,/^[^#]/ { s/^# \{0,1\}//p }' "$0"
    exit "${1:-0}"
}

step() { printf '\n== %s\n' "$*"; }

# run COMMAND...: print the command in a form that can be pasted into a shell, then run it.
run() {
    printf '$%s\n' "$(printf ' %q' "$@" | hide_passwords)"
    "$@"
}

# once DIR COMMAND...: run COMMAND, which writes to DIR.part, then rename that to DIR. Skipped if DIR exists.
once() {
    local dir=$1 part=$1.part
    shift
    if [ -e "$dir" ]; then
        echo "$dir exists, skipped"
        return
    fi
    # Only what an interrupted run has left is removed.
    if [ -f "$part/.fairseq-resmlp" ]; then rm -r "$part"; fi
    rmdir "$part" 2> /dev/null || [ ! -e "$part" ] || fail "$part was not left by an interrupted run: move it"
    mkdir "$part" || fail "$part cannot be created: choose another directory"
    touch "$part/.fairseq-resmlp"
    "$@"
    mv -T "$part" "$dir"
}

# lock_directory DIR: fail if another run uses DIR. The lock is released with the last process that holds it.
lock_directory() {
    local status=0
    mkdir -p "$1" || fail "$1 cannot be created: choose another directory"
    command -v flock > /dev/null || fail "flock not found: install util-linux"
    [ ! -e "$1/.lock" ] || [ -f "$1/.lock" ] || fail "$1/.lock is not a file: remove it"
    exec 9>> "$1/.lock" || fail "$1/.lock cannot be written: choose another directory"
    flock -n 9 || status=$?
    case $status in
        0) ;;
        1) fail "another run is using $1" ;;
        *) echo "warning: the file system of $1 has no locks: make sure that no other run uses it" >&2 ;;
    esac
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
    sha256sum -- "${files[@]}" | cut -d' ' -f1 | paste -sd:
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
        rm -f "$1.part"
        echo "$2" > "$1.part"
        mv -T "$1.part" "$1"
    fi
    [ "$(cat "$1")" = "$2" ] || fail "$(dirname "$1") was created with different settings, listed in $1: choose" \
        "another directory, remove the directory, or remove that file to continue anyway. Current settings: $2"
}

# check_names: fail if a language or a split of the corpus has a name that collides with other files of a run.
check_names() {
    local i name
    for name in "$source" "$target"; do
        [[ $name =~ ^[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*$ && $name != json ]] ||
            fail "$corpus_dir/corpus.sh: language $(printf %q "$name") is not a language code such as en or zh-TW"
    done
    [ "$source" != "$target" ] || fail "$corpus_dir/corpus.sh: source and target are both $source"
    for ((i = 0; i < ${#texts[@]}; i += 3)); do
        name=${texts[i]}
        case $name in
            '' | [.-]* | *[[:space:][:cntrl:]/,:*?[\\]* | *\]* | *\$\{* | *.part)
                fail "$corpus_dir/corpus.sh: split $(printf %q "$name"): use letters, digits, - and _"
                ;;
            checkpoints | exported | tensorboard | settings | command | valid.txt | train.json | train.log | average*.pt)
                fail "$corpus_dir/corpus.sh: split $name has the name of a file of every model: rename it"
                ;;
        esac
    done
}

# check_run_name OPTION NAME: fail if the output NAME in DIR collides with the output of other scripts.
check_run_name() {
    check_path "$1" "$2"
    case /$2/ in
        */../* | */./* | /-*) fail "$1 $2: specify a name without . and .., that does not begin with a dash" ;;
        /downloads/* | /raw/* | /pieces/* | /data-bin/* | /distilled/* | /spm.model/* | /settings/* | *.part/*)
            fail "$1 $2 is the name of another file in $out: choose another name"
            ;;
    esac
}

# What the caller has exported under these names has no effect.
unset -v source target files texts vocab_size default_arch dropout lr warmup_updates batch_tokens device_tokens
unset -v updates save_updates average beam lenpen join_share arch criterion precision batches max_tokens update_freq
unset -v corpus second name from mirror out data baseline teacher into table seeds jobs processes options
corpus='' second='' name='' from='' mirror='' out='' data='' baseline='' teacher='' into='' table='' seeds='' jobs=''
processes=''
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
            [ -n "${2:-}" ] || fail "$1 needs a value"
            value=$2
            # A path that begins with a dash would be taken for an option.
            [[ $1 =~ ^--(out|from|data|into|teacher|baseline)$ && $value == -* ]] && value=./$value
            printf -v "${1#--}" %s "$value"
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
corpora=$(cd -- "$root/examples" && ls -d ./*/corpus.sh | sed 's|^\./||; s|/corpus.sh||' | paste -sd' ')
[ -f "$corpus_dir/corpus.sh" ] ||
    fail "corpus $corpus not found: use one of ${corpora// /, }, or a directory with a corpus.sh"
. "$corpus_dir/corpus.sh"
: "${join_share:=0}"
for variable in source target texts default_arch; do
    [ -n "${!variable:-}" ] || fail "$corpus_dir/corpus.sh does not set $variable: copy it from another corpus.sh"
done
check_names
corpus=$(basename "$corpus_dir")
out=${out:-runs/$corpus}
check_path --out "$out"
check_path --data "$data"
check_path --into "$into"
arch=${second:-$default_arch}
[[ $accepts != ARCH* ]] || check_run_name "$([ -n "$name" ] && echo --name || echo architecture)" "${name:-$arch}"
model=$out/${name:-$arch}
plugin=$(realpath --relative-to . "$root/fairseq_resmlp")

# Use the active environment if it is complete, else that of `make demo`.
activate=''
environment_is_complete() {
    command -v fairseq-resmlp > /dev/null && python -c 'import importlib.util as u, sys
sys.exit(not all(map(u.find_spec, ("fairseq", "sacremoses", "tensorboardX"))))'
}
if ! environment_is_complete; then
    export PATH=$root/.venv/bin:$PATH
    activate="source $(printf %q "$root/.venv/bin/activate")"
    environment_is_complete || make -C "$root" --no-print-directory install EXTRAS=reproduce
fi
[[ $accepts =~ --(jobs|processes) ]] || share_cores 1 # otherwise, the cores are shared when the number is known
