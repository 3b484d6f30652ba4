//! The first serial port: a 16550A on a terminal.

use std::io;

use serde_json::{Value, json};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{BusDevice, Shared, lock};
use crate::terminal::Terminal;

/// A 16550A; what the guest writes goes to its terminal, and what comes from there is fed in as fast as the
/// guest reads.
pub struct SerialPort {
    uart: Serial<Line, NoEvents, Output>,
    terminal: Shared<Terminal>,
}

/// An interrupt line, by an event counter that KVM listens to.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

struct Output(Shared<Terminal>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).output(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SerialPort {
    /// How many ports there are.
    pub const PORTS: u64 = 8;

    /// A port whose interrupt is `line`.
    pub fn new(line: EventFd, terminal: Shared<Terminal>) -> Self {
        Self { uart: Serial::new(Line(line), Output(terminal.clone())), terminal }
    }

    /// Feeds in what was typed, as much as there is room for.
    pub fn feed(&mut self) {
        let mut terminal = lock(&self.terminal);
        let room = self.uart.fifo_capacity();
        let input = terminal.input(room);
        if !input.is_empty() {
            // There is room, and an interrupt that cannot be raised is pending already.
            let _ = self.uart.enqueue_raw_bytes(&input);
        }
    }

    /// What its registers hold.
    pub fn state(&self) -> Value {
        let state = self.uart.state();
        json!({
            "baud-divisor": u16::from_le_bytes([state.baud_divisor_low, state.baud_divisor_high]),
            "interrupt-enable": state.interrupt_enable,
            "interrupt-identification": state.interrupt_identification,
            "line-control": state.line_control,
            "line-status": state.line_status,
            "modem-control": state.modem_control,
            "modem-status": state.modem_status,
            "scratch": state.scratch,
            "received": state.in_buffer,
        })
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let [byte] = data {
            *byte = self.uart.read(offset as u8);
            self.feed();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            // What cannot be written is lost, as on a cable without a terminal.
            let _ = self.uart.write(offset as u8, *byte);
        }
    }
}
