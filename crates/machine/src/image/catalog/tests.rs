use std::os::unix::fs::FileExt as _;

use super::*;

struct Bed {
    dir: TempDir,
    catalog: Catalog,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(dir.path().join("images"));
        Self { dir, catalog }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, name: &str, source: Source<'_>) -> Result<CatalogImage, MachineError> {
        self.catalog.import(&label(name), source, "imported from a test", &mut |_, _| {})
    }

    /// What is in the catalogue's folder, the lock aside.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.catalog.dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name != ".lock").collect()
    }

    /// The images, none of which is damaged.
    fn images(&self) -> Vec<CatalogImage> {
        self.catalog.list().unwrap().into_iter().map(|(_, image)| image.unwrap()).collect()
    }

    fn refused(&self, source: Source<'_>, expected: &str) {
        let error = self.import("bad", source).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
        assert_eq!(self.left(), [""; 0], "something stays");
    }
}

fn label(name: &str) -> Label {
    name.parse().unwrap()
}

fn kernel_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes
}

#[test]
fn a_kernel_is_kept_and_its_source_not_needed_any_more() {
    let bed = Bed::new();
    let (kernel, initrd) = (bed.file("k", &kernel_bytes()), bed.file("i", b"archive"));
    let mut steps = Vec::new();
    let source = Source::Kernel { kernel: &kernel, initrd: Some(&initrd), cmdline: Some("quiet"), disk: None };
    let mut progress = |done, total| steps.push((done, total));
    let image = bed.catalog.import(&label("mine"), source, "imported from k", &mut progress).unwrap();
    assert_eq!(steps.last(), Some(&(4103, 4103)));
    assert!(steps.is_sorted());
    fs::remove_file(kernel).unwrap();
    fs::remove_file(initrd).unwrap();
    let ImageSource::Kernel { kernel, initrd, cmdline, disk: None, .. } = &image.source else { panic!("{image:?}") };
    assert_eq!(fs::read(kernel).unwrap(), kernel_bytes());
    assert_eq!(fs::read(initrd.as_ref().unwrap()).unwrap(), b"archive");
    assert_eq!((cmdline.as_str(), image.origin.as_str()), ("quiet", "imported from k"));
    assert_eq!(bed.images(), [image]);
    bed.catalog.remove(&label("mine")).unwrap();
    assert_eq!(bed.left(), [""; 0]);
    assert!(matches!(bed.catalog.remove(&label("mine")), Err(MachineError::NoSuchImage(_))));
}

#[test]
fn a_disk_keeps_its_holes() {
    let bed = Bed::new();
    let path = bed.file("d", b"begin");
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"middle", 8 << 20).unwrap();
    file.set_len(64 << 20).unwrap();
    let image = bed.import("disk", Source::Disk(&path, Platform::default())).unwrap();
    let ImageSource::Disk(disk) = &image.source else { panic!("{image:?}") };
    assert_eq!(disk.format, weft_model::DiskFormat::Raw);
    assert!(fs::read(&disk.path).unwrap() == fs::read(&path).unwrap());
    assert!(image.size.bytes() < 1 << 20, "{}", image.size);
}

#[test]
fn a_kernel_may_have_a_disk_beside_it() {
    let bed = Bed::new();
    let (kernel, root) = (bed.file("k", &kernel_bytes()), bed.file("r", &[7; 8192]));
    let source = Source::Kernel { kernel: &kernel, initrd: None, cmdline: Some("root=/dev/vda"), disk: Some(&root) };
    let image = bed.import("both", source).unwrap();
    assert_eq!(fs::read(&image.source.disk().unwrap().path).unwrap(), [7; 8192]);
}

#[test]
fn adopted_files_move_and_come_back_where_they_cannot() {
    let bed = Bed::new();
    fs::create_dir(&bed.catalog.dir).unwrap();
    let disk = bed.file("d", &[7; 8192]);
    bed.catalog.adopt(&label("one"), Source::Disk(&disk, Platform::default()), "pulled").unwrap();
    assert!(!disk.exists());
    assert_eq!(bed.images()[0].origin, "pulled");
    let again = bed.file("d", &[7; 8192]);
    bed.catalog.adopt(&label("one"), Source::Disk(&again, Platform::default()), "pulled").unwrap_err();
    assert!(again.exists());
    // Taken by another one between the check and the end.
    let draft = bed.catalog.draft().unwrap();
    let source = ImageSource::Disk(ImageDisk {
        path: DISK.into(),
        format: weft_model::DiskFormat::Raw,
        arch: Arch::X86,
        firmware: None,
    });
    let late = bed.catalog.publish(draft.dir.path(), &label("one"), source, "");
    assert!(matches!(late, Err(MachineError::ImageExists(_))));
}

