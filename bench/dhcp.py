"""The DHCP server beside Kea: every round runs each of them once, one after the other, so that what else the machine does
hits all alike.

usage: dhcp.py WEFT [ROUNDS]        as root
Prints a row of docs/PERFORMANCE.md a figure: load, peer, median, minimum, maximum, unit, ratio to Weft's. The clients are
those of `bench/dhcp.c`, on core 0, the server on core 1; where perfdhcp is installed, its ladder of rates as well. Leases of
Weft's are always durable; Kea's are with `persist`, and are not without. What is not installed is left out and named.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SECONDS = 4  # that each load lasts
CLIENTS = 50_000  # among whom the exchanges go round
WINDOW = 256  # exchanges under way
STORM = 10_000  # clients that come at once
GATEWAY, HOST, FIRST, LAST = "10.97.0.1", "10.97.0.2", "10.97.1.0", "10.97.250.255"
RATES = [1000, 2000, 4000, 8000, 11000, 14000, 18000, 24000, 32000]  # of perfdhcp's ladder
RELAY_MAC = "02:00:00:00:00:02"
FIFO = ["chrt", "-f", "10"] if shutil.which("chrt") and os.environ.get("BENCH_PRIORITY") else []


class Bed:
    """A folder, two network namespaces, and the processes of one measurement; all of it goes at the end."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="weft-bench-")
        self.spaces = [f"wd{os.getpid()}{role}" for role in "sc"]  # server and clients
        self.running = []

    def __enter__(self):
        for space in self.spaces:
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def serve(self, *command, ready, env=None):
        log = open(self.path("log"), "a")
        enter = ["ip", "netns", "exec", self.spaces[0], "taskset", "-c", "1", *FIFO]
        process = subprocess.Popen([*enter, *command], stdout=log, stderr=log, env={**os.environ, **(env or {})})
        self.running.append(process)
        deadline = time.monotonic() + 20
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]}: {open(self.path('log')).read()[-500:]}")
            time.sleep(0.05)

    def client(self, *command, limit=120):
        enter = ["ip", "netns", "exec", self.spaces[1], "taskset", "-c", "0", *FIFO]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=limit).stdout


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


# --- servers: each puts an interface `c0` into the clients' namespace ---------------------------------------------


def weft(bed, _relayed):
    """The switch as a process, with one TAP device: a port with many stations and a relay, each held to what is its own."""
    provenance = {"source": "bench", "line": 1}
    config = {
        "revision": 1,
        "networks": [{
            "name": "lan", "mode": "internal", "mtu": 1500, "provenance": provenance,
            "gateway": {
                "mac": "02:00:00:00:00:01", "ip": GATEWAY, "subnet": "10.97.0.0/16", "dns": True, "host_access": False,
                "records": [],
                "dhcp": {"first": FIRST, "last": LAST, "lease_s": 3600, "reservations": []},
            },
        }],
        "ports": [{
            "name": "many", "network": "lan", "kind": {"driver": "tap", "name": "c0"}, "vm": None, "provenance": provenance,
            "macs": [RELAY_MAC], "mac_ranges": ["02:dc:00:00:00:00 to 02:dc:00:ff:ff:ff"],
            "addresses": {"addresses": "known", "fixed": [f"{HOST}/32"], "learn": 65536},
            "access": {"dhcp_server": True},
        }],
    }
    os.mkdir(bed.path("state"))
    with open(bed.path("state/dataplane.json"), "w") as file:
        json.dump(config, file)
    there = lambda: subprocess.run(["ip", "-n", bed.spaces[0], "link", "show", "c0"], capture_output=True).returncode == 0
    bed.serve(WEFT, "switch", "serve", "--control", bed.path("control"), "--state", bed.path("state"), ready=there)
    run("ip", "-n", bed.spaces[0], "link", "set", "c0", "netns", bed.spaces[1])


