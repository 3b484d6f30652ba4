"""The switch beside its peers: every round runs each of them once, one after the other, so that what else the machine
does hits all alike.

usage: switch.py WEFT [ROUNDS [WORKLOAD...]]        as root; workloads: vhost tap stream dgram
Prints a row of docs/PERFORMANCE.md a figure: load, peer, median, minimum, maximum, unit, ratio to Weft's. What cannot
run here is left out, and it is said what to install. Generators run on core 0, the switch on core 1.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
SECONDS = 1.5  # that each load lasts
HUGE_PAGES = 768  # of 2 MiB, for DPDK's peers and generators
PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
MANY_MACS = 1024  # pairs
MANY_FLOWS = 100_000  # five-tuples
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
    """Nanoseconds in which each of a process's threads ran, and in which it had to wait for its core."""
    rows = [open(f"/proc/{process.pid}/task/{task}/schedstat").read().split()
            for task in os.listdir(f"/proc/{process.pid}/task")]
    return [(int(row[0]), int(row[1])) for row in rows]


def ran(process):
    return sum(share[0] for share in shares(process))


def waited(process):
    """The same for the thread that works most: it is the one that switches."""
    return max(shares(process))[1]


# --- peers: each starts a switch on two ports and returns its process --------------------------------------------


def weft(bed, kind):
    """With its default policy, against forged sources, and with a stateful access list that remembers every connection."""
    rules = '[switch]\ndefault = "deny"\nconnections = 200000\nrules = ["deny any -> any tcp/25", "allow any -> any"]\n'
    ports = [f'tap = "wbp{i}"' if kind == "tap" else f'{kind} = "p{i}"' for i in (1, 2)]
    with open(bed.path("lab.toml"), "w") as file:
        file.write(rules)
        for name, port, mac in zip("ab", ports, MACS):
            macs = [mac] if kind != "vhost" else [mac_of(mac, number) for number in range(MANY_MACS)]
            file.write(f"[port.{name}]\n{port}\nmacs = {json.dumps(macs)}\n")
    ready = (lambda: exists("wbp2")) if kind == "tap" else bed.sockets("p1", "p2")
    process = bed.start(1, WEFT, "switch", "run", bed.path("lab.toml"), ready=ready, env={"WEFT_HOME": bed.path("home")})
    time.sleep(0.3)
    return process


def mac_of(mac, number):
    """The address of a pair, as guests.c makes it."""
    return f"02:00:00:{number >> 8:02x}:{number & 255:02x}:{mac[-2:]}"


def relay(bed, kind):
    binary = compiled(bed.work, "relay.c")
    if kind == "tap":
        return bed.start(1, binary, "tap", "wbp1", "wbp2", ready=lambda: exists("wbp2"))
    return bed.start(1, binary, kind, bed.path("p1"), bed.path("p2"), ready=bed.sockets("p1", "p2"))


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


