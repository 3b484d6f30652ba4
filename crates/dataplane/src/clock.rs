use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use weft_types::Instant;

/// The time since the host booted, suspension included: leases end while a laptop sleeps, too.
pub(crate) fn now() -> Instant {
    Instant::from_nanos(u64::try_from(since_boot().as_nanos()).unwrap_or(u64::MAX))
}

/// The Unix time at which [`now`] was zero.
pub(crate) fn unix_origin() -> Duration {
    duration(clock_gettime(ClockId::Realtime)).saturating_sub(since_boot())
}

fn since_boot() -> Duration {
    duration(clock_gettime(ClockId::Boottime))
}

fn duration(time: Timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
