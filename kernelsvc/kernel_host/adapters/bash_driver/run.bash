# Sourced for each run. What the code redirects is undone with the redirections of the group; where it
# exits, leave.bash goes on instead of what follows here.

source "$__kernelsvc_dir/before"
{
    builtin trap 'exit 130' INT
    # An interrupt that came before.
    [[ ! -e $__kernelsvc_dir/interrupted ]] || exit 130
    source "$__kernelsvc_dir/code"
    __kernelsvc_status=$?
    __kernelsvc_action=$__kernelsvc_at_exit __kernelsvc_at_exit=
    eval "$__kernelsvc_action"
} <"$__kernelsvc_dir/in" >"$__kernelsvc_dir/out" 2>"$__kernelsvc_dir/err"
source "$__kernelsvc_own/end.bash" 2>/dev/null
