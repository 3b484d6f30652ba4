//! How a machine ends: it powers off, it is reset, or its kernel panics.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{BusDevice, Shared, lock};
use crate::event::counter;

/// Why a machine does not run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The guest powered off.
    PowerOff,
    /// The guest wants to begin anew.
    Reset,
    /// A processor got lost: a triple fault.
    TripleFault,
    /// The guest's kernel said that it panicked. What it does then is up to it: halt or reset.
    Panicked,
    /// A processor cannot go on; what KVM said is in the log.
    Broken,
    /// Whoever started the machine wants it to end.
    Quit,
}

impl Ending {
    /// What the process exits with, so that whoever started it knows.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::PowerOff | Self::Quit => 0,
            Self::Broken => 1,
            Self::Reset => 3,
            Self::TripleFault | Self::Panicked => 4,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "the guest powered off",
            Self::Reset => "the guest reset the machine",
            Self::TripleFault => "a processor got lost: a triple fault",
            Self::Panicked => "the guest's kernel panicked",
            Self::Broken => "a processor cannot go on",
            Self::Quit => "it was told to end",
        })
    }
}

/// Where endings are reported; the first one counts.
pub struct Endings {
    first: Mutex<Option<Ending>>,
    event: EventFd,
}

impl Endings {
    /// Nothing has ended.
    ///
    /// # Errors
    /// When the system has no event counters left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { first: Mutex::default(), event: counter()? })
    }

    /// Says that the machine ended.
    pub fn report(&self, ending: Ending) {
        lock(&self.first).get_or_insert(ending);
        // A counter that cannot count further is ready already.
        let _ = self.event.write(1);
    }

    /// How the machine ended, if it did.
    pub fn first(&self) -> Option<Ending> {
        *lock(&self.first)
    }

    /// Ready as soon as there is an ending.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

/// The power button: a request that the guest reads after an interrupt.
pub struct PowerButton {
    pressed: bool,
    interrupt: EventFd,
}

impl PowerButton {
    /// A button that was not pressed, and the line that tells the guest when it is.
    pub fn new(interrupt: EventFd) -> Self {
        Self { pressed: false, interrupt }
    }

    /// Asks the guest to power off.
    ///
    /// # Errors
    /// When the interrupt cannot be raised.
    pub fn press(&mut self) -> io::Result<()> {
        self.pressed = true;
        self.interrupt.write(1)
    }
}

/// The registers of ACPI's hardware-reduced power model (ACPI 6.4, section 4.8.3.7), each a byte: to sleep, to
/// see whether one woke, to reset, and to see which event came (reading takes it).
pub struct PowerPort {
    endings: Arc<Endings>,
    button: Shared<PowerButton>,
}

impl PowerPort {
    /// How many ports there are.
    pub const PORTS: u64 = 4;
    /// The port that resets, from the first.
    pub const RESET: u16 = 2;
    /// The port that tells events, from the first.
    pub const EVENTS: u16 = 3;
    /// What is written to reset.
    pub const RESET_VALUE: u8 = 1;
    /// The kind of sleep that is none: power off (S5).
    pub const SLEEP_TYPE_OFF: u8 = 5;
    /// The event that the power button was pressed.
    pub const BUTTON_PRESSED: u8 = 1;

    const SLEEP_ENABLE: u8 = 1 << 5;

    /// Reports to `endings`, and tells about `button`.
    pub fn new(endings: Arc<Endings>, button: Shared<PowerButton>) -> Self {
        Self { endings, button }
    }
}

impl BusDevice for PowerPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let ([byte], true) = (data, offset == u64::from(Self::EVENTS)) {
            *byte = u8::from(std::mem::take(&mut lock(&self.button).pressed)) * Self::BUTTON_PRESSED;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, [value]) if *value == Self::SLEEP_ENABLE | Self::SLEEP_TYPE_OFF << 2 => {
                self.endings.report(Ending::PowerOff);
            }
            (2, &[Self::RESET_VALUE]) => self.endings.report(Ending::Reset),
            _ => {}
        }
    }
}

/// The keyboard controller, as far as old kernels reset by it.
pub struct ResetPort(pub Arc<Endings>);

impl BusDevice for ResetPort {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0); // neither busy nor anything typed
    }

    fn write(&mut self, _: u64, data: &[u8]) {
        if data == [0xfe] {
            self.0.report(Ending::Reset);
        }
    }
}

/// The port where a kernel says that it panicked (QEMU, docs/specs/pvpanic).
pub struct PanicPort(pub Arc<Endings>);

impl PanicPort {
    const PANICKED: u8 = 1;
}

impl BusDevice for PanicPort {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0);
        if let [byte, ..] = data {
            *byte = Self::PANICKED;
        }
    }

    fn write(&mut self, _: u64, data: &[u8]) {
        if data.first().is_some_and(|byte| byte & Self::PANICKED != 0) {
            self.0.report(Ending::Panicked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power() -> (Arc<Endings>, Shared<PowerButton>, PowerPort) {
        let endings = Arc::new(Endings::new().expect("an event counter"));
        let line = counter().expect("an event counter");
        let button = Arc::new(Mutex::new(PowerButton::new(line)));
        (endings.clone(), button.clone(), PowerPort::new(endings, button))
    }

    #[test]
    fn only_the_right_words_end_a_machine() {
        let check = |offset, data: &[u8], expected| {
            let (endings, _, mut port) = power();
            port.write(offset, data);
            assert_eq!(endings.first(), expected, "{offset} {data:?}");
        };
        check(0, &[0x34], Some(Ending::PowerOff));
        check(0, &[0x14], None);
        check(0, &[0x30], None);
        check(0, &[0x34, 0], None);
        check(2, &[1], Some(Ending::Reset));
        check(2, &[2], None);
        check(3, &[1], None);
    }

    #[test]
    fn a_pressed_button_is_told_once() {
        let (_, button, mut port) = power();
        let mut read = || {
            let mut data = [0xff];
            port.read(3, &mut data);
            data[0]
        };
        assert_eq!(read(), 0);
        lock(&button).press().expect("an interrupt");
        assert_eq!((read(), read()), (PowerPort::BUTTON_PRESSED, 0));
    }

    #[test]
    fn the_first_ending_counts() {
        let endings = Endings::new().expect("an event counter");
        endings.report(Ending::Panicked);
        endings.report(Ending::Reset);
        assert_eq!(endings.first(), Some(Ending::Panicked));
    }
}
