//! Machines on Weft's own VMM, on virtual bare metal: the hosts of tests as a rule have no hardware virtualization.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use weft_machine::CpioWriter;
use weft_testkit::{Metal, in_metal, is_in_metal};

use crate::harness::{Home, copy_tree, eventually, image_cache, kill};

/// Two machines, one of which names no engine: it gets this one, because the hardware has what it needs.
const PAIR: &str = "
[network.lan]
subnet = '10.40.0.0/24'
[vm.one]
memory = '128MiB'
engine = 'kvm'
cpu_weight = 300
nics = [{ network = 'lan', ip = '10.40.0.10' }]
[vm.two]
memory = '128MiB'
nics = ['lan']
";

/// Debian's own kernel, and a disk beside it.
const WITH_DISK: &str = "
[vm.store]
image = 'own'
memory = '128MiB'
ready = 'running'
[image.own]
kernel = '/boot/vmlinuz'
initrd = 'initrd'
cmdline = 'console=ttyS0 panic=-1'
disk = 'base.img'
";

/// Says what its disk begins with and what its seed is called, writes something else to the disk, and powers off.
const STORE_INIT: &str = "#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /dev
busybox mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    busybox insmod /$module.ko
done
busybox echo \"the disk begins with $(busybox dd if=/dev/vda bs=8 count=1 2>/dev/null)\"
busybox grep -q CIDATA /dev/vdb && busybox echo 'the seed is there'
busybox echo -n changed. | busybox dd of=/dev/vda conv=fsync 2>/dev/null
busybox dd if=/dev/zero of=/dev/vda bs=64k seek=8 count=16 conv=fsync 2>/dev/null && busybox echo 'all is written'
busybox poweroff -f
";

/// Where root's machines have their control groups.
const GROUPS: &str = "/sys/fs/cgroup/weft";

/// What this engine cannot run.
const UNFIT: &str = "
[vm.bios]
image = 'disk'
engine = 'kvm'
[image.disk]
disk = 'disk.img'
format = 'raw'
";

/// A processor that is emulated to run an emulator of processors is slow.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn machines_on_the_own_vmm() {
    let lab = tempfile::tempdir().unwrap();
    if !is_in_metal() {
        // The image alone: the cache holds the kernels of virtual bare metal, too.
        copy_image(&image_cache(), &lab.path().join("cache"));
    }
    let metal = Metal::new()
        .kvm()
        .memory_mib(2000)
        .kernel()
        .processors(1) // with two, a guest has ended in a triple fault once; of one, nothing like it was seen
        .program(env!("CARGO_BIN_EXE_weft"))
        .folder(lab.path())
        .patience(Duration::from_secs(900));
    in_metal("kvm::machines_on_the_own_vmm", metal, || {
        let home = Home::new("kvm");
        the_choice_is_told(&home);
        home.write("weft.toml", PAIR);
        watched(&home, || home.weft(&["up"]).ok());
        eprintln!("up:\n{}", home.weft(&["vm", "ls"]).ok());
        for vm in home.json(&["vm", "ls"]).as_array().unwrap() {
            assert_eq!(vm["engine"], "kvm", "{vm}");
        }
        memory_is_in_large_pages(&home);
        whatever_is_killed_is_back_or_told(&home);
        weights_are_kept(&home);
        home.weft(&["down"]).ok();
        home.assert_gone();
        an_own_kernel_with_a_disk(&home);
        assert!(!Path::new(GROUPS).exists(), "the last machine takes the groups along");
    });
}

/// Does something that is over soon. If it is not (once it was not), what can be known is shown before all ends.
fn watched<T>(home: &Home, body: impl FnOnce() -> T) -> T {
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if is_done.recv_timeout(Duration::from_secs(300)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            for words in [&["events"][..], &["logs", "one"], &["logs", "two"], &["port", "show"]] {
                eprintln!("{words:?}: {}", home.weft(words).out);
            }
            std::process::exit(1);
        });
        let outcome = body();
        drop(done);
        outcome
    })
}

/// What this host's machines get, and why one does not get what it asks for.
fn the_choice_is_told(home: &Home) {
    let checks = home.weft(&["doctor"]).out;
    assert!(checks.contains("run on `kvm`, Weft's own VMM"), "{checks}");
    home.write("disk.img", &"x".repeat(1 << 20));
    home.write("unfit.toml", UNFIT);
    let refused = home.weft(&["up", "unfit.toml"]);
    let why = "Weft's VMM cannot run `bios`: it boots kernels, and has no firmware that boots disks";
    assert!(refused.code != 0 && refused.err.contains(why), "{} {}", refused.out, refused.err);
    home.weft(&["down", "unfit.toml"]).ok();
}

/// Most of what a small machine uses of its host's memory is in large pages, where the host has them.
fn memory_is_in_large_pages(home: &Home) {
    let pages = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", home.pid("one"))).unwrap();
    let mib = |key: &str| {
        let line = pages.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    };
    let (large, all) = (mib("ShmemPmdMapped:"), mib("Rss:"));
    eprintln!("memory of `one`: {large} of {all} MiB in large pages");
    assert!(large * 2 > all, "{pages}");
}

