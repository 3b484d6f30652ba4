#!/bin/sh
# Installs the binary, its man pages and its shell completions.
set -eu
weft=$1
if [ "$(id -u)" = 0 ]; then default=/usr/local; else default=$HOME/.local; fi
prefix=${PREFIX:-$default}
install -D -m 755 "$weft" "$prefix/bin/weft"
mkdir -p "$prefix/share/man/man1" "$prefix/share/bash-completion/completions" "$prefix/share/zsh/site-functions" \
    "$prefix/share/fish/vendor_completions.d"
"$weft" man "$prefix/share/man/man1"
"$weft" completions bash >"$prefix/share/bash-completion/completions/weft"
"$weft" completions zsh >"$prefix/share/zsh/site-functions/_weft"
"$weft" completions fish >"$prefix/share/fish/vendor_completions.d/weft.fish"
echo "installed $prefix/bin/weft" >&2
