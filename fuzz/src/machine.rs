//! What engines, packages and images say to the host.

use weft_machine::fuzz;

/// Lines of QEMU's monitor, as they come in pieces.
pub(crate) fn qmp(data: &[u8]) {
    fuzz::qmp(data);
}

/// What QEMU says that a guest's adapters listen to.
pub(crate) fn receive_filter(data: &[u8]) {
    fuzz::rx_filter(data);
}

/// The record of a machine's process.
pub(crate) fn process_record(data: &[u8]) {
    fuzz::record(data);
}

/// What a kernel module says it needs, and whether a program is static.
pub(crate) fn kernel_module(data: &[u8]) {
    fuzz::elf(data);
}

/// The layers of a container's image.
pub(crate) fn image_layers(data: &[u8]) {
    fuzz::layers(data);
}

/// The archive inside a package.
pub(crate) fn package_archive(data: &[u8]) {
    fuzz::tar(data);
}
