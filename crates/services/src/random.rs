use std::fmt;

use sha2::{Digest, Sha256};

/// Numbers that nobody can guess who does not know the seed: SHA-256 over seed, purpose and a counter.
#[derive(Clone)]
pub(crate) struct Random {
    state: Sha256,
    counter: u64,
}

impl Random {
    /// Every `purpose` has its own numbers.
    pub(crate) fn new(seed: &[u8; 32], purpose: &str) -> Self {
        Self { state: Sha256::new_with_prefix(seed).chain_update(purpose), counter: 0 }
    }

    /// Sixteen bits.
    pub(crate) fn word(&mut self) -> u16 {
        let digest = self.state.clone().chain_update(self.counter.to_be_bytes()).finalize();
        self.counter += 1;
        u16::from_be_bytes([digest[0], digest[1]])
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Random").finish_non_exhaustive() // the seed is a secret
    }
}
