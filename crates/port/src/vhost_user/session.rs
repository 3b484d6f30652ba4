//! The conversation with a VMM (QEMU, docs/interop/vhost-user), on a thread of its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{SocketFlags, accept_with};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};

use super::features::Features;
use super::handover::{Command, Handover};
use super::regions::{RegionInfo, Regions};
use super::ring::{RingError, RingLayout};
use super::{QUEUES, RX_QUEUE, TX_QUEUE};

/// Memory regions that a VMM may announce one by one.
const MAX_REGIONS: usize = 32;

/// Serves one VMM after the other until the port is closed.
pub(crate) fn serve(listener: &OwnedFd, handover: Handover) {
    let handover = Arc::new(handover);
    while let Some(stream) = next_peer(listener, &handover.shared.stop) {
        let Ok(handle) = stream.try_clone() else { continue };
        handover.shared.set_peer(Some(handle));
        // A panic would be a bug of ours, or of a library; not even that may cost more than the connection.
        let error = catch_unwind(AssertUnwindSafe(|| converse(stream, handover.clone())));
        handover.shared.set_peer(None);
        let reason = match error {
            Ok(Error::Disconnected) => "the VMM hung up".to_owned(),
            Ok(Error::SocketBroken(_) | Error::SocketError(_)) => "the connection to the VMM broke".to_owned(),
            Ok(Error::ReqHandlerError(error)) => error.to_string(),
            Ok(error) => format!("the VMM broke the protocol: {error}"),
            Err(_) => "serving the VMM failed for a reason of our own".to_owned(),
        };
        tracing::debug!(target: "weft::port", reason, "VMM disconnected");
        if handover.ask(Command::Detach { reason }).is_err() {
            return;
        }
    }
}

/// Waits for a VMM; `None` when the port is closed.
fn next_peer(listener: &OwnedFd, stop: &OwnedFd) -> Option<UnixStream> {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) if !fds[1].revents().is_empty() => return None,
            Ok(_) => {}
        }
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(stream) => return Some(stream.into()),
            // Out of descriptors, most likely: the peer stays in the backlog.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
}

fn converse(stream: UnixStream, handover: Arc<Handover>) -> Error {
    let session = Session {
        handover: handover.clone(),
        features: Features::default(),
        regions: Regions::default(),
        rings: Default::default(),
    };
    let mut requests = BackendReqHandler::from_stream(stream, Arc::new(Mutex::new(session)));
    loop {
        match requests.handle_request() {
            Ok(()) | Err(Error::SocketRetry(_)) => {}
            // QEMU enables an adapter's rings when its guest attaches them, which is before it has said which features it
            // takes; it never disables the rings of an adapter with one pair of queues. The library has swallowed which
            // ring it was: both are, and they do nothing before they start.
            Err(Error::InactiveFeature(VhostUserVirtioFeatures::PROTOCOL_FEATURES)) => {
                for index in 0..QUEUES {
                    if let Err(error) = handover.ask(Command::Enable { index, enabled: true }) {
                        return Error::ReqHandlerError(error);
                    }
                }
            }
            Err(error) => return error,
        }
    }
}

/// What one VMM has said so far.
struct Session {
    handover: Arc<Handover>,
    features: Features,
    regions: Regions,
    rings: [RingSetup; QUEUES],
}

#[derive(Default)]
struct RingSetup {
    size: u16,
    base: u16,
    /// Where the VMM sees descriptors, available and used ring.
    addresses: Option<[u64; 3]>,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    started: bool,
}

impl Session {
    fn ask(&self, command: Command) -> Result<u16> {
        self.handover.ask(command).map_err(Error::ReqHandlerError)
    }

    fn ring(&mut self, index: u32) -> Result<&mut RingSetup> {
        self.rings.get_mut(index as usize).ok_or(Error::InvalidParam)
    }

    /// The same, for what may be said about a ring that stands still only.
    fn idle_ring(&mut self, index: u32) -> Result<&mut RingSetup> {
        let ring = self.ring(index)?;
        if ring.started { Err(Error::InvalidOperation("the ring is running")) } else { Ok(ring) }
    }

    fn start(&mut self, index: usize) -> Result<()> {
        let refused = |error: RingError| Error::ReqHandlerError(io::Error::other(error));
        let ring = &self.rings[index];
        let addresses = ring.addresses.ok_or(Error::InvalidOperation("the ring has no addresses"))?;
        let mut guest = [vm_memory::GuestAddress(0); 3];
        for (guest, vmm) in guest.iter_mut().zip(addresses) {
            *guest = self.regions.guest_address(vmm).ok_or(refused(RingError::RingOutside))?;
        }
        let [descriptors, available, used] = guest;
        let event_idx = self.features.event_idx();
        let layout = RingLayout { size: ring.size, descriptors, available, used, base: ring.base, event_idx };
        let duplicate = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let kick = duplicate(&ring.kick).map_err(Error::ReqHandlerError)?;
        let call = duplicate(&ring.call).map_err(Error::ReqHandlerError)?;
        self.ask(Command::Start { index, layout, kick, call })?;
        self.rings[index].started = true;
        if !self.features.protocol_features() {
            self.ask(Command::Enable { index, enabled: true })?;
        }
        Ok(())
    }

