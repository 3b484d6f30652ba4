//! What processors say about themselves: what KVM supports, and which of them each is.

use kvm_bindings::CpuId;

const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HYPERTHREADS: u32 = 1 << 28;

/// Changes what KVM supports to what processor `id` of `count` says: one package of cores without threads.
pub(super) fn identify(cpuid: &mut CpuId, id: u8, count: u8, tsc_deadline: bool) {
    let (apic, count) = (u32::from(id), u32::from(count));
    let core_bits = u32::BITS - (count - 1).leading_zeros();
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (0x1, _) => {
                entry.ebx = entry.ebx & 0xffff | count << 16 | apic << 24;
                entry.ecx |= HYPERVISOR | if tsc_deadline { TSC_DEADLINE } else { 0 };
                entry.edx = if count > 1 { entry.edx | HYPERTHREADS } else { entry.edx & !HYPERTHREADS };
            }
            // Intel's caches: threads that share one, and cores in the package.
            (0x4, _) if entry.eax & 0x1f != 0 => {
                let shared = if entry.eax >> 5 & 7 >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | shared << 14 | (count - 1).min(63) << 26;
            }
            // Extended topology: a core has one thread, the package all cores.
            (0xb | 0x1f, level) => {
                let (shift, threads, kind) = match level {
                    0 => (0, 1, 1),
                    1 => (core_bits, count, 2),
                    _ => (0, 0, 0),
                };
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (shift, threads, level | kind << 8, apic);
            }
            // AMD's counts.
            (0x8000_0008, _) => entry.ecx = core_bits << 12 | (count - 1),
            (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (apic, apic, 0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn each_processor_is_another() {
        let leaf = |function, index| kvm_cpuid_entry2 { function, index, ..kvm_cpuid_entry2::default() };
        let leaves = [leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(0x8000_0008, 0)];
        let mut cpuid = CpuId::from_entries(&leaves).expect("few leaves");
        identify(&mut cpuid, 2, 3, true);
        let [first, thread, core, amd] = cpuid.as_slice() else { panic!("four leaves") };
        assert_eq!(first.ebx, 2 << 24 | 3 << 16);
        assert_eq!((thread.eax, thread.ebx, thread.edx), (0, 1, 2));
        assert_eq!((core.eax, core.ebx, core.edx), (2, 3, 2));
        assert_eq!(amd.ecx, 2 << 12 | 2);
    }
}
