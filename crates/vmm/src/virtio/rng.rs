//! Randomness (virtio 1.2, section 5.4).

use rustix::rand::{GetRandomFlags, getrandom};

use super::chain::{scatter, total};
use super::device::{Device, DeviceKind, Service};
use super::queue::QueueError;

/// The most bytes that one request gets; a driver that wants more asks again.
const MAX_BYTES: u64 = 4096;

/// A source of randomness: the host's.
#[derive(Debug, Default)]
pub struct Rng;

impl Device for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn serve(&mut self, queue: usize, service: &mut Service<'_>) -> Result<(), QueueError> {
        let Service { memory, queues } = service;
        for _ in 0..queues[queue].size {
            let Some(chain) = queues[queue].pop(memory)? else { break };
            let mut bytes = vec![0; total(&chain.writable).min(MAX_BYTES) as usize];
            let filled = getrandom(bytes.as_mut_slice(), GetRandomFlags::empty()).unwrap_or(0);
            let written = scatter(memory, &chain.writable, &bytes[..filled]).map_err(|_| QueueError::Request)?;
            queues[queue].push(memory, chain.head, written as u32)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{describe, memory, offer, queue};
    use super::*;
    use vm_memory::{Bytes as _, GuestAddress};

    #[test]
    fn requests_are_filled_up_to_a_limit() {
        let memory = memory();
        describe(&memory, 0x1000, 0, 0x1_0000, 0x8000, 2, 0);
        offer(&memory, &[0]);
        let mut queues = [queue()];
        Rng.serve(0, &mut Service { memory: &memory, queues: &mut queues }).expect("a good driver");
        let mut bytes = [0; 4096];
        memory.read_slice(&mut bytes, GuestAddress(0x1_0000)).expect("memory");
        assert!(bytes.iter().any(|byte| *byte != 0));
        let used: [u32; 2] = memory.read_obj(GuestAddress(0x3004)).expect("memory");
        assert_eq!(used, [0, 4096]);
    }
}