    fn stop(&mut self, index: usize) -> Result<u16> {
        let ring = &mut self.rings[index];
        if std::mem::take(&mut ring.started) {
            ring.kick = None;
            let base = self.ask(Command::Stop { index })?;
            self.rings[index].base = base;
        }
        Ok(self.rings[index].base)
    }

    fn stop_all(&mut self) -> Result<()> {
        self.stop(RX_QUEUE)?;
        self.stop(TX_QUEUE)?;
        Ok(())
    }

    fn add_region(regions: &mut Regions, region: &VhostUserMemoryRegion, file: File) -> Result<()> {
        let info = RegionInfo {
            guest_addr: region.guest_phys_addr,
            len: region.memory_size,
            vmm_addr: region.user_addr,
            file_offset: region.mmap_offset,
        };
        if regions.count() == MAX_REGIONS {
            return Err(Error::InvalidOperation("too many memory regions"));
        }
        regions.add(info, file).map_err(|error| Error::ReqHandlerError(error.into()))
    }
}

/// Makes sure that a descriptor from a VMM is an event counter: anything else could make the worker wait when
/// it is polled or written to. QEMU's do not block; that is restored for one that does.
fn event_counter(file: Option<File>) -> Result<Option<OwnedFd>> {
    use std::os::fd::AsRawFd;
    let Some(file) = file else { return Ok(None) };
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let kind = std::fs::read_link(link).map_err(Error::ReqHandlerError)?;
    if kind.as_os_str() != "anon_inode:[eventfd]" {
        return Err(Error::InvalidOperation("a ring's descriptor is no eventfd"));
    }
    let flags = fcntl_getfl(&file).map_err(|error| Error::ReqHandlerError(error.into()))?;
    fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(|error| Error::ReqHandlerError(error.into()))?;
    Ok(Some(file.into()))
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop_all()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(Features::OFFERED.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.features = Features::accepted(features).ok_or(Error::FeatureMismatch)?;
        self.ask(Command::Features(self.features)).map(|_| ())
    }

    fn set_mem_table(
        &mut self,
        infos: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<vhost::VhostUserMemoryRegionBase>>> {
        let mut regions = Regions::default();
        for (info, file) in infos.iter().zip(files) {
            Self::add_region(&mut regions, info, file)?;
        }
        self.ask(Command::Memory(regions.memory()))?;
        self.regions = regions;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_| Error::ReqHandlerError(io::Error::other(RingError::Size(num))))?;
        self.idle_ring(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let addresses = Some([descriptor, available, used]);
        let ring = self.ring(index)?;
        // A VMM may repeat itself, to change flags that mean nothing to us.
        if ring.started && ring.addresses != addresses {
            return Err(Error::InvalidOperation("the ring is running"));
        }
        ring.addresses = addresses;
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.idle_ring(index)?.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.ring(index)?;
        let base = self.stop(index as usize)?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let kick = event_counter(fd)?;
        self.ring(index.into())?;
        self.stop(index.into())?;
        self.rings[usize::from(index)].kick = kick;
        self.start(index.into())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let call = event_counter(fd)?;
        let ring = self.ring(index.into())?;
        ring.call = call;
        if ring.started {
            let call = ring.call.as_ref().map(OwnedFd::try_clone).transpose().map_err(Error::ReqHandlerError)?;
            self.ask(Command::Call { index: index.into(), call })?;
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.ring(index.into()).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let offered = self.get_protocol_features()?.bits();
        if features & !offered == 0 { Ok(()) } else { Err(Error::FeatureMismatch) }
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?;
        self.ask(Command::Enable { index: index as usize, enabled: enable }).map(|_| ())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<vhost::VhostUserMemoryRegionBase>> {
        Self::add_region(&mut self.regions, region, file)?;
        self.ask(Command::Memory(self.regions.memory()))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.regions
            .remove(region.guest_phys_addr, region.memory_size, region.user_addr)
            .map_err(|error| Error::ReqHandlerError(error.into()))?;
        self.ask(Command::Memory(self.regions.memory())).map(|_| ())
    }

    // What follows belongs to features that we do not offer.

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(NOT_OFFERED)
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(NOT_OFFERED)
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(NOT_OFFERED)
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(NOT_OFFERED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(NOT_OFFERED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }
}

const NOT_OFFERED: Error = Error::InvalidOperation("this was not offered");
