//! What each thread may ask of the system: a list for each role, and nothing else. A thread that asks for
//! something else takes the process with it: it is the guest that speaks then.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::virtio::DeviceKind;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs a processor.
    Vcpu,
    /// Serves a disk.
    Block,
    /// Speaks with the virtual switch.
    Net,
    /// Serves a console or randomness.
    Plain,
    /// Gathers the guest's memory into large pages.
    Memory,
    /// Starts machines, and listens to whoever controls them.
    Main,
}

/// What every thread needs: memory, locks, descriptors that it has, and to end.
const COMMON: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
];

impl Role {
    /// The role of a device's thread.
    pub(crate) fn of_device(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Block => Self::Block,
            DeviceKind::Net => Self::Net,
            DeviceKind::Console | DeviceKind::Rng => Self::Plain,
        }
    }

    /// What this role needs beyond what every one does.
    fn calls(self) -> &'static [libc::c_long] {
        match self {
            // KVM_RUN, routes and doorbells; a guest that starts or resets its adapter has the switch told.
            Self::Vcpu => &[libc::SYS_ioctl, libc::SYS_eventfd2, libc::SYS_sendmsg, libc::SYS_recvmsg],
            // The last of them for images that grow: fsync(2) after their size changed, and looks at it.
            Self::Block => &[
                libc::SYS_preadv,
                libc::SYS_pwritev,
                libc::SYS_fdatasync,
                libc::SYS_fallocate,
                libc::SYS_pread64,
                libc::SYS_pwrite64,
                libc::SYS_fsync,
                libc::SYS_ftruncate,
                libc::SYS_lseek,
                libc::SYS_fstat,
                libc::SYS_statx,
            ],
            Self::Net => &[
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_setsockopt,
                libc::SYS_sendmsg,
                libc::SYS_recvmsg,
                libc::SYS_ioctl,
            ],
            Self::Plain => {
                &[libc::SYS_accept4, libc::SYS_ioctl, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_writev]
            }
            Self::Memory => &[libc::SYS_mincore, libc::SYS_fstat, libc::SYS_statx],
            Self::Main => &[
                libc::SYS_fstat,
                libc::SYS_newfstatat,
                libc::SYS_statx,
                libc::SYS_lseek,
                libc::SYS_epoll_create1,
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_prctl,
                libc::SYS_seccomp,
                libc::SYS_rt_sigaction,
            ],
        }
    }

    /// All calls that this role may make. What the main thread may not do, no thread that it starts may: its list
    /// holds all others.
    fn all_calls(self) -> impl Iterator<Item = libc::c_long> {
        let roles = match self {
            Self::Main => &[Self::Main, Self::Vcpu, Self::Block, Self::Net, Self::Plain, Self::Memory][..],
            Self::Vcpu => &[Self::Vcpu],
            Self::Block => &[Self::Block],
            Self::Net => &[Self::Net],
            Self::Plain => &[Self::Plain],
            Self::Memory => &[Self::Memory],
        };
        COMMON.iter().chain(roles.iter().flat_map(|role| role.calls())).copied()
    }

    fn filter(self) -> Result<BpfProgram, seccompiler::Error> {
        let rules: BTreeMap<_, _> = self.all_calls().map(|call| (call, Vec::new())).collect();
        let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
        Ok(filter.try_into()?)
    }
}

/// Lets the calling thread do only what its role needs, for good.
///
/// # Panics
/// When the system refuses: a thread that should be jailed does not run free.
pub(crate) fn enter(role: Role, jailed: bool) {
    if !jailed {
        return;
    }
    if let Err(error) = role.filter().and_then(|filter| seccompiler::apply_filter(&filter)) {
        panic!("cannot jail a thread: {error}");
    }
}

/// Takes every capability from the process, and what could give one back.
///
/// # Errors
/// When the system refuses.
pub(crate) fn drop_capabilities() -> std::io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_filter() {
        for role in [Role::Vcpu, Role::Block, Role::Net, Role::Plain, Role::Memory, Role::Main] {
            assert!(role.filter().is_ok_and(|filter| !filter.is_empty()), "{role:?}");
        }
    }
}
