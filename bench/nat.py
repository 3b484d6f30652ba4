"""NAT beside its peers: every round runs each of them once, one after the other, so that what else the machine does hits
all alike.

usage: nat.py WEFT [ROUNDS [PEER...]]        as root; peers: weft slirp4netns pasta kernel
Prints a row of docs/PERFORMANCE.md a figure: load, peer, median, minimum, maximum, unit, Weft's ratio to it. What cannot
run here is left out, and it is said what to install.

Three namespaces: a guest, a host with the peer in it, and the outside, one veth pair from the host. The generators run
on core 0, the peer on core 1, all of them at the highest ordinary priority, so that other work on the machine disturbs
less (with a real-time one they keep the kernel's own threads from carrying packets between them).
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SECONDS = 2  # that each load lasts
IDLE_FLOWS = 10_000
MTUS = {"": 65520, "MTU 1500, ": 1500}
HOST, OUTSIDE = "10.98.0.1", "10.98.0.2"
# The guest's network, where the peer does not choose it.
GATEWAY, GUEST = "10.96.0.1", "10.96.0.2"
MAC = "02:00:00:00:00:02"
FORWARDED = 5202
FIRST = ["nice", "-n", "-20"]
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Missing(Exception):
    """What a peer needs and this host lacks."""


def need(program, package):
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if not found:
        raise Missing(f"{program}: apt-get install {package}")
    return found


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


class Bed:
    """A folder, three network namespaces, and the processes of one measurement; all of it goes at the end."""

    def __init__(self, work):
        self.dir = tempfile.mkdtemp(prefix="bed-", dir=work)
        self.guest, self.host, self.outside = [f"wn{os.getpid()}{letter}" for letter in "gho"]
        self.flows = os.path.join(work, "flows")
        self.running = []

    def __enter__(self):
        for space in (self.guest, self.host, self.outside):
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
            self.set(space, "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
            # Many short connections in a row.
            self.set(space, "net.ipv4.ip_local_port_range=10000 65000", "net.ipv4.tcp_tw_reuse=1")
        run("ip", "-n", self.host, "link", "add", "u0", "type", "veth", "peer", "name", "u1", "netns", self.outside)
        for space, device, address in ((self.host, "u0", HOST), (self.outside, "u1", OUTSIDE)):
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", device)
            run("ip", "-n", space, "link", "set", device, "up")
        run("ip", "-n", self.host, "route", "add", "default", "via", OUTSIDE)
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for space in (self.guest, self.host, self.outside):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def set(self, space, *settings):
        run("ip", "netns", "exec", space, "sysctl", "-qw", *settings)

    def inside(self, space, core=0):
        return ["ip", "netns", "exec", space, "taskset", "-c", str(core), *FIRST]

    def start(self, space, core, *command, ready=lambda: True):
        with open(self.path("log"), "a") as log:
            process = subprocess.Popen([*self.inside(space, core), *command], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, env={**os.environ, "WEFT_HOME": self.path("home")})
        self.running.append(process)
        wait_for(command[0], lambda: process.poll() is not None or ready())
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]}: {open(self.path('log')).read()[-500:]}")
        return process

    def guest_has(self, device, mtu):
        """Gives the guest its device, with an address and a route."""
        run("ip", "-n", self.guest, "addr", "add", f"{GUEST}/24", "dev", device)
        run("ip", "-n", self.guest, "link", "set", device, "mtu", str(mtu), "up")
        run("ip", "-n", self.guest, "route", "add", "default", "via", GATEWAY)

    def guest_routes(self):
        command = ["ip", "-n", self.guest, "route", "get", OUTSIDE]
        return subprocess.run(command, capture_output=True).returncode == 0

    def listens(self, space, port):
        said = subprocess.run(["ip", "netns", "exec", space, "ss", "-Hltn", f"sport = :{port}"], capture_output=True)
        return bool(said.stdout)


def wait_for(what, happened):
    deadline = time.monotonic() + 10
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: nothing happened")
        time.sleep(0.05)


# --- peers: each gives the guest a way out and a port of the host's that leads to it, and returns its process ----------


def weft(bed, mtu):
    """The switch role with one network, as the daemon would tell it; the guest stands behind a TAP."""
    control, device = bed.path("control"), "wn0"
    process = bed.start(bed.host, 1, WEFT, "switch", "serve", "--control", control, "--state", bed.path("state"),
                        ready=lambda: os.path.exists(control))
    place = {"source": "nat.py", "line": 1}
    network = {
        "name": "lab", "mode": "nat", "mtu": mtu, "provenance": place,
        "gateway": {"mac": "02:00:00:00:00:01", "ip": GATEWAY, "subnet": f"{GATEWAY}/24", "dhcp": None, "dns": False,
                    "host_access": False, "records": []},
        "forwards": [{"listen": f"tcp/0.0.0.0:{FORWARDED}", "to": f"{GUEST}:{FORWARDED}", "mac": MAC, "ip": GUEST,
                      "provenance": place}],
    }
    port = {"name": "guest", "network": "lab", "kind": {"driver": "tap", "name": device}, "macs": [MAC], "vm": None,
            "access": {}, "provenance": place}
    wanted = {"request": "apply", "body": {"revision": 1, "networks": [network], "ports": [port]}}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(control)
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        answer = connection.makefile().readline()
        if json.loads(answer)["response"] != "done":
            raise RuntimeError(answer)
    run("ip", "-n", bed.host, "link", "set", device, "netns", bed.guest)
    run("ip", "-n", bed.guest, "link", "set", device, "address", MAC)
    bed.guest_has(device, mtu)
    return process


def slirp4netns(bed, mtu):
    api = bed.path("api")
    process = bed.start(bed.host, 1, need("slirp4netns", "slirp4netns"), "--configure", f"--mtu={mtu}",
                        f"--api-socket={api}", "--netns-type=path", f"/run/netns/{bed.guest}", "tap0",
                        ready=lambda: os.path.exists(api) and bed.guest_routes())
    forward = {"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "0.0.0.0", "host_port": FORWARDED,
                                                       "guest_addr": "10.0.2.100", "guest_port": FORWARDED}}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(api)
        connection.sendall(json.dumps(forward).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile().read()
        if "error" in answer:
            raise RuntimeError(answer)
    return process


def pasta(bed, mtu):
    return bed.start(bed.host, 1, need("pasta", "passt"), "-f", "-q", "--config-net", "--netns-only", "--no-map-gw",
                     "--runas", "0", "-t", str(FORWARDED), "-m", str(mtu), "--netns", f"/run/netns/{bed.guest}",
                     ready=bed.guest_routes)


def kernel(bed, mtu):
    """Routing and masquerade of the kernel's, over a veth pair. It needs root and the host's firewall."""
    rules = f"""table ip n {{
        chain out {{
            type nat hook postrouting priority 100
            oifname "u0" masquerade
        }}
        chain in {{
            type nat hook prerouting priority -100
            iifname "u0" tcp dport {FORWARDED} dnat to {GUEST}
        }}
    }}"""
    subprocess.run(["ip", "netns", "exec", bed.host, need("nft", "nftables"), "-f", "-"], input=rules.encode(), check=True)
    run("ip", "-n", bed.host, "link", "add", "g0", "type", "veth", "peer", "name", "g1", "netns", bed.guest)
    run("ip", "-n", bed.host, "addr", "add", f"{GATEWAY}/24", "dev", "g0")
    run("ip", "-n", bed.host, "link", "set", "g0", "mtu", str(mtu), "up")
    bed.set(bed.host, "net.ipv4.ip_forward=1")
    bed.guest_has("g1", mtu)
    return None


PEERS = {"weft": weft, "slirp4netns": slirp4netns, "pasta": pasta, "kernel": kernel}


# --- loads: each measures one started peer and yields figures ----------------------------------------------------------


def iperf(bed, space, address, *options):
    """Gigabits that came in a second."""
    command = [*bed.inside(space), need("iperf3", "iperf3"), "-c", address, "-t", str(SECONDS), "-O", "1", "-J", *options]
    said = subprocess.run(command, capture_output=True, timeout=30).stdout
    return json.loads(said)["end"]["sum_received"]["bits_per_second"] / 1e9


def streams(bed, mark):
    """TCP as it comes: from the guest, to it, and to it by the port forward."""
    bed.start(bed.outside, 0, "iperf3", "-s", ready=lambda: bed.listens(bed.outside, 5201))
    yield f"{mark}TCP out, 1 stream", iperf(bed, bed.guest, OUTSIDE), "Gb/s"
    if not mark:
        yield f"{mark}TCP out, 4 streams", iperf(bed, bed.guest, OUTSIDE, "-P", "4"), "Gb/s"
    yield f"{mark}TCP in, 1 stream", iperf(bed, bed.guest, OUTSIDE, "-R"), "Gb/s"
    bed.start(bed.guest, 0, "iperf3", "-s", "-p", str(FORWARDED), ready=lambda: bed.listens(bed.guest, FORWARDED))
    yield f"{mark}TCP in by a forward, 1 stream", iperf(bed, bed.outside, HOST, "-p", str(FORWARDED)), "Gb/s"


def small(bed, process):
    """One byte at a time; a connection for each byte; and many connections that do nothing. All on one core, for
    waking another would be most of it."""
    bed.start(bed.outside, 0, bed.flows, "serve", "7", ready=lambda: bed.listens(bed.outside, 7))
    if process:
        run("taskset", "-a", "-cp", "0", str(process.pid))
    ask = lambda what, *words: subprocess.run([*bed.inside(bed.guest), bed.flows, what, OUTSIDE, "7", *words], check=True,
                                              capture_output=True, timeout=30).stdout.split()
    median, late = ask("ask", str(SECONDS))
    yield "TCP request and response, p50", float(median), "us"
    yield "TCP request and response, p99", float(late), "us"
    yield "new connections, one after the other", float(ask("connect", str(SECONDS))[0]), "/s"


def idle(bed, process):
    """What the peer's own memory grows by for a connection that does nothing."""
    before = resident(process)
    holder = subprocess.Popen([*bed.inside(bed.guest), bed.flows, "hold", OUTSIDE, "7", str(IDLE_FLOWS)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        count = int(holder.stdout.readline())
        if count < IDLE_FLOWS * 0.9:
            raise RuntimeError(f"no more than {count} connections at a time")
        time.sleep(3)
        yield f"memory a flow, {IDLE_FLOWS:,} idle flows", (resident(process) - before) / count / 1024, "KiB"
    finally:
        holder.stdin.close()
        holder.wait(20)


def resident(process):
    """Bytes of a process and those that it started."""
    total = 0
    for pid in [process.pid, *children(process.pid)]:
        fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        total += int(fields["VmRSS"].split()[0]) * 1024
    return total


def children(pid):
    said = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in said.split()]


def measure(bed, start):
    """Every load on one peer, in beds of their own for each MTU."""
    for mark, mtu in MTUS.items():
        with bed() as place:
            process = start(place, mtu)
            yield from streams(place, mark)
            if not mark:
                yield from small(place, process)
                if process:
                    yield from idle(place, process)


def main(rounds, chosen):
    work = tempfile.mkdtemp(prefix="weft-bench-")
    figures, missing = {}, set()
    try:
        run(need("cc", "gcc"), "-O2", "-o", os.path.join(work, "flows"), os.path.join(HERE, "flows.c"))
        need("iperf3", "iperf3")
        for _ in range(rounds):
            for peer in chosen:
                try:
                    for load, value, unit in measure(lambda: Bed(work), PEERS[peer]):
                        figures.setdefault((load, unit), {}).setdefault(peer, []).append(value)
                except Missing as lack:
                    missing.add(f"{peer}: {lack}")
                except (RuntimeError, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
                    print(f"{peer}: this round failed: {error}", file=sys.stderr)
    except Missing as lack:
        missing.add(f"NAT beside its peers: {lack}")
    except KeyboardInterrupt:
        print("interrupted: what was measured until then", file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("| load | peer | median | min | max | unit | Weft is |\n| --- | --- | --- | --- | --- | --- | --- |")
    for (load, unit), peers in figures.items():
        ours = statistics.median(peers["weft"]) if "weft" in peers else None
        for peer, values in peers.items():
            median = statistics.median(values)
            ratio = f"{ours / median:.2f} x" if ours and peer != "weft" and median > 0 else ""
            row = (f"{peer} ({len(values)})", f"{median:.3g}", f"{min(values):.3g}", f"{max(values):.3g}", unit, ratio)
            print(f"| {load} | {' | '.join(row)} |")
    for line in sorted(missing):
        print(f"left out: {line}", file=sys.stderr)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("left out: NAT beside its peers needs root, for network namespaces")
    WEFT = os.path.abspath(sys.argv[1])
    main(int(sys.argv[2]) if len(sys.argv) > 2 else 7, sys.argv[3:] or list(PEERS))
