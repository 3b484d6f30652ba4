//! The command line that makes QEMU the machine which a [`LaunchSpec`] describes. Pure: no file is looked at.
//!
//! Nothing is left to QEMU's defaults (`-nodefaults`, `-no-user-config`), every device has its place on the PCI bus so
//! that a guest always sees the same machine, and every path is handed over such that no byte of it is taken for syntax.

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Value, json};
use weft_model::{DiskFormat, Display};

use super::super::start::socket_path as fitting;
use super::super::{Accelerator, files};
use super::board::Board;
use super::firmware::Uefi;
use super::{FILTER, PID, QMP, VARIABLES, VNC};
use crate::MachineError;
use crate::disk;
use crate::spec::{Boot, DiskSpec, LaunchNic, LaunchSpec};

/// The PCI slot of the first network adapter; the others follow. The slots below it are for what else machines have; the
/// last slot is the board's own, so there is room for 24.
const FIRST_NIC_SLOT: usize = 7;
/// Descriptors per ring of a network adapter: the most that virtio-net has, so that bursts find room.
const NIC_QUEUE_SIZE: u16 = 1024;

/// What QEMU itself can do and how it shall run the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// How it runs the guest's instructions.
    pub(super) accelerator: Accelerator,
    /// Whether it can give up system calls that it does not need.
    pub(super) sandbox: bool,
    /// Its version's first two numbers.
    pub(super) version: (u32, u32),
}

