//! Devices that every machine has and that are no PCI functions: power, panic, keyboard controller, serial port.

mod power;
mod serial;

pub use power::{Ending, Endings, PanicPort, PowerButton, PowerPort, ResetPort};
pub use serial::SerialPort;
