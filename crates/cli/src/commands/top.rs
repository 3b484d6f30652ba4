//! `weft top`: what machines take of the host, and what goes through their adapters.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::param::clock_ticks_per_second;
use serde::Serialize;
use tokio::time::sleep;
use weft_model::view::{VmState, WorldView};

use crate::args::TopArgs;
use crate::commands::{Context, ls};
use crate::failure::{Failure, Result};
use crate::output::{self, human_bytes};
use crate::table::Table;
use crate::terminal;

/// Puts the cursor at the top left, and clears what is below (ECMA-48: CUP, ED).
const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";

pub(crate) async fn run(context: &Context, args: TopArgs) -> Result {
    let every = Duration::from_secs_f64(args.every);
    let is_live = terminal::stdout_is_terminal() && !context.json;
    let mut left = args.samples.or((!is_live).then_some(1));
    let mut before = Counts::take(&context.world().await?);
    while left != Some(0) {
        sleep(every).await;
        let world = context.world().await?;
        let now = Counts::take(&world);
        let rows = rows(&world, &before, &now);
        if context.json {
            let line = serde_json::to_string(&rows).map_err(|error| Failure::of("output", &error, ""))?;
            output::data(&(line + "\n"))?;
        } else {
            let clear = if is_live { HOME_AND_CLEAR } else { "" };
            output::data(&format!("{clear}{}", table(&rows).render()))?;
        }
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// What one process, or one machine, takes.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    /// What a machine does now; nothing for Weft's own processes.
    state: Option<VmState>,
    /// Of one processor, in percent.
    cpu_percent: f64,
    /// How much of the time its threads had to wait for a processor together, in percent: what its guest sees as stolen.
    wait_percent: f64,
    memory_bytes: u64,
    /// What its guest believes to have; none for Weft's own processes.
    memory_given_bytes: Option<u64>,
    disk_read_bytes_per_s: u64,
    disk_written_bytes_per_s: u64,
    /// Of a machine: what it received and sent.
    net_in_bits_per_s: Option<u64>,
    net_out_bits_per_s: Option<u64>,
}

/// What is counted of everything, at one instant.
struct Counts {
    at: Instant,
    processes: BTreeMap<u32, Process>,
    /// By machine, in bytes: what it received and sent.
    adapters: BTreeMap<String, (u64, u64)>,
}

impl Counts {
    fn take(world: &WorldView) -> Self {
        let mut adapters = BTreeMap::<String, (u64, u64)>::new();
        for port in &world.ports {
            if let Some(vm) = &port.vm {
                let sums = adapters.entry(vm.to_string()).or_default();
                *sums = (sums.0.saturating_add(port.tx_bytes), sums.1.saturating_add(port.rx_bytes));
            }
        }
        let vms = world.vms.iter().filter_map(|vm| vm.pid);
        let own = world.switch.iter().map(|switch| switch.pid).chain([world.daemon.pid]);
        let processes = vms.chain(own).filter_map(|pid| Some((pid, Process::read(pid)?))).collect();
        Self { at: Instant::now(), processes, adapters }
    }
}

/// What the kernel counts of a process (proc(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Process {
    cpu_ns: u64,
    wait_ns: u64,
    memory_bytes: u64,
    read_bytes: u64,
    written_bytes: u64,
}

impl Process {
    /// `None` where it has ended. What this user may not read counts as nothing.
    fn read(pid: u32) -> Option<Self> {
        let text = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let cpu_ns = cpu_ns(&text("stat").ok()?, clock_ticks_per_second())?;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let wait_ns = threads.filter_map(|thread| wait_ns(&fs::read_to_string(thread.path().join("schedstat")).ok()?));
        let (status, io) = (text("status").unwrap_or_default(), text("io").unwrap_or_default());
        Some(Self {
            cpu_ns,
            wait_ns: wait_ns.fold(0, u64::saturating_add),
            memory_bytes: field(&status, "VmRSS").saturating_mul(1024),
            read_bytes: field(&io, "read_bytes"),
            written_bytes: field(&io, "write_bytes"),
        })
    }
}

/// The processor time in `/proc/PID/stat`, whose second field may hold spaces and parentheses.
fn cpu_ns(stat: &str, ticks_per_second: u64) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()?.saturating_add(ticks()?).saturating_mul(1_000_000_000 / ticks_per_second.max(1)))
}

