"""Torments one world: random edits, random kills, then `up`, then everybody must reach whom the file says.

usage: soak.py WEFT MINUTES SEED
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time


def weft(*args, check=True):
    done = subprocess.run([WEFT, *args], capture_output=True, text=True, env=ENV, cwd=HOME)
    if check and done.returncode != 0:
        raise AssertionError(f"weft {' '.join(args)}: {done.stdout}{done.stderr}")
    return done


def write_world(dice):
    """A random world of up to four machines on up to three networks; returns who is on which network."""
    networks = [f"n{n}" for n in range(dice.randint(1, 3))]
    places, text = {}, ""
    for n, name in enumerate(networks):
        text += f"[network.{name}]\nsubnet = '10.8{n}.0.0/24'\nmode = '{dice.choice(['nat', 'internal'])}'\n"
    for m in range(dice.randint(1, 4)):
        on = dice.sample(networks, dice.randint(1, len(networks)))
        places[f"m{m}"] = on
        nics = ", ".join(f"{{ network = '{name}', ip = '10.8{name[1:]}.0.{10 + m}' }}" for name in on)
        text += f"[vm.m{m}]\nmemory = '{dice.choice(['128MiB', '160MiB'])}'\nnics = [{nics}]\n"
    open(os.path.join(HOME, "weft.toml"), "w").write(text)
    return places


def kill_some(dice):
    world = json.loads(weft("ls", "--json").stdout)
    pids = [world["daemon"]["pid"], (world["switch"] or {}).get("pid")] + [vm["pid"] for vm in world["vms"]]
    for pid in dice.sample([pid for pid in pids if pid], dice.randint(0, 2)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


RENEW_AGAIN = """
for nic in /sys/class/net/eth*; do macs="$macs $(cat $nic/address)"; done
for i in $(seq 10); do
    renew-leases $macs
    for nic in /sys/class/net/eth*; do
        tries=0
        until ip -4 addr show dev ${nic##*/} | grep -q inet; do
            tries=$((tries + 1)); [ $tries -lt 100 ] || exit 1; sleep 0.1
        done
    done
done
"""


def renew(places, dice):
    """A machine that gives its leases back again and again gets them again each time."""
    vm = dice.choice(sorted(places))
    said = weft("exec", vm, "--", "sh", "-c", RENEW_AGAIN, check=False)
    assert said.returncode == 0, f"{vm} stays without a lease that it gave back: {said.stdout}{said.stderr}"


def verify(places):
    for vm, networks in places.items():
        for other, others in places.items():
            for name in others:
                if other == vm:
                    continue
                ip = f"10.8{name[1:]}.0.{10 + int(other[1:])}"
                # A switch that was killed a moment ago is given the time that a VMM needs to come back.
                tries = 15 if name in networks else 1
                reached = any(weft("exec", vm, "--", "ping", "-c1", "-W1", ip, check=False).returncode == 0 for _ in range(tries))
                assert reached == (name in networks), f"{vm} {'did not reach' if not reached else 'reached'} {other} at {ip}"


def tell_state():
    """What a person needs to find out what went wrong."""
    for args in (["ls"], ["port", "ls"], ["lease", "ls"], ["events"]):
        print(f"--- weft {' '.join(args)}\n{weft(*args, check=False).stdout[-6000:]}", flush=True)
    for vm in json.loads(weft("vm", "ls", "--json", check=False).stdout or "[]"):
        for script in ("ip addr; ip route; ip neigh", "tail -n 40 /proc/net/dev; ps | grep udhcpc"):
            said = weft("exec", vm["name"], "--", "sh", "-c", script, check=False)
            print(f"--- {vm['name']}: {script}\n{said.stdout}{said.stderr}", flush=True)


def main():
    dice = random.Random(SEED)
    end = time.monotonic() + MINUTES * 60
    rounds = 0
    while time.monotonic() < end:
        places = write_world(dice)
        if dice.random() < 0.3:
            up = subprocess.Popen([WEFT, "up"], env=ENV, cwd=HOME, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(dice.random() * 4)
            kill_some(dice)
            up.wait()
        weft("up")
        verify(places)
        renew(places, dice)
        kill_some(dice)
        weft("up")
        verify(places)
        rounds += 1
        print(f"round {rounds}: {len(places)} machines", flush=True)
    weft("down")
    time.sleep(3)
    left = subprocess.run(["pgrep", "-af", HOME], capture_output=True, text=True).stdout
    left = [line for line in left.splitlines() if not line.startswith(f"{os.getpid()} ")]
    assert not left, f"processes are left: {left}"
    print(f"{rounds} rounds, nothing lost, nothing left")


WEFT, MINUTES, SEED = os.path.abspath(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
HOME = tempfile.mkdtemp(prefix="weft-soak-")
ENV = dict(os.environ, WEFT_HOME=HOME)
print(f"seed {SEED}, home {HOME}", flush=True)
try:
    main()
except AssertionError:
    tell_state()
    raise
finally:
    subprocess.run([WEFT, "down"], capture_output=True, env=ENV, cwd=HOME)
    shutil.rmtree(HOME, ignore_errors=True)
