//! Guests that are not like ours: other processors, other systems, firmware, CDs and screens.

use std::fs;
use std::path::Path;
use std::time::Duration;

use weft_testkit::Foreign;

use crate::harness::{Home, eventually};

const IPXE_CD: &str = "/usr/lib/ipxe/ipxe.iso";
const IPXE: &str = "/usr/lib/ipxe/ipxe.lkrn";

#[test]
fn processors_of_three_kinds_on_one_network() {
    let home = Home::rootless("foreign");
    let mut file = "[network.lan]\n[vm.web]\nnics = ['lan']\n".to_owned();
    let kinds = [("arm", "arm64", "linux-image-arm64", "aarch64"), ("old", "i386", "linux-image-686", "i686")];
    for (name, debian, package, _) in kinds {
        let Foreign { kernel, initrd } =
            Foreign::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign"), debian, package);
        for (from, what) in [(kernel, "kernel"), (initrd, "initrd")] {
            fs::write(home.dir().join(format!("{name}-{what}")), fs::read(from).unwrap()).unwrap();
        }
        file += &format!("[image.{name}]\nkernel = '{name}-kernel'\ninitrd = '{name}-initrd'\n");
        file += &format!("[vm.{name}]\nimage = '{name}'\nnics = ['lan']\n");
    }
    home.write("weft.toml", &file);
    home.weft(&["up"]).ok();
    for (name, _, _, processor) in kinds {
        let url = format!("http://{name}/");
        eventually("the guest answers", Duration::from_secs(30), || {
            home.exec("web", &["wget", "-q", "-T", "5", "-O", "-", &url]).out.trim() == processor
        });
    }
    let images = home.json(&["image", "ls"]);
    let arm = images.as_array().unwrap().iter().find(|image| image["name"] == "arm").unwrap();
    assert!(arm["description"].as_str().unwrap().contains("kernel"), "{arm}");

    // What is said about a kernel has to be true.
    home.write("weft.toml", &file.replace("[image.arm]", "[image.arm]\narch = 'riscv64'"));
    let refused = home.weft(&["plan"]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("arm-kernel is a kernel for aarch64"), "{}", refused.err);
    home.weft(&["down", "--all"]).ok();
    home.assert_gone();
}

#[test]
fn a_guest_that_is_no_linux_gets_a_lease_and_answers() {
    let home = Home::rootless("ipxe");
    home.write("script", "#!ipxe\n:again\ndhcp || goto again\nsleep 100000\n");
    home.write(
        "weft.toml",
        &format!(
            "[network.lan]\n[vm.web]\nnics = ['lan']\n\
             [image.ipxe]\nkernel = '{IPXE}'\ninitrd = 'script'\ncmdline = ''\n\
             [vm.ipxe]\nimage = 'ipxe'\nnics = ['lan']\n"
        ),
    );
    home.weft(&["up"]).ok();
    home.exec("web", &["ping", "-c", "1", "-W", "10", "ipxe"]).ok();
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn a_cd_boots_beside_an_empty_disk_and_its_screen_is_seen() {
    let home = Home::rootless("cd");
    let file = |size: &str| {
        format!(
            "[network.lan]\n[image.cd]\ndisk = '{IPXE_CD}'\n\
             [vm.pc]\nimage = 'cd'\nnics = ['lan']\ndisplay = 'vnc'\n{size}\n[vm.web]\nnics = ['lan']\n"
        )
    };
    home.write("weft.toml", &file("disk_size = '64MiB'"));
    home.weft(&["up"]).ok(); // a lease: it has booted from the CD
    let picture = home.dir().join("screen.png");
    home.weft(&["screen", "pc", "--picture", picture.to_str().unwrap()]).ok();
    assert!(fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    let none = home.weft(&["screen", "web"]);
    assert_eq!(none.code, 1);
    assert!(none.err.contains("write `display = \"vnc\"`"), "{}", none.err);

    let socket = home.dir().join("vnc.sock");
    let mut shown = home.spawn(&["screen", "pc", "--listen", socket.to_str().unwrap()]);
    eventually("the screen is shown", Duration::from_secs(10), || socket.exists());
    for _ in 0..2 {
        // One viewer after another.
        let mut viewer = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let mut version = [0; 12];
        std::io::Read::read_exact(&mut viewer, &mut version).unwrap();
        assert!(version.starts_with(b"RFB 003"), "{version:?}");
    }
    let pid = rustix::process::Pid::from_child(&shown);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(shown.wait().unwrap().success());
    assert!(!socket.exists());

    // What the machine has installed stays when the disk grows.
    let disk = home.dir().join("state/vms/pc/disk.qcow2");
    let before = fs::metadata(&disk).unwrap();
    home.weft(&["vm", "stop", "pc", "--force"]).ok(); // it knows no power button
    home.write("weft.toml", &file("disk_size = '128MiB'"));
    home.weft(&["up"]).ok();
    home.weft(&["vm", "start", "pc"]).ok();
    let after = fs::metadata(&disk).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&before), std::os::unix::fs::MetadataExt::ino(&after));
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn uefi_keeps_its_variables() {
    let home = Home::rootless("uefi");
    home.write(
        "weft.toml",
        &format!("[image.cd]\ndisk = '{IPXE_CD}'\nfirmware = 'uefi'\n[vm.pc]\nimage = 'cd'\ndisk_size = '64MiB'\n"),
    );
    home.weft(&["up"]).ok();
    // The CD has nothing for UEFI, which shows its own shell then.
    let shell = || home.weft(&["logs", "pc"]).out.contains("UEFI Interactive Shell");
    eventually("UEFI has a shell", Duration::from_secs(90), shell);
    let variables = home.dir().join("state/vms/pc/uefi.vars");
    let kept = fs::read(&variables).unwrap();
    home.weft(&["vm", "stop", "pc", "--force"]).ok();
    home.weft(&["vm", "start", "pc"]).ok();
    eventually("UEFI has a shell again", Duration::from_secs(90), shell);
    // What it wrote at its first start stands there still, and it found that.
    let differing = fs::read(&variables).unwrap().iter().zip(&kept).filter(|(a, b)| a != b).count();
    assert!(kept.iter().any(|byte| *byte != 0xff) && differing < kept.len() / 16, "{differing} of {}", kept.len());
    home.weft(&["down"]).ok();
    home.assert_gone();
}
