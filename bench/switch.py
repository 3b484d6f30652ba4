"""The switch beside its peers: every round runs each of them once, one after the other, so that what else the machine
does hits all alike.

usage: switch.py WEFT [ROUNDS [WORKLOAD...]]        as root; workloads: vhost tap stream
Prints a row of docs/PERFORMANCE.md a figure: load, peer, median, minimum, maximum, unit, ratio to Weft's. What cannot
run here is left out, and it is said what to install. Generators run on core 0, the switch on core 1.
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
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
SECONDS = 3
HUGE_PAGES = 768  # of 2 MiB, for DPDK's peers and generators
# A round in which another process had the switch's core for longer says nothing.
MOST_PREEMPTED = 0.02


class Missing(Exception):
    """What a peer needs and this host lacks."""


def need(program, package):
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/lib/openvswitch-switch-dpdk")
    if not found:
        raise Missing(f"{program}: apt-get install {package}")
    return found


class Bed:
    """A folder, two network namespaces, and the processes of one measurement; all of it goes at the end."""

    def __init__(self, work):
        self.work, self.dir = work, tempfile.mkdtemp(prefix="weft-bench-", dir=work)
        self.hosts = [f"wb{os.getpid()}h{i}" for i in (1, 2)]
        self.running = []

    def __enter__(self):
        for host in self.hosts:
            run("ip", "netns", "add", host)
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def start(self, core, *command, ready=lambda: True, env=None):
        log = open(self.path("log"), "a")
        process = subprocess.Popen(["taskset", "-c", str(core), *command], stdin=subprocess.PIPE, stdout=log, stderr=log,
                                   env={**os.environ, **(env or {})})
        self.running.append(process)
        deadline = time.monotonic() + 10
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]}: {open(self.path('log')).read()[-500:]}")
            time.sleep(0.05)
        return process

    def sockets(self, *names):
        return lambda: all(os.path.exists(self.path(name)) for name in names)

    def hosts_on(self, devices):
        """Gives each host its device, an address and its MAC."""
        for i, (host, device) in enumerate(zip(self.hosts, devices)):
            run("ip", "link", "set", device, "netns", host)
            run("ip", "-n", host, "link", "set", device, "address", MACS[i])
            run("ip", "-n", host, "addr", "add", f"10.77.0.{i + 1}/24", "dev", device)
            run("ip", "-n", host, "link", "set", device, "up")
        self.wait_for_ping()

    def wait_for_ping(self):
        for _ in range(20):
            ping = ["ip", "netns", "exec", self.hosts[0], "ping", "-c1", "-W1", "10.77.0.2"]
            if subprocess.run(ping, capture_output=True).returncode == 0:
                return
        raise RuntimeError("no ping through the switch")


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


def exists(device):
    return os.path.exists(f"/sys/class/net/{device}")


def shares(process):
    """Nanoseconds in which a process's threads ran, and in which they had to wait for their core."""
    rows = [open(f"/proc/{process.pid}/task/{task}/schedstat").read().split()
            for task in os.listdir(f"/proc/{process.pid}/task")]
    return sum(int(row[0]) for row in rows), sum(int(row[1]) for row in rows)


# --- peers: each starts a switch on two ports and returns its process --------------------------------------------


def weft(bed, kind):
    ports = {"vhost": ['vhost = "p1"', 'vhost = "p2"'], "stream": ['stream = "p1"', 'stream = "p2"'],
             "tap": ['tap = "wbp1"', 'tap = "wbp2"']}[kind]
    with open(bed.path("lab.toml"), "w") as file:
        for name, port, mac in zip("ab", ports, MACS):
            file.write(f'[port.{name}]\n{port}\nmac = "{mac}"\n')
    ready = (lambda: exists("wbp2")) if kind == "tap" else bed.sockets("p1", "p2")
    process = bed.start(1, WEFT, "switch", "run", bed.path("lab.toml"), ready=ready, env={"WEFT_HOME": bed.path("home")})
    time.sleep(0.3)
    return process


