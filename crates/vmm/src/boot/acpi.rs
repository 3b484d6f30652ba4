//! ACPI tables (ACPI 6.4) of a machine of the hardware-reduced model: no fixed registers, no management interrupt.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Device, EISAName, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method, Name, Notify, ONE, OpRegion,
    OpRegionSpace, Package, Path, ResourceTemplate, Store, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as GasSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::devices::PowerPort;
use crate::layout::{
    ACPI_TABLES, ECAM, ECAM_BYTES, EVENT_GSI, IO_APIC, LOCAL_APIC, PANIC_PORT, PCI_CONFIG_PORT, PCI_WINDOW,
    PCI_WINDOW_BYTES, POWER_PORT, SERIAL_GSI, SERIAL_PORT,
};

const OEM: [u8; 6] = *b"WEFT  ";
const TABLE: [u8; 8] = *b"WEFTVMM ";
const REVISION: u32 = 1;

/// There is no VGA, and no clock but the paravirtual one (FADT, "IA-PC Boot Architecture Flags").
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// All tables, as they are in memory from [`ACPI_TABLES`] on: first the pointer by which the others are found.
pub(super) fn tables(cpus: u8) -> Vec<u8> {
    let mut bytes = vec![0; Rsdp::len().next_multiple_of(16)];
    let dsdt = append(&mut bytes, &dsdt());
    let fadt = append(&mut bytes, &fadt(dsdt));
    let madt = append(&mut bytes, &madt(cpus));
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(ECAM, 0, 0, 0);
    let mcfg = append(&mut bytes, &mcfg);
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    [fadt, madt, mcfg].into_iter().for_each(|table| xsdt.add_entry(table));
    let xsdt = append(&mut bytes, &xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    bytes
}

/// Appends a table, aligned, and says where in memory it is.
fn append(bytes: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let at = ACPI_TABLES + bytes.len() as u64;
    table.to_aml_bytes(bytes);
    at
}

fn fadt(dsdt: u64) -> impl Aml {
    let port = |offset: u16| GAS::new(GasSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(POWER_PORT + offset));
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    fadt.reset_reg = port(PowerPort::RESET);
    fadt.reset_value = PowerPort::RESET_VALUE;
    fadt.sleep_control_reg = port(0);
    fadt.sleep_status_reg = port(1);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(TABLE).into();
    fadt.finalize()
}

fn madt(cpus: u8) -> impl Aml {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(LOCAL_APIC as u32));
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC as u32, 0));
    madt
}

/// The machine's devices that announce themselves in no other way.
fn dsdt() -> impl Aml {
    let mut sdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    let mut aml = Vec::new();
    Name::new("_S5_".into(), &Package::new(vec![&PowerPort::SLEEP_TYPE_OFF, &ZERO, &ZERO, &ZERO]))
        .to_aml_bytes(&mut aml);
    pci(&mut aml);
    serial(&mut aml);
    panic_port(&mut aml);
    power_button(&mut aml);
    sdt.append_slice(&aml);
    sdt
}

fn pci(aml: &mut Vec<u8>) {
    let window_end = (PCI_WINDOW + PCI_WINDOW_BYTES - 1) as u32;
    Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0_u16, 0_u16),
                    &IO::new(PCI_CONFIG_PORT, PCI_CONFIG_PORT, 1, 8),
                    &AddressSpace::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        PCI_WINDOW as u32,
                        window_end,
                        None,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
    // The configuration's place is nobody else's (PCI Firmware 3.2, section 4.1.2).
    Device::new(
        "_SB_.MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(true, ECAM as u32, ECAM_BYTES as u32)]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn serial(aml: &mut Vec<u8>) {
    Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(SERIAL_PORT, SERIAL_PORT, 1, 8),
                    &Interrupt::new(true, true, false, false, SERIAL_GSI),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn panic_port(aml: &mut Vec<u8>) {
    Device::new(
        "_SB_.PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&IO::new(PANIC_PORT, PANIC_PORT, 1, 1)])),
        ],
    )
    .to_aml_bytes(aml);
}

/// The power button, and the device that says that it was pressed (ACPI 6.4, section 5.6.9).
fn power_button(aml: &mut Vec<u8>) {
    Device::new(
        "_SB_.PWRB".into(),
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C")), &Name::new("_UID".into(), &ZERO)],
    )
    .to_aml_bytes(aml);
    let events = POWER_PORT + PowerPort::EVENTS;
    Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Interrupt::new(true, true, false, false, EVENT_GSI)]),
            ),
            &OpRegion::new("EVTS".into(), OpRegionSpace::SystemIO, &events, &ONE),
            &Field::new(
                "EVTS".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVNT", 8)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    &Store::new(&Local(0), &Path::new("EVNT")),
                    &And::new(&Local(1), &Local(0), &PowerPort::BUTTON_PRESSED),
                    &If::new(
                        &Equal::new(&Local(1), &PowerPort::BUTTON_PRESSED),
                        vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &0x80_u8)],
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table at an address, whole and with a right checksum.
    fn table(bytes: &[u8], at: u64) -> &[u8] {
        let table = &bytes[(at - ACPI_TABLES) as usize..];
        let len = u32::from_le_bytes([table[4], table[5], table[6], table[7]]) as usize;
        let sum = table[..len].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0, "checksum of {:?}", std::str::from_utf8(&table[..4]));
        &table[..len]
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"))
    }

    #[test]
    fn every_table_is_found_from_the_first() {
        let bytes = tables(3);
        assert!(ACPI_TABLES + bytes.len() as u64 <= 0x10_0000, "they fit where firmware would have them");
        assert_eq!(&bytes[..8], b"RSD PTR ");
        let xsdt = table(&bytes, u64_at(&bytes, 24));
        let names: Vec<_> = xsdt[36..]
            .chunks(8)
            .map(|entry| table(&bytes, u64_at(entry, 0)))
            .map(|table| String::from_utf8_lossy(&table[..4]).into_owned())
            .collect();
        assert_eq!(names, ["FACP", "APIC", "MCFG"]);
        let fadt = table(&bytes, u64_at(xsdt, 36));
        assert_eq!(&table(&bytes, u64_at(fadt, 140))[..4], b"DSDT");
        let madt = table(&bytes, u64_at(xsdt, 44));
        assert_eq!(madt.len(), 44 + 3 * 8 + 12);
    }
}