def ovs_dpdk(bed, _):
    """Open vSwitch with its data path in user space on DPDK, learning as it does by default."""
    daemon = need("ovs-vswitchd-dpdk", "openvswitch-switch-dpdk")
    schema = "/usr/share/openvswitch/vswitch.ovsschema"
    place = bed.path("ovs")
    os.mkdir(place)
    files = {"OVS_RUNDIR": place, "OVS_LOGDIR": place, "OVS_DBDIR": place}
    run(need("ovsdb-tool", "openvswitch-common"), "create", f"{place}/conf.db", schema)
    bed.start("0,1", need("ovsdb-server", "openvswitch-common"), f"{place}/conf.db", f"--remote=punix:{place}/db",
              f"--unixctl={place}/db.ctl", ready=lambda: os.path.exists(f"{place}/db"), env=files)
    say = lambda *words: run("ovs-vsctl", f"--db=unix:{place}/db", "-t", "20", *words)
    say("--no-wait", "init")
    say("--no-wait", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true", "other_config:dpdk-socket-mem=512",
        f"other_config:dpdk-hugepage-dir={huge(bed.work)}", "other_config:pmd-cpu-mask=0x2",
        f"other_config:dpdk-extra=--no-pci --file-prefix=wb{os.getpid()}ovs")
    process = bed.start(0, daemon, f"unix:{place}/db", f"--unixctl={place}/vs.ctl", env=files)
    say("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
    for name in ("p1", "p2"):
        say("add-port", "br0", name, "--", "set", "interface", name, "type=dpdkvhostuser")
        os.symlink(f"{place}/{name}", bed.path(name))
    time.sleep(0.5)
    return process


def dpdk(bed, prefix, megabytes):
    return ["--no-pci", "--no-telemetry", f"--huge-dir={huge(bed.work)}", f"-m{megabytes}",
            f"--file-prefix=wb{os.getpid()}{prefix}", "--log-level=4"]


def huge(work):
    """A place for huge pages; how many there were is said in `pages`, to be restored."""
    place = os.path.join(work, "huge")
    if not os.path.ismount(place):
        os.makedirs(place, exist_ok=True)
        before = open(PAGES).read()
        if int(before) < HUGE_PAGES:
            open(os.path.join(work, "pages"), "w").write(before)
            open(PAGES, "w").write(str(HUGE_PAGES))
        if int(open(PAGES).read()) < HUGE_PAGES:
            raise Missing(f"{HUGE_PAGES} huge pages of 2 MiB: echo {HUGE_PAGES} > {PAGES}")
        run("mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", place)
    return place


def restore_huge(work):
    subprocess.run(["umount", os.path.join(work, "huge")], capture_output=True)
    if os.path.exists(os.path.join(work, "pages")):
        open(PAGES, "w").write(open(os.path.join(work, "pages")).read())


def compiled(work, source, *libraries):
    binary = os.path.join(work, source.removesuffix(".c"))
    if not os.path.exists(binary):
        run(need("cc", "gcc"), "-O2", "-o", binary, os.path.join(HERE, source), *libraries)
    return binary


def dpdk_flags():
    """What compiles and links with DPDK."""
    try:
        said = subprocess.run([need("pkg-config", "pkg-config"), "--cflags", "--libs", "libdpdk"], check=True,
                              capture_output=True, text=True).stdout
    except subprocess.CalledProcessError:
        raise Missing("the guests of the vhost-user loads: apt-get install dpdk-dev") from None
    return ["-march=native", *said.split()]


# --- workloads: each measures one started switch and yields figures ----------------------------------------------


def vhost(bed, process):
    """Two guests of DPDK's, on one core: 256 frames are under way, or one."""
    guests = compiled(bed.work, "guests.c", *dpdk_flags())
    ports = [f"--vdev=net_virtio_user{i},path={bed.path(f'p{i + 1}')},queues=1,queue_size=1024,mac={MACS[i]}"
             for i in (0, 1)]
    loads = [("64 B", "window", 64, 1, 1), ("1,514 B", "window", 1514, 1, 1),
             (f"64 B, {MANY_MACS:,} MAC pairs", "window", 64, MANY_MACS, 1),
             (f"64 B, {MANY_FLOWS:,} five-tuples", "window", 64, 1, MANY_FLOWS), ("64 B, one way", "latency", 64, 1, 1)]
    for name, *load in loads:
        command = ["taskset", "-c", "0", guests, "-l0", *dpdk(bed, "gen", 128), "--single-file-segments", *ports, "--",
                   load[0], str(load[1]), str(SECONDS), *map(str, load[2:])]
        before, began = waited(process), time.monotonic_ns()
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.split()
        if (waited(process) - before) / (time.monotonic_ns() - began) > MOST_PREEMPTED:
            continue
        if load[0] == "latency":
            yield f"vhost-user, {name}, p50", float(said[-2]), "us"
            yield f"vhost-user, {name}, p99", float(said[-1]), "us"
        else:
            yield f"vhost-user, {name}", float(said[-2]) / 1e6, "Mpps"


def tap(bed, process):
    """The kernels of two namespaces: TCP as it comes, a flood of small frames, and one question at a time."""
    bed.hosts_on(["wbp1", "wbp2"])
    inside = lambda host: ["ip", "netns", "exec", bed.hosts[host], "taskset", "-c", "0"]
    iperf = need("iperf3", "iperf3")
    bed.running.append(subprocess.Popen([*inside(1), iperf, "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    time.sleep(0.5)
    for streams in (1, 4):
        command = [*inside(0), iperf, "-c", "10.77.0.2", "-t", str(1 + int(SECONDS)), "-O", "1", "-P", str(streams), "-J"]
        end = json.loads(subprocess.run(command, capture_output=True, timeout=60).stdout)["end"]
        yield f"TAP, TCP, {streams} streams", end["sum_received"]["bits_per_second"] / 1e9, "Gb/s"

    hosts = compiled(bed.work, "hosts.c")
    received = lambda: int(subprocess.run(["ip", "netns", "exec", bed.hosts[1], "cat",
                                           "/sys/class/net/wbp2/statistics/rx_packets"],
                                          check=True, capture_output=True).stdout)
    before, worked, began = received(), process and ran(process), time.monotonic()
    run(*inside(0), hosts, "flood", "wbp1", *MACS, str(SECONDS))
    frames = received() - before
    if frames > 0:
        yield "TAP, 64 B", frames / (time.monotonic() - began) / 1e3, "kpps"
    if process and frames > 0:
        yield "TAP, 64 B, processor time", (ran(process) - worked) / 1e3 / frames, "s/Mpkt"

    bed.running.append(subprocess.Popen([*inside(1), hosts, "echo", "7"]))
    time.sleep(0.2)
    if process:
        run("taskset", "-a", "-cp", "0", str(process.pid))  # all on one core, or waking another would be most of it
    said = subprocess.run([*inside(0), hosts, "ask", "10.77.0.2", "7", str(SECONDS)], check=True, capture_output=True)
    yield "TAP, UDP request and response, p50", float(said.stdout), "us"


def sockets(kind):
    def measure(bed, process):
        generator = compiled(bed.work, "sockets.c", "-pthread")
        command = ["taskset", "-c", "0", generator, kind, bed.path("p1"), bed.path("p2"), "64", str(SECONDS)]
        said = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
        yield f"Unix {'stream' if kind == 'stream' else 'datagrams'}, 64 B", int(said) / 1e6, "Mpps"
    return measure


WORKLOADS = {
    "vhost": (vhost, {"weft": weft, "testpmd io": testpmd_io, "OVS-DPDK": ovs_dpdk}),
    "tap": (tap, {"weft": weft, "two-TAP relay": relay, "VDE": vde, "kernel bridge": bridge}),
    "stream": (sockets("stream"), {"weft": weft, "relay": relay}),
    "dgram": (sockets("dgram"), {"weft": weft, "relay": relay}),
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
        restore_huge(work)
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