/// Writes the arguments, the program's name not among them.
///
/// `uefi` is the firmware, for machines that have such.
pub(super) fn argv(
    spec: &LaunchSpec,
    uefi: Option<&Uefi>,
    abilities: Abilities,
) -> Result<Vec<OsString>, MachineError> {
    let mut args = Args::default();
    let run = |file: &str| spec.run_dir.join(file);

    let board = Board::of(spec.arch);
    args.flags(["-nodefaults", "-no-user-config"]);
    args.option("-name", format!("guest={},debug-threads=on", spec.name));
    args.option("-uuid", spec.uuid.to_string());
    let flash = if uefi.is_some() { ",pflash0=firmware,pflash1=variables" } else { "" };
    args.option("-machine", format!("{},memory-backend=ram{flash}", board.machine));
    match abilities.accelerator {
        Accelerator::Kvm => args.option("-accel", "kvm").option("-cpu", "host"),
        Accelerator::Tcg | Accelerator::Ptrace => {
            let thread = if spec.cpus > 1 { "multi" } else { "single" };
            args.option("-accel", format!("tcg,thread={thread}")).option("-cpu", board.cpu)
        }
    };
    args.option("-smp", spec.cpus.to_string());
    args.option("-m", format!("{}M", spec.memory.mib()));
    // The switch reads and writes the frames where they lie in the guest's memory: it must be shareable.
    args.option("-object", format!("memory-backend-memfd,id=ram,size={}M,share=on", spec.memory.mib()));
    if abilities.sandbox {
        args.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    }
    // QEMU locks this file: it also keeps a second process from running the same machine, whatever happens to us.
    args.option("-pidfile", text(&run(PID))?);

    args.socket("qmp", &run(QMP), "")?.option("-mon", "chardev=qmp,mode=control");
    args.socket("filter", &run(FILTER), "")?.option("-mon", "chardev=filter,mode=control");
    let log = escape(&spec.state_dir.join(files::CONSOLE_LOG))?;
    args.socket("console", &run(files::CONSOLE), &format!(",logfile={log},logappend=on"))?;
    args.option("-serial", "chardev:console");
    args.option("-device", "virtio-serial-pci,addr=0x2,max_ports=4");
    args.socket("agent", &run(files::AGENT), "")?;
    args.option("-device", "virtserialport,nr=1,chardev=agent,name=org.weft.agent.0");
    args.socket("qga", &run(files::QGA), "")?;
    args.option("-device", "virtserialport,nr=2,chardev=qga,name=org.qemu.guest_agent.0");
    args.option("-device", "virtio-rng-pci,addr=0x3");
    args.option("-device", "pvpanic-pci,addr=0x4");

    args.screen(spec, board)?;
    if let Some(uefi) = uefi {
        args.firmware(spec, uefi)?;
    }
    args.boot(spec)?;
    for (index, nic) in spec.nics.iter().enumerate() {
        args.nic(index, nic, abilities)?;
    }
    Ok(args.0)
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flags<const N: usize>(&mut self, flags: [&str; N]) -> &mut Self {
        self.0.extend(flags.map(OsString::from));
        self
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.into());
        self
    }

    /// A socket at which QEMU listens, without waiting for anybody.
    fn socket(&mut self, id: &str, path: &Path, more: &str) -> Result<&mut Self, MachineError> {
        let path = socket_path(path)?;
        Ok(self.option("-chardev", format!("socket,id={id},path={path},server=on,wait=off{more}")))
    }

    fn boot(&mut self, spec: &LaunchSpec) -> Result<(), MachineError> {
        if let Boot::Kernel { kernel, initrd, cmdline } = &spec.boot {
            self.option("-kernel", text(kernel)?);
            if let Some(initrd) = initrd {
                self.option("-initrd", text(initrd)?);
            }
            self.option("-append", spec.words_for_kernel(cmdline));
        }
        if let Some(DiskSpec { base, format, seed, .. }) = &spec.disk {
            let is_cd = *format == DiskFormat::Iso;
            let [overlay, seed_volume] = [disk::OVERLAY, disk::SEED].map(|file| spec.state_dir.join(file));
            let lower = json!({
                "driver": if is_cd { "raw" } else { format.as_str() }, "read-only": true,
                "file": { "driver": "file", "filename": text(base)?, "read-only": true },
            });
            // What the disk stands on is said here, and what its own header says is not followed.
            self.blockdev(json!({
                "driver": "qcow2", "node-name": "disk", "discard": "unmap",
                "file": { "driver": "file", "filename": text(&overlay)? },
                "backing": if is_cd { &Value::Null } else { &lower },
            }));
            self.option("-device", "virtio-blk-pci,id=disk,addr=0x5,drive=disk,bootindex=1");
            if seed.is_some() {
                self.blockdev(json!({
                    "driver": "raw", "node-name": "seed", "read-only": true,
                    "file": { "driver": "file", "filename": text(&seed_volume)?, "read-only": true },
                }));
                self.option("-device", "virtio-blk-pci,addr=0x6,drive=seed,multifunction=on");
            }
            if is_cd {
                let mut medium = lower;
                medium["node-name"] = "cd".into();
                self.blockdev(medium);
                let [controller, drive] = Board::of(spec.arch).drive;
                self.option("-device", format!("{controller},addr=0x6.1"));
                // Once there is a system on the disk, that is what boots.
                self.option("-device", format!("{drive},drive=cd,bootindex=2"));
            }
        }
        Ok(())
    }

    /// A screen, and what one types and points with. The tablet is where the pointer is, so both keep together.
    fn screen(&mut self, spec: &LaunchSpec, board: Board) -> Result<(), MachineError> {
        let Some(Display::Vnc) = spec.display else {
            self.option("-display", "none");
            return Ok(());
        };
        self.option("-display", format!("vnc=unix:{}", socket_path(&spec.run_dir.join(VNC))?));
        self.option("-device", format!("{},addr=0x1.0,multifunction=on", board.graphics));
        self.option("-device", "qemu-xhci,id=usb,addr=0x1.1");
        self.option("-device", "usb-kbd,bus=usb.0").option("-device", "usb-tablet,bus=usb.0");
        Ok(())
    }

    /// UEFI, whose variables are the machine's own.
    fn firmware(&mut self, spec: &LaunchSpec, uefi: &Uefi) -> Result<(), MachineError> {
        let variables = spec.state_dir.join(VARIABLES);
        for (node, flash, path, read_only) in
            [("firmware", &uefi.code, &uefi.code.path, true), ("variables", &uefi.variables, &variables, false)]
        {
            self.blockdev(json!({
                "driver": flash.format, "node-name": node, "read-only": read_only,
                "file": { "driver": "file", "filename": text(path)?, "read-only": read_only },
            }));
        }
        Ok(())
    }

    fn blockdev(&mut self, node: Value) {
        self.option("-blockdev", node.to_string());
    }

    /// An adapter that plugs into the switch, and plugs in again by itself whenever the switch has been away.
    fn nic(&mut self, index: usize, nic: &LaunchNic, abilities: Abilities) -> Result<(), MachineError> {
        let socket = socket_path(&nic.socket)?;
        let reconnect = if abilities.version >= (9, 2) { "reconnect-ms=100" } else { "reconnect=1" };
        self.option("-chardev", format!("socket,id=wire{index},path={socket},{reconnect}"));
        self.option("-netdev", format!("vhost-user,id=net{index},chardev=wire{index}"));
        // Without KVM, QEMU 7.2 crashes as soon as a driver turns on the message-signalled interrupts of such an adapter:
        // it then uses KVM's all the same. With no vectors there is the interrupt line.
        let vectors = if abilities.accelerator == Accelerator::Tcg { ",vectors=0" } else { "" };
        let LaunchNic { mac, mtu, .. } = nic;
        let (slot, id) = (FIRST_NIC_SLOT + index, super::adapter_name(index));
        self.option(
            "-device",
            format!(
                "virtio-net-pci,id={id},addr={slot:#x},netdev=net{index},mac={mac},host_mtu={mtu},romfile=,\
                 rx_queue_size={NIC_QUEUE_SIZE},tx_queue_size={NIC_QUEUE_SIZE}{vectors}"
            ),
        );
        Ok(())
    }
}

