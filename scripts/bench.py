"""Times the quickstart as a user sees it, and weighs daemon and switch at rest.

usage: bench.py WEFT ROUNDS. Prints one tab-separated row a figure: name, median, min, max, unit.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

FILE = os.path.abspath("examples/quickstart.toml")
# Threads for calls that block go away when they have been idle for a while; their time goes with them.
SETTLE_S = 4
REST_S = 10


def weft(*args):
    start = time.monotonic()
    done = subprocess.run([WEFT, *args], capture_output=True, text=True, env=ENV)
    if done.returncode != 0:
        sys.exit(f"weft {' '.join(args)}: {done.stderr}")
    return time.monotonic() - start, done.stdout


def resident_kib(pid):
    """Private resident memory: guest memory that the switch has mapped belongs to the guests."""
    rows = open(f"/proc/{pid}/status").read().split("\n")
    fields = {row.split(":")[0]: row.split()[1] for row in rows if row.startswith("Rss")}
    return int(fields["RssAnon"]) + int(fields["RssFile"])


def cpu_s(pid):
    """Time on a core of all threads; the clock ticks of /proc/PID/stat are too coarse for an idle process."""
    tasks = os.listdir(f"/proc/{pid}/task")
    return sum(int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0]) for task in tasks) / 1e9


def is_start(event):
    return event["kind"] == "step-done" and event["object_kind"] == "vm"


def own_part(started_unix_ms, wall_s):
    """The part of `up` in which no guest was booting: before the first machine ran and after the last was ready."""
    events = json.loads(weft("events", "--json")[1])
    started = [e["unix_ms"] for e in events if is_start(e) and e["unix_ms"] >= started_unix_ms]
    ready = [e["unix_ms"] for e in events if e["kind"] == "vm-ready" and e["unix_ms"] >= started_unix_ms]
    if not started or not ready:
        return None
    return wall_s - (max(ready) - min(started)) / 1000


def row(name, values, unit):
    values = [value for value in values if value is not None]
    if values:
        print(f"{name}\t{statistics.median(values):.3f}\t{min(values):.3f}\t{max(values):.3f}\t{unit}", flush=True)


def main():
    rounds = {name: [] for name in ("up", "own", "again", "ls", "down", "daemon", "switch", "idle")}
    weft("image", "build", "micro")
    for _ in range(ROUNDS):
        begun = time.time() * 1000
        wall, _ = weft("up", FILE)
        rounds["up"].append(wall)
        rounds["own"].append(own_part(begun, wall))
        rounds["again"].append(weft("up", FILE)[0])
        rounds["ls"].append(statistics.median(weft("ls")[0] for _ in range(10)) * 1000)
        world = json.loads(weft("ls", "--json")[1])
        pids = [world["daemon"]["pid"], world["switch"]["pid"]]
        rounds["daemon"].append(resident_kib(pids[0]) / 1024)
        rounds["switch"].append(resident_kib(pids[1]) / 1024)
        time.sleep(SETTLE_S)
        before = sum(map(cpu_s, pids))
        time.sleep(REST_S)
        rounds["idle"].append((sum(map(cpu_s, pids)) - before) / REST_S * 100)
        rounds["down"].append(weft("down", FILE)[0])
    row("up quickstart, all ready", rounds["up"], "s")
    row("of which no guest was booting", rounds["own"], "s")
    row("up again, nothing to do", rounds["again"], "s")
    row("ls", rounds["ls"], "ms")
    row("down quickstart", rounds["down"], "s")
    row("daemon resident", rounds["daemon"], "MiB")
    row("switch resident", rounds["switch"], "MiB")
    row("daemon and switch idle", rounds["idle"], "% of a core")


WEFT, ROUNDS = os.path.abspath(sys.argv[1]), int(sys.argv[2])
HOME = tempfile.mkdtemp(prefix="weft-bench-")
ENV = dict(os.environ, WEFT_HOME=HOME)
try:
    main()
finally:
    subprocess.run([WEFT, "down", FILE], capture_output=True, env=ENV)
    shutil.rmtree(HOME, ignore_errors=True)
