//! The command line that makes QEMU the machine which a [`LaunchSpec`] describes. Pure: no file is looked at.
//!
//! Nothing is left to QEMU's defaults (`-nodefaults`, `-no-user-config`), every device has its place on the PCI bus so
//! that a guest always sees the same machine, and every path is handed over such that no byte of it is taken for syntax.

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Value, json};

use super::super::start::socket_path as fitting;
use super::super::{Accelerator, files};
use super::{FILTER, PID, QMP};
use crate::MachineError;
use crate::disk;
use crate::spec::{Boot, DiskSpec, LaunchNic, LaunchSpec};

/// The PCI slot of the first network adapter; the others follow. The slots below it are for what every machine has.
const FIRST_NIC_SLOT: usize = 8;
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
pub(super) fn argv(spec: &LaunchSpec, abilities: Abilities) -> Result<Vec<OsString>, MachineError> {
    let mut args = Args::default();
    let run = |file: &str| spec.run_dir.join(file);

    args.flags(["-nodefaults", "-no-user-config"]).option("-display", "none");
    args.option("-name", format!("guest={},debug-threads=on", spec.name));
    args.option("-uuid", spec.uuid.to_string());
    args.option("-machine", "q35,vmport=off,smbus=off,sata=off,usb=off,i8042=off,memory-backend=ram");
    match abilities.accelerator {
        Accelerator::Kvm => args.option("-accel", "kvm").option("-cpu", "host"),
        Accelerator::Tcg | Accelerator::Ptrace => {
            let thread = if spec.cpus > 1 { "multi" } else { "single" };
            // Five-level page tables would make every miss of the translated TLB one step longer, for nothing.
            args.option("-accel", format!("tcg,thread={thread}")).option("-cpu", "max,la57=off")
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
            // Kernels pass over what they do not know and holds a dot; micro guests read it.
            self.option("-append", format!("{cmdline} weft.hostname={}", spec.name).trim_start().to_owned());
        }
        if let Some(DiskSpec { base, format, seed, .. }) = &spec.disk {
            let [overlay, seed_volume] = [disk::OVERLAY, disk::SEED].map(|file| spec.state_dir.join(file));
            // The format of the lower disk is said here, and what the overlay's own header says is not followed.
            self.blockdev(json!({
                "driver": "qcow2", "node-name": "disk", "discard": "unmap",
                "file": { "driver": "file", "filename": text(&overlay)? },
                "backing": {
                    "driver": format.as_str(), "read-only": true,
                    "file": { "driver": "file", "filename": text(base)?, "read-only": true },
                },
            }));
            self.option("-device", "virtio-blk-pci,id=disk,addr=0x5,drive=disk,bootindex=1");
            if seed.is_some() {
                self.blockdev(json!({
                    "driver": "raw", "node-name": "seed", "read-only": true,
                    "file": { "driver": "file", "filename": text(&seed_volume)?, "read-only": true },
                }));
                self.option("-device", "virtio-blk-pci,addr=0x6,drive=seed");
            }
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
    use weft_model::DiskFormat;

    use super::*;
    use crate::spec::{Seed, Uuid};

    const TCG: Abilities = Abilities { accelerator: Accelerator::Tcg, sandbox: false, version: (7, 2) };

    fn spec(boot: Boot) -> LaunchSpec {
        LaunchSpec {
            name: "web".parse().unwrap(),
            uuid: Uuid::derive("web"),
            engine: None,
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
        let lines = match argv(spec, abilities) {
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
                -display none
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
                -kernel /k
                -initrd /i
                -append console=ttyS0, quiet weft.hostname=web
                -chardev socket,id=wire0,path=/r/web-0.sock,reconnect=1
                -netdev vhost-user,id=net0,chardev=wire0
                -device virtio-net-pci,id=nic0,addr=0x8,netdev=net0,mac=02:00:00:00:00:00,host_mtu=1500,romfile=,rx_queue_size=1024,tx_queue_size=1024,vectors=0
                -chardev socket,id=wire1,path=/r/web-1.sock,reconnect=1
                -netdev vhost-user,id=net1,chardev=wire1
                -device virtio-net-pci,id=nic1,addr=0x9,netdev=net1,mac=02:00:00:00:00:01,host_mtu=1500,romfile=,rx_queue_size=1024,tx_queue_size=1024,vectors=0"#]],
        );
    }

    #[test]
    fn a_disk_with_a_seed_on_a_newer_qemu_with_kvm() {
        let seed = Seed { hostname: "web".into(), ssh_key: None, user_data: None, nics: Vec::new() };
        let disk = DiskSpec { base: "/a,b.img".into(), format: DiskFormat::Raw, size: None, seed: Some(seed) };
        let mut spec = LaunchSpec { disk: Some(disk), ..spec(Boot::Firmware) };
        spec.cpus = 2;
        spec.nics.push(LaunchNic { mac: "02:00:00:00:00:01".parse().unwrap(), socket: "/a,b.sock".into(), mtu: 9000 });
        let abilities = Abilities { accelerator: Accelerator::Kvm, sandbox: true, version: (10, 0) };
        check(
            &spec,
            abilities,
            expect![[r#"
                -nodefaults
                -no-user-config
                -display none
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
                -blockdev {"backing":{"driver":"raw","file":{"driver":"file","filename":"/a,b.img","read-only":true},"read-only":true},"discard":"unmap","driver":"qcow2","file":{"driver":"file","filename":"/s/disk.qcow2"},"node-name":"disk"}
                -device virtio-blk-pci,id=disk,addr=0x5,drive=disk,bootindex=1
                -blockdev {"driver":"raw","file":{"driver":"file","filename":"/s/seed.img","read-only":true},"node-name":"seed","read-only":true}
                -device virtio-blk-pci,addr=0x6,drive=seed
                -chardev socket,id=wire0,path=/a,,b.sock,reconnect-ms=100
                -netdev vhost-user,id=net0,chardev=wire0
                -device virtio-net-pci,id=nic0,addr=0x8,netdev=net0,mac=02:00:00:00:00:01,host_mtu=9000,romfile=,rx_queue_size=1024,tx_queue_size=1024"#]],
        );
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