def kea(bed, durable, relayed):
    """With the sockets that are faster where they can be used: to clients without an address only raw ones reach."""
    server, clients = bed.spaces
    run("ip", "-n", server, "link", "add", "s0", "type", "veth", "peer", "name", "c0", "netns", clients)
    run("ip", "-n", server, "addr", "add", f"{GATEWAY}/16", "dev", "s0")
    run("ip", "-n", server, "link", "set", "s0", "up")
    config = {"Dhcp4": {
        "interfaces-config": {"interfaces": ["s0"], "dhcp-socket-type": "udp" if relayed else "raw"},
        "lease-database": {"type": "memfile", "persist": durable, "name": bed.path("leases"), "lfc-interval": 0},
        "valid-lifetime": 3600,
        "multi-threading": {"enable-multi-threading": False},
        "subnet4": [{"id": 1, "subnet": "10.97.0.0/16", "pools": [{"pool": f"{FIRST}-{LAST}"}],
                     "option-data": [{"name": "routers", "data": GATEWAY}, {"name": "domain-name", "data": "lan.test"},
                                     {"name": "domain-name-servers", "data": GATEWAY}]}],
        "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": bed.path("kea.log")}]},
                    {"name": "kea-dhcp4.leases", "severity": "FATAL"}, {"name": "kea-dhcp4.packets", "severity": "FATAL"},
                    {"name": "kea-dhcp4.bad-packets", "severity": "FATAL"},
                    {"name": "kea-dhcp4.alloc-engine", "severity": "FATAL"}],
    }}
    with open(bed.path("kea.json"), "w") as file:
        json.dump(config, file)
    started = lambda: os.path.exists(bed.path("kea.log")) and "STARTED" in open(bed.path("kea.log")).read()
    run("ip", "-n", clients, "link", "set", "c0", "up")
    bed.serve(found("kea-dhcp4"), "-c", bed.path("kea.json"), ready=started,
              env={"KEA_PIDFILE_DIR": bed.dir, "KEA_LOCKFILE_DIR": bed.dir})


SERVERS = {
    "Weft": weft,
    "Kea, not durable": lambda bed, relayed: kea(bed, False, relayed),
    "Kea, durable": lambda bed, relayed: kea(bed, True, relayed),
}


# --- loads --------------------------------------------------------------------------------------------------------


def full_exchanges(bed, work):
    exchanges, seconds, *_ = bed.client(f"{work}/dhcp", "c0", str(CLIENTS), str(WINDOW), str(SECONDS)).split()
    return float(exchanges) / float(seconds)


def storm(bed, work):
    exchanges, seconds, *_ = bed.client(f"{work}/dhcp", "c0", str(STORM), str(STORM), "0").split()
    return float(seconds) if int(exchanges) == STORM else float("inf")


def ladder(bed, _):
    """The highest rate at which 98 of 100 clients of perfdhcp's get their ACK."""
    perfdhcp, best, misses = found("perfdhcp"), 0, 0
    for rate in RATES:
        text = bed.client(perfdhcp, "-4", "-l", "c0", "-r", str(rate), "-R", str(CLIENTS), "-p", str(SECONDS), "-W", "500000",
                          "-g", "single", GATEWAY)
        counts = [re.search(rf"{kind}.*?{count}: (\d+)", text, re.S) for kind, count in
                  [("DISCOVER-OFFER", "sent packets"), ("REQUEST-ACK", "received packets")]]
        sent, acked = (int(count[1]) if count else 0 for count in counts)
        if acked >= 0.98 * sent and sent >= 0.85 * rate * SECONDS:
            best, misses = acked / SECONDS, 0
        else:
            misses += 1
        if misses == 2:  # one may be the machine's
            break
    return best


LOADS = [
    ("DHCP, full exchanges, a closed loop", full_exchanges, "/s"),
    ("DHCP, perfdhcp's ladder", ladder, "/s"),
    ("DHCP, 10,000 clients at once", storm, "s"),
]


def found(program):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if not path:
        raise LookupError(f"{program}: apt-get install kea-dhcp4-server kea-admin")
    return path


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    work = tempfile.mkdtemp(prefix="weft-bench-")
    figures, absent = {}, set()
    try:
        run("cc", "-O2", "-o", f"{work}/dhcp", f"{HERE}/dhcp.c")
        for _ in range(rounds):
            for load, measure, _ in LOADS:
                for name, start in SERVERS.items():
                    try:
                        with Bed() as bed:
                            start(bed, measure is ladder)
                            space = bed.spaces[1]
                            run("ip", "-n", space, "link", "set", "c0", "address", RELAY_MAC)
                            run("ip", "-n", space, "addr", "replace", f"{HOST}/16", "dev", "c0")
                            # The clients of a storm stand at ports of their own: here one queue is all of theirs.
                            run("ip", "-n", space, "link", "set", "c0", "txqueuelen", "20000", "up")
                            time.sleep(0.5)
                            figures.setdefault((load, name), []).append(measure(bed, work))
                    except LookupError as missing:
                        absent.add(str(missing))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for load, _, unit in LOADS:
        ours = statistics.median(figures[load, "Weft"]) if (load, "Weft") in figures else None
        for name in SERVERS:
            values = figures.get((load, name))
            if values:
                middle = statistics.median(values)
                ratio = "" if name == "Weft" or not middle or not ours else f"{ours / middle:.2f} x"
                print(f"| {load} | {name} | {middle:.4g} | {min(values):.4g} | {max(values):.4g} | {unit} | {ratio} |")
    for missing in sorted(absent):
        print(f"left out: {missing}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    WEFT = os.path.abspath(sys.argv[1])
    main()
