//! The data plane process: workers that join ports, switch and services.

mod host;

pub use host::HostSockets;
