# Sourced by a live bash before its first run, and again where it has begun afresh (see bash.py):
# what it needs to run code, and whatever its end has left of the shell before.
#
# Names of ours begin with __kernelsvc_. Files are sourced at the top level of the shell: what the
# code declares is global, and no loop or function of ours is there for it to break out of.

__kernelsvc_dir=$1
__kernelsvc_own=${BASH_SOURCE[0]%/*}
__kernelsvc_before= __kernelsvc_at_exit= __kernelsvc_status=0
BASH_ARGV0=bash
builtin trap 'exit 143' TERM
shopt -s expand_aliases
if [[ -e $__kernelsvc_dir/state ]]; then
    source "$__kernelsvc_dir/state"
    command rm -f "$__kernelsvc_dir/state"
fi >/dev/null 2>&1
__kernelsvc_options=$(set +o)
builtin trap '' INT
builtin trap 'source "$__kernelsvc_own/leave.bash"' EXIT

# Set a variable for this run; what it was before is kept as code that makes it so again.
__kernelsvc_export() {
    __kernelsvc_before+="unset -v $1; ${!1@A}"$'\n'
    declare -gx "$1=$2"
}

# trap, as the shell's own; but what is to be done at the exit is done at the end of the run.
trap() {
    if [[ $BASH_SUBSHELL != 0 || $# == 0 || $1 == -[lp]* ]]; then
        builtin trap "$@"
        return
    fi
    [[ $1 != -- ]] || shift
    local __kernelsvc_signal __kernelsvc_others=()
    for __kernelsvc_signal in "${@:2}"; do
        case ${__kernelsvc_signal^^} in
            EXIT | SIGEXIT | 0) __kernelsvc_at_exit=${1#-} ;;
            *) __kernelsvc_others+=("$__kernelsvc_signal") ;;
        esac
    done
    [[ ${#__kernelsvc_others[@]} == 0 ]] || builtin trap -- "$1" "${__kernelsvc_others[@]}"
}
