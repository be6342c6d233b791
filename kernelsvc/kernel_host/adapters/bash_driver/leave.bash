# Sourced where the shell is about to exit, whatever the reason that the code gives it (`exit`,
# `set -e`, an unset variable under `set -u`, an interrupt): write down what the shell holds and
# become a new one, in the same process, which reads it (see begin.bash and bash.py).
#
# Where the code exits within a function, the function's variables are among what is written down.

__kernelsvc_status=$?
set +eux
builtin trap : INT
builtin trap - EXIT
__kernelsvc_action=$__kernelsvc_at_exit __kernelsvc_at_exit=
if [[ -n $__kernelsvc_action ]]; then
    exit() {
        __kernelsvc_status=${1-$?}
    }
    # The redirections of the run are undone by now.
    eval "$__kernelsvc_action" <"$__kernelsvc_dir/in" >"$__kernelsvc_dir/out" 2>"$__kernelsvc_dir/err"
    unset -f exit
fi
{
    shopt -p
    declare -p
    declare -f
    alias -p
    builtin trap -p
    umask -p
} >"$__kernelsvc_dir/state" 2>/dev/null
unset -v BASH_ENV POSIXLY_CORRECT
printf 'left %s\n' "$__kernelsvc_status" >"$__kernelsvc_dir/reports"
exec "$BASH" --norc --noprofile "$__kernelsvc_dir/commands" </dev/null >/dev/null 2>&1
