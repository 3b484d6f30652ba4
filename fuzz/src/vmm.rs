//! What a guest does to the devices of its machine.

use weft_vmm::{Config, probe_devices, probe_disk};

/// A guest's accesses to registers, configuration and memory are any bytes.
pub(crate) fn devices(data: &[u8]) {
    probe_devices(data);
}

/// A disk's file is any bytes.
pub(crate) fn disk_image(data: &[u8]) {
    probe_disk(data);
}

/// A machine's description is read, or told what is wrong with it.
pub(crate) fn vmm_description(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = Config::parse(text) {
        let again = serde_json::to_string(&config).expect("what was read can be written");
        assert_eq!(Config::parse(&again).expect("and read again"), config);
    }
}