#[test]
fn bad_files_are_refused_and_leave_nothing() {
    let bed = Bed::new();
    let (text, empty) = (bed.file("text", b"hello"), bed.file("empty", b""));
    let kernel = bed.file("k", &kernel_bytes());
    let chained = bed.file("q", b"QFI\xfb\0\0\0\x03");
    let boot = |kernel, initrd| Source::Kernel { kernel, initrd, cmdline: Some(""), disk: None };
    bed.refused(boot(&text, None), "it is not a kernel for x86-64, aarch64 or riscv64");
    bed.refused(boot(&kernel, Some(&empty)), "it is empty");
    bed.refused(boot(Path::new("/nowhere/k"), None), "`/nowhere/k` does not exist");
    bed.refused(Source::Disk(&empty, Platform::default()), "it is empty");
    bed.refused(Source::Disk(&text, Platform::default()), "it is too short for a disk");
    bed.refused(Source::Disk(&chained, Platform::default()), "its header is truncated");
    bed.refused(Source::Disk(bed.dir.path(), Platform::default()), "it is not a file");
}

#[test]
fn what_the_disk_has_no_room_for_is_not_begun() {
    let bed = Bed::new();
    drop(bed.catalog.draft().unwrap());
    let error = bed.catalog.check_room(u64::MAX).unwrap_err();
    assert_eq!((error.code(), bed.left().len()), ("disk-full", 0));
    bed.catalog.check_room(0).unwrap();
}

#[test]
fn a_name_is_given_once() {
    let bed = Bed::new();
    let kernel = bed.file("k", &kernel_bytes());
    let source = Source::Kernel { kernel: &kernel, initrd: None, cmdline: Some(""), disk: None };
    assert!(matches!(bed.import(MICRO, source), Err(MachineError::ImageExists(_))));
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| bed.import("one", source))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|image| image.is_ok()).count(), 1);
    assert!(made.iter().flat_map(|image| image.as_ref().err()).all(|error| error.code() == "image-exists"));
    assert_eq!(bed.left(), ["one"]);
}

#[test]
fn drafts_of_the_dead_go_and_those_of_the_living_stay() {
    let bed = Bed::new();
    let living = bed.catalog.draft().unwrap();
    let dead = bed.catalog.dir.join(".new-dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("disk"), b"half").unwrap();
    drop(bed.catalog.draft().unwrap());
    assert!(living.dir.path().exists() && !dead.exists());
    assert_eq!(bed.images(), []);
}

#[test]
fn descriptions_of_others_have_their_sentence() {
    let bed = Bed::new();
    let kernel = bed.file("k", &kernel_bytes());
    bed.import("one", Source::Kernel { kernel: &kernel, initrd: None, cmdline: Some(""), disk: None }).unwrap();
    let path = bed.catalog.dir.join("one").join(DESCRIPTION);
    let newer = fs::read_to_string(&path).unwrap().replace("\"version\": 1", "\"version\": 2");
    fs::write(&path, newer).unwrap();
    let error = bed.catalog.find(&label("one")).unwrap_err();
    assert!(error.to_string().ends_with("it has version 2, and 1 is known"), "{error}");
    let elsewhere = fs::read_to_string(&path).unwrap().replace("\"version\": 2", "\"version\": 1");
    fs::write(&path, elsewhere.replace("\"kernel\": \"kernel\"", "\"kernel\": \"../one/kernel\"")).unwrap();
    let error = bed.catalog.find(&label("one")).unwrap_err();
    assert!(error.to_string().ends_with("`../one/kernel` is no file of an image"), "{error}");
    fs::write(&path, "{").unwrap();
    bed.import("two", Source::Kernel { kernel: &kernel, initrd: None, cmdline: Some(""), disk: None }).unwrap();
    let listed = bed.catalog.list().unwrap();
    assert_eq!(listed[0].1.as_ref().unwrap_err().code(), "image-description");
    assert!(listed[1].1.is_ok());
    bed.catalog.remove(&label("one")).unwrap();
}
