//! The little that has to be known of ELF files: what a kernel module needs, and whether a program is static
//! (the ELF-64 object file format; a kernel module's `.modinfo` section holds `key=value` texts ended by zeros).

/// The segment that names a program's dynamic loader.
const PT_INTERP: u32 = 3;

/// A 64-bit little-endian ELF file. Its bytes may be hostile: what is not there is `None`.
struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.starts_with(b"\x7fELF\x02\x01").then_some(Self(bytes))
    }

    fn slice(&self, at: u64, length: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(at).ok()?;
        self.0.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    }

    fn number<const N: usize>(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(self.slice(at, N as u64)?);
        Some(u64::from_le_bytes(bytes))
    }

    /// The offsets of the entries of a table, whose own offset, entry size and length stand at these places.
    fn table(&self, offset: u64, size: u64, count: u64) -> Option<impl Iterator<Item = u64> + use<>> {
        let (offset, size, count) = (self.number::<8>(offset)?, self.number::<2>(size)?, self.number::<2>(count)?);
        Some((0..count).map_while(move |index| offset.checked_add(index * size)))
    }

    fn segments(&self) -> Option<impl Iterator<Item = u64> + use<>> {
        self.table(32, 54, 56)
    }

    fn sections(&self) -> Option<impl Iterator<Item = u64> + use<>> {
        self.table(40, 58, 60)
    }

    fn section_bytes(&self, header: u64) -> Option<&'a [u8]> {
        self.slice(self.number::<8>(header.checked_add(24)?)?, self.number::<8>(header.checked_add(32)?)?)
    }

    /// The contents of the section with this name.
    fn section(&self, name: &str) -> Option<&'a [u8]> {
        let names_index = usize::try_from(self.number::<2>(62)?).ok()?;
        let names = self.section_bytes(self.sections()?.nth(names_index)?)?;
        let wanted = |header: &u64| {
            let at = self.number::<4>(*header).and_then(|at| usize::try_from(at).ok());
            at.and_then(|at| names.get(at..)?.split(|byte| *byte == 0).next()) == Some(name.as_bytes())
        };
        self.section_bytes(self.sections()?.find(wanted)?)
    }
}

/// The names of the modules that a module needs; `None` if this is no module.
pub(super) fn module_depends(module: &[u8]) -> Option<Vec<String>> {
    let info = Elf::new(module)?.section(".modinfo")?;
    let depends = info.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="))?;
    let names = std::str::from_utf8(depends).ok()?.split(',');
    Some(names.filter(|name| !name.is_empty()).map(module_name).collect())
}

/// A module's name as the kernel knows it: there is no difference between `-` and `_`.
pub(super) fn module_name(text: &str) -> String {
    text.replace('-', "_")
}

/// Whether a program runs without any library.
pub(super) fn is_static(program: &[u8]) -> bool {
    Elf::new(program).is_some_and(|elf| {
        elf.segments().is_some_and(|mut all| all.all(|header| elf.number::<4>(header) != Some(u64::from(PT_INTERP))))
    })
}

/// Asks a hostile file everything.
pub fn fuzz(bytes: &[u8]) {
    let _ = (module_depends(bytes), is_static(bytes));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A module with nothing in it but what it needs.
    pub(in crate::image) fn module(depends: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.names\0";
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        let names_at = bytes.len() as u64;
        bytes.extend(names);
        let info_at = bytes.len() as u64;
        bytes.extend(info.as_bytes());
        let table_at = bytes.len() as u64;
        let sections = [(0_u32, 0_u64, 0_u64), (1, info_at, info.len() as u64), (10, names_at, names.len() as u64)];
        for (name, at, length) in sections {
            let start = bytes.len();
            bytes.extend(name.to_le_bytes());
            bytes.resize(start + 24, 0);
            bytes.extend(at.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.resize(start + 64, 0);
        }
        bytes[40..48].copy_from_slice(&table_at.to_le_bytes());
        for (at, value) in [(58, 64_u16), (60, 3), (62, 2)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn what_a_module_needs() {
        assert_eq!(module_depends(&module("")), Some(vec![]));
        assert_eq!(module_depends(&module("virtio,net-failover")), Some(vec!["virtio".into(), "net_failover".into()]));
        assert_eq!(module_depends(b"\x7fELF\x02\x01"), None);
        assert_eq!(module_depends(b"#!/bin/sh"), None);
    }

    #[test]
    fn a_damaged_module_is_none() {
        let whole = module("virtio");
        for length in 0..whole.len() - 24 {
            assert_eq!(module_depends(&whole[..length]), None, "{length}");
        }
        for at in 0..64 {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            fuzz(&damaged);
        }
    }

    #[test]
    fn programs() {
        assert!(!is_static(b"#!/bin/sh"));
        assert!(is_static(&module("")), "no segments at all");
        let me = std::fs::read("/proc/self/exe").unwrap();
        assert!(!is_static(&me), "a Rust test is linked with libc");
    }
}