fn whatever_is_killed_is_back_or_told(home: &Home) {
    let pings = || home.exec("two", &["ping", "-c", "1", "-W", "2", "10.40.0.10"]).code == 0;
    assert_eq!(home.exec("one", &["hostname"]).ok().trim(), "one");
    eventually("they reach each other", PATIENCE, pings);

    let machines = || (home.pid("one"), home.pid("two"));
    let before = machines();
    kill(home.pid("daemon"));
    assert_eq!(machines(), before, "everything was adopted");
    assert_eq!(home.exec("two", &["hostname"]).ok().trim(), "two");

    let switch = home.pid("switch");
    kill(switch);
    eventually("a new switch carries on", PATIENCE, || {
        home.json(&["ls"])["switch"]["pid"].as_i64().is_some_and(|pid| pid as i32 != switch) && pings()
    });
    assert_eq!(machines(), before, "no machine minds");

    kill(before.0);
    // The daemon is not its parent any more, so nobody knows how it ended.
    eventually("its end is told", PATIENCE, || home.weft(&["vm", "ls"]).ok().contains("its engine ended"));
    home.weft(&["up"]).ok();
    eventually("it is back", PATIENCE, pings);
    assert_eq!(home.pid("two"), before.1);
}

/// Both machines want the one processor, and one of them has three times the weight.
fn weights_are_kept(home: &Home) {
    let group = |vm: &str| {
        let pid = home.pid(vm).to_string();
        let groups = std::fs::read_dir(GROUPS).unwrap().flatten().map(|entry| entry.path());
        let has = |group: &Path| {
            std::fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|all| all.lines().any(|line| line == pid))
        };
        groups.filter(|path| path.is_dir()).find(|path| has(path)).expect("a group of its own")
    };
    let groups = ["one", "two"].map(group);
    let weight = |group: &Path| std::fs::read_to_string(group.join("cpu.weight")).unwrap().trim().to_owned();
    assert_eq!([weight(&groups[0]), weight(&groups[1])], ["300", "100"]);

    let mut loops = ["one", "two"].map(|vm| home.spawn(&["exec", vm, "--", "sh", "-c", "while :; do :; done"]));
    let used = || {
        groups.each_ref().map(|group| {
            let stat = std::fs::read_to_string(group.join("cpu.stat")).unwrap();
            stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap().parse::<f64>().unwrap()
        })
    };
    let ratio_over = |seconds: u64| {
        let before = used();
        std::thread::sleep(Duration::from_secs(seconds));
        let after = used();
        (after[0] - before[0]) / (after[1] - before[1])
    };
    std::thread::sleep(Duration::from_secs(5)); // until both are at it
    let ratio = ratio_over(20);
    eprintln!("weights 300 and 100: processor time 1 to {ratio:.3}");
    assert!((2.85..3.15).contains(&ratio), "{ratio}");

    // While they run, the other way round; and a limit.
    let edited = PAIR.replace("cpu_weight = 300\n", "cpu_limit = '20%'\n");
    home.write("weft.toml", &edited);
    home.weft(&["up"]).ok();
    let limited = ratio_over(10);
    eprintln!("a fifth of one processor beside the rest of it: 1 to {limited:.3}");
    assert!(limited < 0.3, "{limited}");
    for exec in &mut loops {
        exec.kill().unwrap();
        exec.wait().unwrap();
    }
}

/// A kernel as Debian ships it finds an overlay over the image's disk, and what it writes there is there at its next start.
fn an_own_kernel_with_a_disk(home: &Home) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut initrd = CpioWriter::new(Vec::new());
    for folder in ["bin", "dev"] {
        initrd.directory(folder, 0o755).unwrap();
    }
    initrd.file("bin/busybox", 0o755, &std::fs::read("/bin/busybox").unwrap()).unwrap();
    for module in
        ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"]
    {
        let path = format!("/lib/modules/{}/{module}.ko", release.trim());
        initrd.file(&format!("{module}.ko"), 0o644, &std::fs::read(path).unwrap()).unwrap();
    }
    initrd.file("init", 0o755, STORE_INIT.as_bytes()).unwrap();
    initrd.device("dev/console", 0o600, 5, 1).unwrap();
    std::fs::write(home.dir().join("initrd"), initrd.finish().unwrap()).unwrap();
    let base = format!("original{}", "x".repeat((2 << 20) - 8));
    home.write("base.img", &base);
    home.write("store.toml", WITH_DISK);
    let logs = || home.weft(&["logs", "store"]).ok();
    let says = |words: &str| eventually(words, PATIENCE, || logs().contains(words));
    home.weft(&["up", "store.toml"]).ok();
    assert_eq!(home.json(&["vm", "ls"])[0]["engine"], "kvm");
    says("the disk begins with original");
    says("the seed is there");
    says("all is written");
    eventually("it powers off", PATIENCE, || home.json(&["vm", "ls"])[0]["state"] != "ready");
    home.weft(&["up", "store.toml"]).ok();
    says("the disk begins with changed.");
    assert!(std::fs::read_to_string(home.dir().join("base.img")).unwrap() == base, "nobody writes to the base");
    home.weft(&["down", "store.toml"]).ok();
}

/// Copies the image `micro`, without what else was built into the same folder.
fn copy_image(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    copy_tree(&from.join("micro"), &to.join("micro"));
    let kernels = std::fs::read_dir(to.join("micro")).unwrap().flatten().map(|entry| entry.path());
    for kernel in kernels.filter(|path| path.join("release").is_file()) {
        if !std::fs::read_to_string(kernel.join("release")).unwrap().contains("cloud") {
            assert!(Command::new("rm").arg("-rf").arg(&kernel).status().unwrap().success());
        }
    }
}
