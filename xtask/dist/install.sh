#!/bin/sh
# Installs lorchestra from this directory, replaces an installed version, or removes it:
#
#     ./install.sh [--prefix DIR]
#     ./install.sh --uninstall [--prefix DIR]
#
# DIR is /usr/local for root, otherwise ~/.local. Plugins, configuration and history are never touched.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
uninstall=no
prefix=
while [ $# -gt 0 ]; do
    case $1 in
        --uninstall) uninstall=yes ;;
        --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
        *) echo "usage: install.sh [--uninstall] [--prefix DIR]" >&2; exit 2 ;;
    esac
    shift
done
if [ -z "$prefix" ]; then
    if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
fi
list=$prefix/share/lorchestra/installed-files

remove_old() {
    while read -r file; do
        rm -f "$prefix/$file"
    done < "$list"
    rm -f "$list"
}

if [ "$uninstall" = yes ]; then
    if [ ! -f "$list" ]; then
        echo "install.sh: $list does not exist: nothing was installed there" >&2
        exit 1
    fi
    remove_old
    echo "removed lorchestra from $prefix; plugins, configuration and history are kept"
    exit 0
fi

if [ -f "$list" ]; then
    # Not the binary: it is replaced below, at once, so that a timer finds either version.
    grep -vx bin/lorchestra "$list" > "$list.old" || true
    mv "$list.old" "$list"
    remove_old
fi
mkdir -p "$prefix/share/lorchestra"
files=$(cd "$here" && find bin share -type f | sort)
for file in $files; do
    to=$(echo "$file" | sed 's,zsh/vendor-completions,zsh/site-functions,')
    mkdir -p "$prefix/$(dirname "$to")"
    cp "$here/$file" "$prefix/$to.new"
    chmod u=rwX,go=rX "$prefix/$to.new"
    mv -f "$prefix/$to.new" "$prefix/$to"
    echo "$to" >> "$list"
done
"$prefix/bin/lorchestra" --version
echo "installed in $prefix"
case ":$PATH:" in
    *":$prefix/bin:"*) ;;
    *) echo "add $prefix/bin to PATH to use it" ;;
esac
