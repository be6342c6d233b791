# Sourced at the end of a run, in the shell that goes on: the options that `set` sets, and the
# variables of the request, were for the run.

builtin trap '' INT
eval "$__kernelsvc_options"
eval "$__kernelsvc_before"
__kernelsvc_before=
printf 'end %s\n' "$__kernelsvc_status" >"$__kernelsvc_dir/reports"