def relay(bed, kind):
    binary = compiled(bed.work, "relay.c")
    if kind == "tap":
        return bed.start(1, binary, "tap", "wbp1", "wbp2", ready=lambda: exists("wbp2"))
    return bed.start(1, binary, "stream", bed.path("p1"), bed.path("p2"), ready=bed.sockets("p1", "p2"))


def vde(bed, _):
    process = bed.start(1, need("vde_switch", "vde2"), "-s", bed.path("ctl"), "-tap", "wbp1", "-tap", "wbp2",
                        ready=lambda: exists("wbp2"))
    return process


def bridge(bed, _):
    """The kernel's own bridge, on veth pairs, for it takes no TAP of nobody's."""
    for i in (1, 2):
        run("ip", "link", "add", f"wbp{i}", "type", "veth", "peer", "name", f"wbb{i}")
    run("ip", "link", "add", "wbbr", "type", "bridge")
    bed.running.append(BridgeEnd())
    for i in (1, 2):
        run("ip", "link", "set", f"wbb{i}", "master", "wbbr", "up")
    run("ip", "link", "set", "wbbr", "up")
    return None


class BridgeEnd:
    """Stands among the processes, so that the bridge ends as they do."""

    def send_signal(self, _):
        subprocess.run(["ip", "link", "del", "wbbr"], capture_output=True)
        subprocess.run(["ip", "link", "del", "wbb1"], capture_output=True)
        subprocess.run(["ip", "link", "del", "wbb2"], capture_output=True)

    def wait(self, *_):
        pass


def testpmd_io(bed, _):
    binary = need("dpdk-testpmd", "dpdk")
    ports = [f"--vdev=net_vhost{i},iface={bed.path(f'p{i + 1}')},queues=1" for i in (0, 1)]
    command = [binary, "--lcores=0@0,1@1", *dpdk(bed, "switch", 256), *ports, "--", "--forward-mode=io", "--nb-cores=1",
               "--total-num-mbufs=32768", "--rxd=1024", "--txd=1024", "--auto-start", "--stats-period=1000"]
    process = bed.start("0,1", *command, ready=bed.sockets("p1", "p2"))
    time.sleep(1)
    return process


def dpdk(bed, prefix, megabytes):
    return ["--no-pci", "--no-telemetry", f"--huge-dir={huge(bed.work)}", f"-m{megabytes}",
            f"--file-prefix=wb{os.getpid()}{prefix}", "--log-level=4"]


def huge(work):
    place = os.path.join(work, "huge")
    if not os.path.ismount(place):
        os.makedirs(place, exist_ok=True)
        pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
        if int(open(pages).read()) < HUGE_PAGES:
            open(pages, "w").write(str(HUGE_PAGES))
        if int(open(pages).read()) < HUGE_PAGES:
            raise Missing(f"{HUGE_PAGES} huge pages of 2 MiB: echo {HUGE_PAGES} > {pages}")
        run("mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", place)
    return place


def compiled(work, source, *libraries):
    binary = os.path.join(work, source.removesuffix(".c"))
    if not os.path.exists(binary):
        run(need("cc", "gcc"), "-O2", "-o", binary, os.path.join(HERE, source), *libraries)
    return binary


# --- workloads: each measures one started switch and yields figures ----------------------------------------------


def vhost(bed, process):
    """DPDK's testpmd as two guests: 256 frames go round, each addressed to the other side."""
    for name, size in (("64 B", 64), ("1,514 B", 1514)):
        ports = [f"--vdev=net_virtio_user{i},path={bed.path(f'p{i + 1}')},queues=1,queue_size=1024,mac={MACS[i]}"
                 for i in (0, 1)]
        command = ["taskset", "-c", "0", need("dpdk-testpmd", "dpdk"), "--lcores=(0)@0,(1)@0",
                   *dpdk(bed, "gen", 128), "--single-file-segments", *ports, "--", "-i", "--forward-mode=mac",
                   "--nb-cores=1", "--total-num-mbufs=16384", "--rxd=1024", "--txd=1024", f"--txpkts={size}",
                   f"--eth-peer=0,{MACS[1]}", f"--eth-peer=1,{MACS[0]}"]
        generator = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     text=True)
        before, began = shares(process), time.monotonic_ns()
        for line, pause in [("", 2), ("start tx_first 8", 1)] + [("show port stats all", 1)] * SECONDS:
            generator.stdin.write(line + "\n")
            generator.stdin.flush()
            time.sleep(pause)
        waited = (shares(process)[1] - before[1]) / (time.monotonic_ns() - began)
        said = generator.communicate("stop\nquit\n", timeout=20)[0]
        rates = [int(rate) for rate in re.findall(r"Rx-pps:\s+(\d+)", said)]
        pairs = [sum(pair) for pair in zip(rates[::2], rates[1::2])][1:]
        if waited <= MOST_PREEMPTED and pairs:
            yield f"vhost-user, {name}, 256 frames in flight", statistics.median(pairs) / 1e6, "Mpps"


