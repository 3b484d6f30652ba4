use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

/// What a server has, and how it gives it away.
#[derive(Clone)]
struct Shelf {
    body: Vec<u8>,
    etag: &'static str,
    /// Whether it can go on from the middle.
    ranges: bool,
    /// After how many bytes of an answer the connection breaks, for each of the next answers.
    breaks: Vec<usize>,
    /// The requests so far: the path, the `Range` and whether `If-Range` was said.
    asked: Vec<(String, Option<u64>, bool)>,
}

/// A server on the loopback, which lives as long as the test program.
fn serve(shelf: Shelf) -> (String, Arc<Mutex<Shelf>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let shelf = Arc::new(Mutex::new(shelf));
    let shared = shelf.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &shared);
        }
    });
    (base, shelf)
}

fn answer(mut stream: TcpStream, shelf: &Mutex<Shelf>) -> io::Result<()> {
    let (mut lines, mut from, mut if_range) = (BufReader::new(stream.try_clone()?).lines(), None, None);
    let path = lines.next().unwrap()?.split(' ').nth(1).unwrap().to_owned();
    for line in lines {
        let line = line?;
        if let Some(range) = line.strip_prefix("Range: bytes=") {
            from = range.trim_end_matches('-').parse::<u64>().ok();
        } else if let Some(etag) = line.strip_prefix("If-Range: ") {
            if_range = Some(etag.to_owned());
        } else if line.is_empty() {
            break;
        }
    }
    let mut shelf = shelf.lock().unwrap();
    shelf.asked.push((path.clone(), from, if_range.is_some()));
    let same = if_range.is_none_or(|etag| etag == shelf.etag);
    let total = shelf.body.len();
    let (status, start) = match from.filter(|_| shelf.ranges && same) {
        _ if path.starts_with("/moved") => {
            return write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: /disk\r\nETag: \"no\"\r\nContent-Length: 0\r\n\r\n"
            );
        }
        _ if path.starts_with("/none") => {
            return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        Some(from) => {
            (format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1), from as usize)
        }
        None => ("200 OK".to_owned(), 0),
    };
    let length = total - start;
    let end = match shelf.breaks.is_empty() {
        true => total,
        false => (start + shelf.breaks.remove(0)).min(total),
    };
    let etag = match shelf.etag {
        "" => String::new(),
        etag => format!("ETag: {etag}\r\n"),
    };
    write!(stream, "HTTP/1.1 {status}\r\n{etag}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&shelf.body[start..end])
}

struct Bed {
    dir: tempfile::TempDir,
    catalog: Catalog,
    base: String,
    shelf: Arc<Mutex<Shelf>>,
}

