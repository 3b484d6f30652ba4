#!/bin/sh
# The main job, shown: three machines on two networks, who reaches whom, and nothing left afterwards.
# usage: scripts/demo.sh WEFT
set -eu
cd "$(dirname "$0")/.."
weft=$1
WEFT_HOME=${WEFT_HOME:-$PWD/target/demo}
export WEFT_HOME
mkdir -p "$WEFT_HOME"
site=$(mktemp -d)
server=""
failed=0

finish() {
    "$weft" down examples/quickstart.toml >/dev/null 2>&1 || true
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$site"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ weft %s\n' "$*"; "$weft" "$@"; }
# The command must succeed (or, with `not`, must not).
must() { if run "$@"; then :; else echo "DEMO FAILED: this should have worked"; failed=1; fi; }
must_not() {
    if run "$@"; then echo "DEMO FAILED: this should not have worked"; failed=1; else echo "(no answer, as it should be)"; fi
}

say "Three machines with Debian's kernel, two networks, one file:"
started=$(date +%s)
run up examples/quickstart.toml
echo "all ready after $(($(date +%s) - started)) s"

say "What there is now"
run ls

say "laptop and web are neighbours in the office, by name and through Weft's own DHCP and DNS"
must exec laptop -- ping -c 2 web
must exec laptop -- nslookup web.office.weft

say "web serves a page to the office"
must exec web -- sh -c 'mkdir -p /www && echo "hello from $(hostname)" >/www/index.html && httpd -p 80 -h /www'
must exec laptop -- wget -q -O - http://web/

say "web also stands backstage, where db is"
must exec web -- ping -c 2 db

say "A service of this host, on its loopback, reached from laptop through Weft's NAT device"
echo "hello from the host" >"$site/index.html"
python3 -u -c '
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(server.server_address[1])
server.serve_forever()' "$site" >"$site/port" 2>/dev/null &
server=$!
while [ ! -s "$site/port" ]; do sleep 0.1; done
must exec laptop -- wget -q -O - "http://gateway.office.weft:$(cat "$site/port")/"

say "laptop does not reach db, and db does not reach the office"
db=$("$weft" exec db -- sh -c "ip -4 -o addr show dev eth0 | sed 's/.*inet //; s|/.*||'")
must_not exec laptop -- ping -c 1 -W 2 "$db"
must_not exec laptop -- nslookup db.backstage.weft
must_not exec db -- ping -c 1 -W 2 10.20.0.10

say "The switch kept count"
run port ls

say "And down again"
started=$(date +%s%N)
run down examples/quickstart.toml
echo "down after $((($(date +%s%N) - started) / 1000000)) ms"
sleep 2
if pgrep -f "$WEFT_HOME" | grep -v -x -e "$$" -e "$server" >/dev/null; then
    echo "DEMO FAILED: processes are left:"
    pgrep -af "$WEFT_HOME"
    failed=1
else
    echo "no process is left; the image cache stays in $WEFT_HOME/cache"
fi
[ "$failed" = 0 ] && say "Everything worked. Next: README.md, examples/, weft --help"
exit "$failed"
