//! What is set for each thread of a process by itself: niceness, and the processors that it runs on. New threads have what
//! the one has that starts them.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::{CpuSet as Mask, sched_setaffinity};
use weft_types::CpuSet;

/// The weight that goes with the usual niceness.
const USUAL_WEIGHT: f64 = 100.0;
/// By how much a thread's part is larger than that of one which is nicer by one (sched(7)).
const STEP: f64 = 1.25;

/// Gives a process the niceness that goes with a weight; what could not be done.
pub(super) fn set_niceness(pid: u32, weight: u16) -> Option<String> {
    // Beside ours, which it has from us.
    let usual = getpriority_process(None).unwrap_or(0);
    let nice = (usual + niceness(weight)).clamp(-20, 19);
    let set = |thread: Pid| match getpriority_process(Some(thread)) {
        Ok(now) if now == nice => Ok(()),
        _ => setpriority_process(Some(thread), nice),
    };
    let error = each_thread(pid, set).err()?;
    Some(format!("cpu_weight cannot be kept by niceness {nice} either: {error}"))
}

/// The niceness that has others run as much more, or less, as a weight says.
fn niceness(weight: u16) -> i32 {
    let steps = (f64::from(weight) / USUAL_WEIGHT).ln() / STEP.ln();
    (-steps.round() as i32).clamp(-20, 19)
}

/// Has a process run on these processors only, or on any; what could not be done.
pub(super) fn pin(pid: u32, cpus: Option<&CpuSet>) -> Option<String> {
    let mut mask = Mask::new();
    match cpus {
        Some(cpus) => cpus.iter().map(usize::from).filter(|cpu| *cpu < Mask::MAX_CPU).for_each(|cpu| mask.set(cpu)),
        None => (0..Mask::MAX_CPU).for_each(|cpu| mask.set(cpu)),
    }
    let error = each_thread(pid, |thread| sched_setaffinity(Some(thread), &mask)).err()?;
    let cpus = cpus?;
    Some(match error.kind() {
        io::ErrorKind::InvalidInput => format!("cpu_pin cannot be kept: this host has no processor {cpus} for it"),
        _ => format!("cpu_pin cannot be kept: {error}"),
    })
}

/// Does something to every thread of a process, also to those that are started meanwhile.
fn each_thread(pid: u32, mut act: impl FnMut(Pid) -> rustix::io::Result<()>) -> io::Result<()> {
    let mut done = BTreeSet::new();
    loop {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let ids: BTreeSet<i32> = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let new: Vec<i32> = ids.difference(&done).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        for id in new {
            match Pid::from_raw(id).map_or(Ok(()), &mut act) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => drop(done.insert(id)), // or it has ended
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::thread::sched_getaffinity;

    use super::*;

    #[test]
    fn weights_are_steps_of_niceness() {
        for (weight, nice) in [(100, 0), (125, -1), (80, 1), (300, -5), (33, 5), (1, 19), (10_000, -20)] {
            assert_eq!(niceness(weight), nice, "{weight}");
        }
    }

    #[test]
    fn threads_are_made_nicer_and_pinned() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(sleeper.id() as i32).unwrap();
        let usual = getpriority_process(Some(pid)).unwrap();
        let first = sched_getaffinity(Some(pid)).unwrap();
        let cpu = (0..Mask::MAX_CPU).find(|cpu| first.is_set(*cpu)).unwrap();
        assert_eq!(set_niceness(sleeper.id(), 33), None);
        assert_eq!(getpriority_process(Some(pid)).unwrap(), (usual + 5).min(19));
        assert_eq!(pin(sleeper.id(), Some(&cpu.to_string().parse().unwrap())), None);
        assert_eq!(sched_getaffinity(Some(pid)).unwrap().count(), 1);
        assert_eq!(pin(sleeper.id(), None), None);
        assert_eq!(sched_getaffinity(Some(pid)).unwrap().count(), first.count());
        let nowhere = pin(sleeper.id(), Some(&"1023".parse().unwrap())).unwrap();
        assert!(nowhere.contains("no processor 1023"), "{nowhere}");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(set_niceness(u32::MAX, 33).is_some());
    }
}