def tap(bed, process):
    """The kernels of two namespaces, TCP as it comes."""
    bed.hosts_on(["wbp1", "wbp2"])
    iperf = need("iperf3", "iperf3")
    inside = lambda host: ["ip", "netns", "exec", bed.hosts[host], "taskset", "-c", "0"]
    server = subprocess.Popen([*inside(1), iperf, "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bed.running.append(server)
    time.sleep(0.5)
    for streams in (1, 4):
        command = [*inside(0), iperf, "-c", "10.77.0.2", "-t", str(SECONDS), "-O", "1", "-P", str(streams), "-J"]
        end = json.loads(subprocess.run(command, capture_output=True, timeout=60).stdout)["end"]
        yield f"TAP, TCP, {streams} streams", end["sum_received"]["bits_per_second"] / 1e9, "Gb/s"


def stream(bed, process):
    generator = compiled(bed.work, "stream.c", "-pthread")
    for size in (64, 1514):
        if size == 1514:  # each peer of a relay comes once
            return
        command = ["taskset", "-c", "0", generator, bed.path("p1"), bed.path("p2"), str(size), str(SECONDS)]
        yield f"Unix stream, {size} B", int(subprocess.run(command, capture_output=True, check=True).stdout) / 1e6, "Mpps"


WORKLOADS = {
    "vhost": (vhost, {"weft": weft, "testpmd io": testpmd_io}),
    "tap": (tap, {"weft": weft, "two-TAP relay": relay, "VDE": vde, "kernel bridge": bridge}),
    "stream": (stream, {"weft": weft, "relay": relay}),
}


def main(rounds, chosen):
    work = tempfile.mkdtemp(prefix="weft-bench-")
    figures, missing = {}, set()
    try:
        for _ in range(rounds):
            for kind in chosen:
                measure, peers = WORKLOADS[kind]
                for peer, start in peers.items():
                    try:
                        with Bed(work) as bed:
                            for load, value, unit in measure(bed, start(bed, kind)):
                                figures.setdefault((load, unit), {}).setdefault(peer, []).append(value)
                    except Missing as lack:
                        missing.add(f"{peer}: {lack}")
                    except (RuntimeError, subprocess.SubprocessError, ValueError, KeyError) as error:
                        print(f"{kind}, {peer}: this round failed: {error}", file=sys.stderr)
    finally:
        subprocess.run(["umount", os.path.join(work, "huge")], capture_output=True)
        shutil.rmtree(work, ignore_errors=True)
    print("| load | peer | median | min | max | unit | Weft is |\n| --- | --- | --- | --- | --- | --- | --- |")
    for (load, unit), peers in figures.items():
        ours = statistics.median(peers["weft"]) if "weft" in peers else None
        for peer, values in peers.items():
            median = statistics.median(values)
            ratio = f"{ours / median:.2f} x" if ours and peer != "weft" else ""
            print(f"| {load} | {peer} ({len(values)}) | {median:.3g} | {min(values):.3g} | {max(values):.3g} | {unit} | {ratio} |")
    for line in sorted(missing):
        print(f"left out: {line}", file=sys.stderr)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("left out: the switch beside its peers needs root, for network namespaces and huge pages")
    WEFT = os.path.abspath(sys.argv[1])
    main(int(sys.argv[2]) if len(sys.argv) > 2 else 7, sys.argv[3:] or list(WORKLOADS))