/// A path as text: QEMU's JSON has no other.
pub(super) fn text(path: &Path) -> Result<&str, MachineError> {
    let unusable = |why| MachineError::PathText { path: path.to_owned(), why };
    if !path.is_absolute() {
        return Err(unusable("it is not absolute"));
    }
    path.to_str().ok_or_else(|| unusable("it is not UTF-8"))
}

/// A path inside an option that is a list: there a comma is written twice.
fn escape(path: &Path) -> Result<String, MachineError> {
    Ok(text(path)?.replace(',', ",,"))
}

fn socket_path(path: &Path) -> Result<String, MachineError> {
    escape(fitting(path)?)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use weft_model::{Arch, Firmware};

    use super::super::firmware::Flash;
    use super::*;
    use crate::spec::{Seed, Uuid};

    const TCG: Abilities = Abilities { accelerator: Accelerator::Tcg, sandbox: false, version: (7, 2) };

    fn spec(boot: Boot) -> LaunchSpec {
        LaunchSpec {
            name: "web".parse().unwrap(),
            uuid: Uuid::derive("web"),
            engine: None,
            arch: Arch::X86,
            display: None,
            memory: "256MiB".parse().unwrap(),
            cpus: 1,
            boot,
            disk: None,
            nics: Vec::new(),
            state_dir: "/s".into(),
            run_dir: "/r".into(),
            cache_dir: "/none".into(),
            weft: "/none/weft".into(),
        }
    }

    fn kernel() -> Boot {
        Boot::Kernel { kernel: "/k".into(), initrd: Some("/i".into()), cmdline: "console=ttyS0, quiet".into() }
    }

    fn check(spec: &LaunchSpec, abilities: Abilities, expected: Expect) {
        let lines = match argv(spec, None, abilities) {
            Ok(args) => args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ").replace(" -", "\n-"),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&lines);
    }

    #[test]
    fn a_kernel_with_two_adapters() {
        let mut spec = spec(kernel());
        for index in 0..2 {
            let mac = format!("02:00:00:00:00:0{index}").parse().unwrap();
            spec.nics.push(LaunchNic { mac, socket: format!("/r/web-{index}.sock").into(), mtu: 1500 });
        }
        check(
            &spec,
            TCG,
            expect![[r#"
                -nodefaults
                -no-user-config
                -name guest=web,debug-threads=on
                -uuid 4b5e57f6-eb2f-82b9-839b-3d1e13929295
                -machine q35,vmport=off,smbus=off,sata=off,usb=off,i8042=off,memory-backend=ram
                -accel tcg,thread=single
                -cpu max,la57=off
                -smp 1
                -m 256M
                -object memory-backend-memfd,id=ram,size=256M,share=on
                -pidfile /r/qemu.pid
                -chardev socket,id=qmp,path=/r/qmp.sock,server=on,wait=off
                -mon chardev=qmp,mode=control
                -chardev socket,id=filter,path=/r/filter.sock,server=on,wait=off
                -mon chardev=filter,mode=control
                -chardev socket,id=console,path=/r/console.sock,server=on,wait=off,logfile=/s/console.log,logappend=on
                -serial chardev:console
                -device virtio-serial-pci,addr=0x2,max_ports=4
                -chardev socket,id=agent,path=/r/agent.sock,server=on,wait=off
                -device virtserialport,nr=1,chardev=agent,name=org.weft.agent.0
                -chardev socket,id=qga,path=/r/qga.sock,server=on,wait=off
                -device virtserialport,nr=2,chardev=qga,name=org.qemu.guest_agent.0
                -device virtio-rng-pci,addr=0x3
                -device pvpanic-pci,addr=0x4
                -display none
                -kernel /k
                -initrd /i
                -append console=ttyS0, quiet weft.hostname=web
                -chardev socket,id=wire0,path=/r/web-0.sock,reconnect=1
                -netdev vhost-user,id=net0,chardev=wire0
                -device virtio-net-pci,id=nic0,addr=0x7,netdev=net0,mac=02:00:00:00:00:00,host_mtu=1500,romfile=,rx_queue_size=1024,tx_queue_size=1024,vectors=0
                -chardev socket,id=wire1,path=/r/web-1.sock,reconnect=1
                -netdev vhost-user,id=net1,chardev=wire1
                -device virtio-net-pci,id=nic1,addr=0x8,netdev=net1,mac=02:00:00:00:00:01,host_mtu=1500,romfile=,rx_queue_size=1024,tx_queue_size=1024,vectors=0"#]],
        );
    }

    #[test]
    fn a_disk_with_a_seed_on_a_newer_qemu_with_kvm() {
        let seed = Seed { hostname: "web".into(), ssh_key: None, user_data: None, nics: Vec::new() };
        let disk = DiskSpec { base: "/a,b.img".into(), format: DiskFormat::Raw, size: None, seed: Some(seed) };
        let mut spec = LaunchSpec { disk: Some(disk), ..spec(Boot::Firmware(Firmware::Bios)) };
        spec.cpus = 2;
        spec.nics.push(LaunchNic { mac: "02:00:00:00:00:01".parse().unwrap(), socket: "/a,b.sock".into(), mtu: 9000 });
        let abilities = Abilities { accelerator: Accelerator::Kvm, sandbox: true, version: (10, 0) };
        check(
            &spec,
            abilities,
            expect![[r#"
                -nodefaults
                -no-user-config
                -name guest=web,debug-threads=on
                -uuid 4b5e57f6-eb2f-82b9-839b-3d1e13929295
                -machine q35,vmport=off,smbus=off,sata=off,usb=off,i8042=off,memory-backend=ram
                -accel kvm
                -cpu host
                -smp 2
                -m 256M
                -object memory-backend-memfd,id=ram,size=256M,share=on
                -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
                -pidfile /r/qemu.pid
                -chardev socket,id=qmp,path=/r/qmp.sock,server=on,wait=off
                -mon chardev=qmp,mode=control
                -chardev socket,id=filter,path=/r/filter.sock,server=on,wait=off
                -mon chardev=filter,mode=control
                -chardev socket,id=console,path=/r/console.sock,server=on,wait=off,logfile=/s/console.log,logappend=on
                -serial chardev:console
                -device virtio-serial-pci,addr=0x2,max_ports=4
                -chardev socket,id=agent,path=/r/agent.sock,server=on,wait=off
                -device virtserialport,nr=1,chardev=agent,name=org.weft.agent.0
                -chardev socket,id=qga,path=/r/qga.sock,server=on,wait=off
                -device virtserialport,nr=2,chardev=qga,name=org.qemu.guest_agent.0
                -device virtio-rng-pci,addr=0x3
                -device pvpanic-pci,addr=0x4
                -display none
                -blockdev {"backing":{"driver":"raw","file":{"driver":"file","filename":"/a,b.img","read-only":true},"read-only":true},"discard":"unmap","driver":"qcow2","file":{"driver":"file","filename":"/s/disk.qcow2"},"node-name":"disk"}
                -device virtio-blk-pci,id=disk,addr=0x5,drive=disk,bootindex=1
                -blockdev {"driver":"raw","file":{"driver":"file","filename":"/s/seed.img","read-only":true},"node-name":"seed","read-only":true}
                -device virtio-blk-pci,addr=0x6,drive=seed,multifunction=on
                -chardev socket,id=wire0,path=/a,,b.sock,reconnect-ms=100
                -netdev vhost-user,id=net0,chardev=wire0
                -device virtio-net-pci,id=nic0,addr=0x7,netdev=net0,mac=02:00:00:00:00:01,host_mtu=9000,romfile=,rx_queue_size=1024,tx_queue_size=1024"#]],
        );
    }

    #[test]
    fn an_arm_with_uefi_a_cd_and_a_screen() {
        let seed = Seed { hostname: "web".into(), ssh_key: None, user_data: None, nics: Vec::new() };
        let disk = DiskSpec { base: "/cd.iso".into(), format: DiskFormat::Iso, size: None, seed: Some(seed) };
        let boot = Boot::Firmware(Firmware::Uefi);
        let display = Some(Display::Vnc);
        let mut spec = LaunchSpec { arch: Arch::Aarch64, display, disk: Some(disk), ..spec(boot) };
        let socket: std::path::PathBuf = "/r/web.sock".into();
        let mac = "02:00:00:00:00:01".parse().unwrap();
        spec.nics = vec![LaunchNic { mac, socket, mtu: 1500 }; 24];
        let flash = |path: &str| Flash { path: path.into(), format: "raw".to_owned() };
        let uefi = Uefi { code: flash("/code.fd"), variables: flash("/empty.fd") };
        let args = argv(&spec, Some(&uefi), TCG).unwrap();
        let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let ours = ["-machine", "-accel", "-cpu", "-display", "-blockdev"];
        let told = args.windows(2).filter(|pair| {
            ours.contains(&pair[0])
                || pair[0] == "-device" && !pair[1].contains("virtserial") && !pair[1].contains("nic1")
        });
        let told: Vec<_> = told.map(|pair| pair.join(" ")).collect();
        let last = told.iter().find(|words| words.contains("id=nic23,")).unwrap();
        assert!(last.contains("addr=0x1e,"), "the last slot but the board's own: {last}");
        let shown: Vec<_> = told.iter().filter(|words| !words.contains("id=nic")).map(String::as_str).collect();
        expect![[r#"
            -machine virt,gic-version=3,memory-backend=ram,pflash0=firmware,pflash1=variables
            -accel tcg,thread=single
            -cpu cortex-a72
            -device virtio-serial-pci,addr=0x2,max_ports=4
            -device virtio-rng-pci,addr=0x3
            -device pvpanic-pci,addr=0x4
            -display vnc=unix:/r/vnc.sock
            -device virtio-gpu-pci,addr=0x1.0,multifunction=on
            -device qemu-xhci,id=usb,addr=0x1.1
            -device usb-kbd,bus=usb.0
            -device usb-tablet,bus=usb.0
            -blockdev {"driver":"raw","file":{"driver":"file","filename":"/code.fd","read-only":true},"node-name":"firmware","read-only":true}
            -blockdev {"driver":"raw","file":{"driver":"file","filename":"/s/uefi.vars","read-only":false},"node-name":"variables","read-only":false}
            -blockdev {"backing":null,"discard":"unmap","driver":"qcow2","file":{"driver":"file","filename":"/s/disk.qcow2"},"node-name":"disk"}
            -device virtio-blk-pci,id=disk,addr=0x5,drive=disk,bootindex=1
            -blockdev {"driver":"raw","file":{"driver":"file","filename":"/s/seed.img","read-only":true},"node-name":"seed","read-only":true}
            -device virtio-blk-pci,addr=0x6,drive=seed,multifunction=on
            -blockdev {"driver":"raw","file":{"driver":"file","filename":"/cd.iso","read-only":true},"node-name":"cd","read-only":true}
            -device virtio-scsi-pci,id=drives,addr=0x6.1
            -device scsi-cd,bus=drives.0,drive=cd,bootindex=2"#]].assert_eq(&shown.join("\n"));
    }

    #[test]
    fn paths_that_cannot_be_handed_over() {
        let mut long = spec(kernel());
        long.run_dir = format!("/{}", "x".repeat(100)).into();
        check(
            &long,
            TCG,
            expect![
                "the path `/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/qmp.sock` is 110 bytes long; a Unix socket's has at most 107"
            ],
        );
        let relative = spec(Boot::Kernel { kernel: "vmlinuz".into(), initrd: None, cmdline: String::new() });
        check(&relative, TCG, expect!["the path `vmlinuz` cannot be handed to QEMU: it is not absolute"]);
    }
}
