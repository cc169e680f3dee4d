# Shared by common.sh and examples/grammar/demo.sh: settings that do not depend on what the caller has exported. This
# file is sourced, not run.

# With -p, Bash ignores exported functions, CDPATH, SHELLOPTS and BASHOPTS.
[[ $- == *p* ]] || exec bash -p -- "$0" "$@"
unset -v BASH_COMPAT BASH_ENV ENV GREP_OPTIONS POSIXLY_CORRECT PYTHONINSPECT PYTHONIOENCODING PYTHONSAFEPATH TAR_OPTIONS
unset -v TMOUT
# With these, fairseq would wait for the other tasks of a SLURM job, which run nothing.
unset -v SLURM_JOB_NODELIST SLURM_STEP_NODELIST
set -euo pipefail
export PYTHONUTF8=1 # paths and text are UTF-8 in every locale
[ -n "${OMP_WAIT_POLICY:-}" ] || export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000} # docs/performance.md, "Threads"

# torch says so when fairseq is imported, before the plugin can filter it.
filter='ignore:`torch.jit.script` is deprecated'
[[ ,${PYTHONWARNINGS-}, == *",$filter,"* ]] || export PYTHONWARNINGS="${PYTHONWARNINGS:+$PYTHONWARNINGS,}$filter"

fail() {
    echo "error: $*" | hide_passwords >&2
    exit 1
}

# hide_passwords: copy the input without user names and passwords of URLs.
hide_passwords() { sed -E 's|//[^[:space:]]*@|//***@|g'; }

# share_cores JOBS: unless the caller has set OMP_NUM_THREADS, set it to the number of cores for each of JOBS processes.
share_cores() {
    local cores
    [ -z "${OMP_NUM_THREADS:-}" ] || return 0
    cores=$(python -c 'from fairseq_resmlp.common.threads import available_cores; print(available_cores())')
    export OMP_NUM_THREADS=$((cores > $1 ? cores / $1 : 1))
}

# check_path OPTION PATH: fail if fairseq would misread the path.
check_path() {
    case $2 in
        *[[:cntrl:],:]* | *\$\{*)
            fail "$1 $(printf %q "$2"): choose a path without commas, colons, \${ and control characters, which" \
                "fairseq would misread"
            ;;
    esac
}
