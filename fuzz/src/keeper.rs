//! What a User-Mode Linux guest says to its keeper.

/// Messages of vhost-user are any bytes.
pub(crate) fn keeper_message(data: &[u8]) {
    weft_keeper::fuzz_message(data);
}