/// A disk with a boot sector, of 1 MiB.
fn disk() -> Vec<u8> {
    let mut body: Vec<u8> = (0..1u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    body[510..512].copy_from_slice(&[0x55, 0xaa]);
    body
}

impl Bed {
    /// `None` where there is no `curl`.
    fn new(body: Vec<u8>) -> Option<Self> {
        if host::program("curl").is_none() {
            eprintln!("SKIPPED: curl is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(dir.path().join("images"));
        let shelf = Shelf { body, etag: "\"one\"", ranges: true, breaks: Vec::new(), asked: Vec::new() };
        let (base, shelf) = serve(shelf);
        Some(Self { dir, catalog, base, shelf })
    }

    fn pull(&self, path: &str, expected: Option<&Expected>) -> Result<CatalogImage, MachineError> {
        let url = format!("{}{path}", self.base);
        let images = Images::new(self.dir.path().join("cache"));
        self.catalog
            .pull(
                &images,
                &"web".parse().unwrap(),
                Wanted { url: &url, expected, platform: Platform::default() },
                &mut |_, _| {},
                &|_| {},
            )
            .map(|(image, _)| image)
    }

    fn change(&self, change: impl FnOnce(&mut Shelf)) {
        change(&mut self.shelf.lock().unwrap());
    }

    fn asked(&self) -> Vec<(Option<u64>, bool)> {
        self.shelf.lock().unwrap().asked.iter().map(|(_, from, if_range)| (*from, *if_range)).collect()
    }

    fn is(&self, image: &CatalogImage, body: &[u8]) {
        assert!(fs::read(&image.source.disk().unwrap().path).unwrap() == body, "other bytes");
        assert_eq!(self.left(), [".lock", "web"]);
    }

    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("images")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn sum(body: &[u8]) -> Checksum {
    let mut hashed = Hashed::for_checking(None);
    hashed.update(body);
    Checksum::parse(hashed.named().strip_prefix("SHA-256 ").unwrap()).unwrap()
}

#[test]
fn a_disk_comes_whole_and_its_checksum_is_told() {
    let Some(bed) = Bed::new(disk()) else { return };
    let image = bed.pull("/moved?x=1", None).unwrap();
    bed.is(&image, &disk());
    assert!(image.origin.ends_with(&format!("(SHA-256 {})", sum(&disk()))), "{}", image.origin);
    assert!(matches!(bed.pull("/disk", None), Err(MachineError::ImageExists(_))));
}

#[test]
fn a_broken_connection_is_gone_on_with() {
    let Some(bed) = Bed::new(disk()) else { return };
    bed.change(|shelf| shelf.breaks = vec![100_000, 0, 300_000]);
    let image = bed.pull("/disk", Some(&Expected::Sum(sum(&disk())))).unwrap();
    bed.is(&image, &disk());
    let whole = [(None, false), (Some(100_000), true), (Some(100_000), true), (Some(400_000), true)];
    assert_eq!(bed.asked(), whole);
}

#[test]
fn a_pull_that_failed_goes_on_the_next_time() {
    let Some(bed) = Bed::new(disk()) else { return };
    bed.change(|shelf| shelf.breaks = vec![5000, 0, 0, 0]);
    assert_eq!(bed.pull("/disk", None).unwrap_err().code(), "pull-failed");
    let image = bed.pull("/disk", None).unwrap();
    bed.is(&image, &disk());
    assert_eq!(bed.asked().last(), Some(&(Some(5000), true)));
}

#[test]
fn two_versions_are_never_mixed() {
    let Some(bed) = Bed::new(vec![7; 1 << 20]) else { return };
    bed.change(|shelf| shelf.breaks = vec![5000, 0, 0, 0]);
    bed.pull("/disk", None).unwrap_err();
    bed.change(|shelf| (shelf.body, shelf.etag) = (disk(), "\"two\""));
    bed.is(&bed.pull("/disk", None).unwrap(), &disk());
}

#[test]
fn without_a_version_or_ranges_it_begins_anew() {
    let Some(bed) = Bed::new(disk()) else { return };
    bed.change(|shelf| (shelf.etag, shelf.breaks) = ("", vec![5000]));
    bed.is(&bed.pull("/disk", None).unwrap(), &disk());
    assert_eq!(bed.asked(), [(None, false), (None, false)]);
    let Some(bed) = Bed::new(disk()) else { return };
    bed.change(|shelf| (shelf.ranges, shelf.breaks) = (false, vec![5000]));
    bed.is(&bed.pull("/disk", None).unwrap(), &disk());
}

#[test]
fn other_bytes_than_expected_leave_nothing() {
    let Some(bed) = Bed::new(disk()) else { return };
    let error = bed.pull("/disk", Some(&Expected::Sum(sum(b"others")))).unwrap_err();
    assert_eq!(error.code(), "checksum-mismatch");
    assert!(error.to_string().contains(&sum(&disk()).to_string()), "{error}");
    assert_eq!(bed.left(), [""; 0]);
}

#[test]
fn a_cd_needs_no_boot_sector_of_a_disk() {
    let mut cd = vec![0; 40 << 10];
    cd[0x8001..0x8006].copy_from_slice(b"CD001");
    let Some(bed) = Bed::new(cd) else { return };
    let image = bed.pull("/installer.iso", None).unwrap();
    assert_eq!(image.source.disk().map(|disk| disk.format), Some(weft_model::DiskFormat::Iso));
}

#[test]
fn what_is_no_disk_and_what_is_not_there_have_their_sentences() {
    let refused = |body: &[u8], path: &str, expected: &str| {
        let Some(bed) = Bed::new(body.to_vec()) else { return };
        let error = bed.pull(path, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        let left: Vec<_> = bed.left().into_iter().filter(|name| name != ".lock").collect();
        assert_eq!(left, [""; 0], "something stays");
    };
    refused(&[b'<'; 4096], "/page", "neither a qcow2 file nor a disk with a boot sector");
    refused(b"\x1f\x8b\x08 and no more", "/disk.gz", "cannot unpack it");
    refused(b"", "/empty", "neither a qcow2 file nor a disk");
    refused(b"", "/none", "404");
    refused(b"", "/a b", "a space or a control character");
    let Some(bed) = Bed::new(disk()) else { return };
    let images = Images::new(bed.dir.path().join("cache"));
    for url in ["ftp://127.0.0.1/disk", "-o/etc/passwd", "/etc/passwd"] {
        let error = bed
            .catalog
            .pull(
                &images,
                &"web".parse().unwrap(),
                Wanted { url, expected: None, platform: Platform::default() },
                &mut |_, _| {},
                &|_| {},
            )
            .unwrap_err();
        assert!(error.to_string().ends_with("none of http://, https:// and file:///"), "{error}");
    }
}

#[test]
fn a_packed_disk_is_unpacked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), disk()).unwrap();
    let packed = Command::new("gzip").arg("-c").arg(file.path()).output().unwrap().stdout;
    let Some(bed) = Bed::new(packed) else { return };
    bed.is(&bed.pull("/disk.raw.gz", None).unwrap(), &disk());
}

#[test]
fn the_checksum_may_stand_in_a_list() {
    let Some(bed) = Bed::new(disk()) else { return };
    let list = bed.dir.path().join("SHA256SUMS");
    fs::write(&list, format!("{}  other\n{}  disk.raw\n", sum(b"other"), sum(&disk()))).unwrap();
    let list = Expected::List(format!("file://{}", list.display()));
    let error = bed.pull("/missing.raw", Some(&list)).unwrap_err();
    assert!(error.to_string().ends_with("there is no SHA-256 or SHA-512 of `missing.raw` in it"), "{error}");
    bed.is(&bed.pull("/pool/disk.raw?today", Some(&list)).unwrap(), &disk());
}

#[test]
fn heads_of_redirections_are_passed_over() {
    let heads = "HTTP/1.1 302 Found\r\nETag: \"a\"\r\nContent-Length: 1\r\n\r\nHTTP/2 200\r\nlast-modified: Mon\r\nETag: W/\"b\"\r\ncontent-length: 9\r\n\r\n";
    let version = Version { validator: Some("Mon".to_owned()), length: Some(9) };
    assert_eq!(Version::of(heads), version);
    assert_eq!(Version::of(&heads.replace("last-", "content-encoding: gzip\r\nlast-")), Version::default());
    assert_eq!(Version::of(""), Version::default());
}
