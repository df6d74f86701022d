#!/bin/sh
# Called by cargo in the place of rustc for crates of the workspace (`cargo xtask fuzz --quick`): adds the flags that record coverage to
# the fuzz targets and the crates that they test.
set -eu
rustc=$1
shift
case " $* " in
*" --crate-type proc-macro "* | *" --crate-name build_script_"*) ;;
*" --crate-name lorchestra_core "* | *" --crate-name lorchestra_cli "* | *" --crate-name lorchestra_plugin_api "* | *fuzz_targets/*)
    # shellcheck disable=SC2086 # One word for each flag.
    exec "$rustc" "$@" $LORCHESTRA_FUZZ_FLAGS
    ;;
esac
exec "$rustc" "$@"
