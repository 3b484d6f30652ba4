//! What a machine may take of its host.

use weft_types::{ByteSize, Shares};

use crate::Problem;
use crate::read::{Notes, Section};
use crate::world::Vm;

/// What an engine may need beside its guest's memory, in bytes.
const ENGINE_BYTES: u64 = 128 << 20;

pub(crate) fn read(notes: &mut Notes, section: &mut Section<'_>) -> Shares {
    let mut weight = |key, usual| section.integer(notes, key, 1..=10_000).map_or(usual, |weight| weight as u16);
    let Shares { cpu_weight, io_weight, .. } = Shares::default();
    let (cpu_weight, io_weight) = (weight("cpu_weight", cpu_weight), weight("io_weight", io_weight));
    Shares {
        cpu_weight,
        cpu_limit: section.parsed(notes, "cpu_limit", "150%"),
        cpu_pin: section.parsed(notes, "cpu_pin", "0,2-3"),
        io_weight,
        memory_limit: section.parsed(notes, "memory_limit", "512MiB"),
    }
}

/// What cannot be about a machine's `memory_limit`: it holds all of the guest's memory, and the engine around it.
pub(crate) fn problem(vm: &Vm) -> Option<Problem> {
    let least = ByteSize::from_bytes(vm.memory.bytes().saturating_add(ENGINE_BYTES));
    let limit = vm.shares.memory_limit.filter(|limit| *limit < least)?;
    let message = format!("{limit} do not hold the machine's {} and its engine", vm.memory);
    Some(Problem::new("out-of-range", message, format!("allow {least} or more, or leave it out")))
}
