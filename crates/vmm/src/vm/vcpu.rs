//! Processors: a thread for each, which runs the guest and answers what it asks of devices.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable as _, SIGRTMIN, register_signal_handler};

use crate::bus::{Bus, lock};
use crate::devices::{Ending, Endings};

/// What a processor's thread is to do.
const PARK: u8 = 0;
const RUN: u8 = 1;
const END: u8 = 2;

/// How long a thread that was interrupted may take to say so, until it is interrupted again.
const PATIENCE: Duration = Duration::from_millis(2);

/// KVM's kinds of system events.
const SYSTEM_SHUTDOWN: u32 = 1;
const SYSTEM_RESET: u32 = 2;

/// All that processors reach.
pub(super) struct Buses {
    pub(super) ports: Bus,
    pub(super) memory: Bus,
}

/// A processor.
pub(super) struct Vcpu {
    thread: Option<JoinHandle<()>>,
    control: Arc<Control>,
    fd: Arc<Mutex<VcpuFd>>,
}

struct Control {
    goal: AtomicU8,
    parked: Mutex<bool>,
    changed: Condvar,
}

/// Has an interrupting signal do nothing but interrupt.
///
/// # Errors
/// When the system refuses.
pub(super) fn prepare_signals() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    Ok(register_signal_handler(SIGRTMIN(), nothing)?)
}

impl Vcpu {
    /// Starts a processor's thread, parked; `prepare` runs first in it, and jails it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn start(
        id: u8,
        fd: VcpuFd,
        buses: Arc<Buses>,
        endings: Arc<Endings>,
        prepare: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let control =
            Arc::new(Control { goal: AtomicU8::new(PARK), parked: Mutex::new(false), changed: Condvar::new() });
        let fd = Arc::new(Mutex::new(fd));
        let job = Job { fd: fd.clone(), buses, endings, control: control.clone() };
        let thread = std::thread::Builder::new().name(format!("vcpu{id}")).stack_size(256 << 10).spawn(move || {
            prepare();
            job.run();
        })?;
        Ok(Self { thread: Some(thread), control, fd })
    }

    /// Lets the processor run.
    pub(super) fn resume(&self) {
        self.control.aim(RUN);
    }

    /// Asks the processor to stop; [`Vcpu::wait`] waits until it did.
    pub(super) fn park(&self) {
        self.control.aim(PARK);
        self.interrupt();
    }

    /// Waits until the processor stands still.
    pub(super) fn wait(&self) {
        let mut parked = lock(&self.control.parked);
        while !*parked {
            // A signal that came just before the thread entered the guest was in vain.
            self.interrupt();
            parked = match self.control.changed.wait_timeout(parked, PATIENCE) {
                Ok((parked, _)) => parked,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// The processor, while it stands still.
    pub(super) fn fd(&self) -> std::sync::MutexGuard<'_, VcpuFd> {
        lock(&self.fd)
    }

    fn interrupt(&self) {
        if let Some(thread) = &self.thread {
            // It fails only for a thread that has ended.
            let _ = thread.kill(SIGRTMIN());
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.park();
        self.wait();
        self.control.aim(END);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Control {
    fn aim(&self, goal: u8) {
        let mut parked = lock(&self.parked);
        self.goal.store(goal, Ordering::Release);
        if goal == RUN {
            *parked = false;
        }
        self.changed.notify_all();
    }

    /// Stands still as long as that is the aim; whether to run then.
    fn stand(&self) -> bool {
        let mut parked = lock(&self.parked);
        loop {
            match self.goal.load(Ordering::Acquire) {
                RUN => return true,
                END => return false,
                _ => {}
            }
            *parked = true;
            self.changed.notify_all();
            parked = self.changed.wait(parked).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn runs(&self) -> bool {
        self.goal.load(Ordering::Acquire) == RUN
    }
}

struct Job {
    fd: Arc<Mutex<VcpuFd>>,
    buses: Arc<Buses>,
    endings: Arc<Endings>,
    control: Arc<Control>,
}

impl Job {
    fn run(self) {
        while self.control.stand() {
            let mut fd = lock(&self.fd);
            while self.control.runs() {
                if let Some(ending) = self.step(&mut fd) {
                    self.endings.report(ending);
                    self.control.goal.store(PARK, Ordering::Release);
                }
            }
            // What a device was asked last is finished by entering the guest, and leaving before it runs.
            fd.set_kvm_immediate_exit(1);
            let _ = fd.run();
            fd.set_kvm_immediate_exit(0);
        }
    }

    /// Runs the guest until it needs something, and does that; how the machine ended, if it cannot go on.
    fn step(&self, fd: &mut VcpuFd) -> Option<Ending> {
        match fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => self.buses.ports.read(port.into(), data),
            Ok(VcpuExit::IoOut(port, data)) => self.buses.ports.write(port.into(), data),
            Ok(VcpuExit::MmioRead(at, data)) => self.buses.memory.read(at, data),
            Ok(VcpuExit::MmioWrite(at, data)) => self.buses.memory.write(at, data),
            Ok(VcpuExit::Intr | VcpuExit::Hlt) => {}
            Ok(VcpuExit::Shutdown) => return Some(Ending::TripleFault),
            Ok(VcpuExit::SystemEvent(SYSTEM_SHUTDOWN, _)) => return Some(Ending::PowerOff),
            Ok(VcpuExit::SystemEvent(SYSTEM_RESET, _)) => return Some(Ending::Reset),
            Ok(exit) => {
                eprintln!("a processor cannot go on: {exit:?}");
                return Some(Ending::Broken);
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => {
                eprintln!("a processor cannot go on: {error}");
                return Some(Ending::Broken);
            }
        }
        None
    }
}