/// How long a thread has waited for a processor, in its `schedstat`.
fn wait_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The number behind `name:`; 0 where there is none.
fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn rows(world: &WorldView, before: &Counts, now: &Counts) -> Vec<Row> {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let row = |name: &str, state, pid: Option<u32>| {
        let of = |counts: &Counts| pid.and_then(|pid| counts.processes.get(&pid).copied());
        let current = of(now).unwrap_or_default();
        // Who has only just been started had counted nothing.
        let earlier = of(before).unwrap_or_default();
        let percent = |now: u64, before: u64| (now.saturating_sub(before)) as f64 / seconds / 1e7;
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        Row {
            name: name.to_owned(),
            state,
            cpu_percent: percent(current.cpu_ns, earlier.cpu_ns),
            wait_percent: percent(current.wait_ns, earlier.wait_ns),
            memory_bytes: current.memory_bytes,
            memory_given_bytes: None,
            disk_read_bytes_per_s: rate(current.read_bytes, earlier.read_bytes),
            disk_written_bytes_per_s: rate(current.written_bytes, earlier.written_bytes),
            net_in_bits_per_s: None,
            net_out_bits_per_s: None,
        }
    };
    let machines = world.vms.iter().map(|vm| {
        let of = |counts: &Counts| counts.adapters.get(vm.name.as_str()).copied().unwrap_or_default();
        let (current, earlier) = (of(now), of(before));
        let bits = |now: u64, before: u64| Some((now.saturating_sub(before) as f64 * 8.0 / seconds) as u64);
        Row {
            memory_given_bytes: Some(vm.memory.bytes()),
            net_in_bits_per_s: bits(current.0, earlier.0),
            net_out_bits_per_s: bits(current.1, earlier.1),
            ..row(vm.name.as_str(), Some(vm.state), vm.pid)
        }
    });
    let mut rows: Vec<_> = machines.collect();
    rows.extend(world.switch.iter().map(|switch| row("(switch)", None, Some(switch.pid))));
    if world.daemon.pid != 0 {
        rows.push(row("(daemon)", None, Some(world.daemon.pid)));
    }
    rows
}

fn table(rows: &[Row]) -> Table {
    let mut table =
        Table::new(&["NAME", "STATE", "CPU", "WAIT", "MEMORY", "OF", "DISK READ", "WRITTEN", "NET IN", "OUT"]);
    let per_s = |bytes: u64| if bytes == 0 { String::new() } else { format!("{}/s", human_bytes(bytes)) };
    let bits = |bits: Option<u64>| bits.filter(|bits| *bits > 0).map(human_bits).unwrap_or_default();
    for row in rows {
        table.row([
            row.name.clone(),
            row.state.map(ls::state).unwrap_or_default(),
            format!("{:.1}%", row.cpu_percent),
            format!("{:.1}%", row.wait_percent),
            human_bytes(row.memory_bytes),
            row.memory_given_bytes.map(human_bytes).unwrap_or_default(),
            per_s(row.disk_read_bytes_per_s),
            per_s(row.disk_written_bytes_per_s),
            bits(row.net_in_bits_per_s),
            bits(row.net_out_bits_per_s),
        ]);
    }
    table
}

fn human_bits(bits: u64) -> String {
    let bits = bits as f64;
    match bits {
        _ if bits >= 1e9 => format!("{:.1} Gb/s", bits / 1e9),
        _ if bits >= 1e6 => format!("{:.1} Mb/s", bits / 1e6),
        _ if bits >= 1e3 => format!("{:.1} kb/s", bits / 1e3),
        _ => format!("{bits:.0} b/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_of_a_process() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 500 0 0 0 150 50 0 0 20 0 4 0 1000 0 0";
        assert_eq!(cpu_ns(stat, 100), Some(2_000_000_000));
        for odd in ["", "42", "42 (a", "42 (a) S 1", "42 (a) S 1 2 3 4 5 6 7 8 9 10 x y"] {
            assert_eq!(cpu_ns(odd, 100), None, "{odd}");
        }
        assert_eq!(wait_ns("10 20 3\n"), Some(20));
        assert_eq!(wait_ns(""), None);
        let io = "rchar: 5\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 7\n";
        assert_eq!((field(io, "read_bytes"), field(io, "write_bytes"), field(io, "none")), (4096, 8192, 0));
        assert_eq!(field("VmRSS:\t     123 kB\n", "VmRSS"), 123);
    }

    #[test]
    fn this_process_is_counted() {
        let mine = Process::read(std::process::id()).unwrap();
        assert!(mine.memory_bytes > 1 << 20, "{mine:?}");
        assert_eq!(Process::read(0), None);
    }

    #[test]
    fn numbers_are_differences_over_time() {
        let mut world = WorldView { switch: Some(Default::default()), ..WorldView::default() };
        world.daemon.pid = 7;
        let at = Instant::now();
        let process = |cpu_ns, read_bytes| Process { cpu_ns, read_bytes, memory_bytes: 4096, ..Process::default() };
        let counts = |at, process| Counts { at, processes: [(7, process)].into(), adapters: BTreeMap::new() };
        let rows = rows(
            &world,
            &counts(at, process(1_000_000_000, 100)),
            &counts(at + Duration::from_secs(2), process(2_000_000_000, 300)),
        );
        assert_eq!((rows.len(), rows[1].name.as_str()), (2, "(daemon)"));
        assert_eq!((rows[1].cpu_percent, rows[1].disk_read_bytes_per_s), (50.0, 100));
        assert_eq!((rows[0].cpu_percent, rows[0].memory_bytes), (0.0, 0), "who is not there takes nothing");
    }

    #[test]
    fn bits() {
        for (bits, text) in [(0, "0 b/s"), (999, "999 b/s"), (1500, "1.5 kb/s"), (9_400_000_000, "9.4 Gb/s")] {
            assert_eq!(human_bits(bits), text);
        }
    }
}
