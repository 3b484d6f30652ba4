use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use super::*;

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// An archive of these files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut child = Process::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip is everywhere");
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || io::Write::write_all(&mut stdin, &bytes).unwrap());
    child.stdout.take().unwrap().read_to_end(&mut packed).unwrap();
    writer.join().unwrap();
    child.wait().unwrap();
    packed
}

struct Bed {
    dir: tempfile::TempDir,
    tree: Tree,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let contents = dir.path().join("contents");
        std::fs::create_dir(&contents).unwrap();
        Self { tree: Tree::new(contents), dir }
    }

    fn lay(&mut self, archive: &[u8]) -> io::Result<Option<Command>> {
        let path: PathBuf = self.dir.path().join("archive");
        std::fs::write(&path, archive).unwrap();
        lay(&mut File::open(path).unwrap(), &mut self.tree, &|_| {})
    }

    fn text(&self, path: &str) -> Option<String> {
        self.tree.contents(path).map(|path| std::fs::read_to_string(path).unwrap())
    }
}

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin","A=it's"],"Entrypoint":["/run me"],"Cmd":["-v"],"WorkingDir":"/srv","User":"www:www"}}"#;

/// Where the index is among the files of the layout.
const INDEX: usize = 5;

/// An OCI layout with two layers, of which the first is packed.
fn layout(change: impl Fn(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    let first = gzip(&tar(&[("a", b"1"), ("b", b"2")]));
    let second = tar(&[("a", b"3"), (".wh.b", b"")]);
    let config = CONFIG.replace("amd64", ARCHITECTURE).into_bytes();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"sha256:{}"}},"layers":[{{"digest":"sha256:{}"}},{{"digest":"sha256:{}"}}]}}"#,
        hex(&config),
        hex(&first),
        hex(&second)
    );
    let inner = format!(
        r#"{{"manifests":[{{"digest":"sha256:{}","platform":{{"architecture":"vax","os":"linux"}}}},{{"digest":"sha256:{}","platform":{{"architecture":"{ARCHITECTURE}","os":"linux"}}}}]}}"#,
        "0".repeat(64),
        hex(manifest.as_bytes())
    );
    let outer = format!(r#"{{"manifests":[{{"digest":"sha256:{}"}}]}}"#, hex(inner.as_bytes()));
    let blobs = [first, second, config, manifest.into_bytes(), inner.into_bytes()];
    let mut files: Vec<_> = blobs.into_iter().map(|blob| (format!("blobs/sha256/{}", hex(&blob)), blob)).collect();
    files.push(("index.json".to_owned(), outer.into_bytes()));
    change(&mut files);
    tar(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
}

#[test]
fn a_layout_becomes_its_layers_and_its_command() {
    let mut bed = Bed::new();
    let command = bed.lay(&layout(|_| {})).unwrap().unwrap();
    assert_eq!((bed.text("a").as_deref(), bed.text("b")), (Some("3"), None));
    assert_eq!(command.words, ["/run me", "-v"]);
    let script = command.script();
    for line in ["export A='it'\\''s'", "cd '/srv'", "-c 'www:www' -x /usr/lib/weft/bin/env -- '/run me' '-v'"] {
        assert!(script.contains(line), "{line} is not in {script}");
    }
}

#[test]
fn what_docker_saves_is_read() {
    let layer = tar(&[("a", b"1")]);
    let manifest = br#"[{"Config":"c.json","RepoTags":["x:latest"],"Layers":["l/layer.tar"]}]"#;
    let config = CONFIG.replace("amd64", ARCHITECTURE);
    let mut bed = Bed::new();
    let saved = tar(&[("manifest.json", manifest), ("c.json", config.as_bytes()), ("l/layer.tar", &layer)]);
    bed.lay(&saved).unwrap().unwrap();
    assert_eq!(bed.text("a").as_deref(), Some("1"));
    let two = br#"[{"Config":"c.json","Layers":[]},{"Config":"c.json","Layers":[]}]"#;
    let error = bed.lay(&tar(&[("manifest.json", two)])).unwrap_err();
    assert!(error.to_string().contains("it has 2 images"), "{error}");
}

#[test]
fn a_plain_archive_is_laid_as_it_is() {
    let mut bed = Bed::new();
    assert_eq!(bed.lay(&tar(&[("etc/a", b"1"), ("etc/.wh.b", b"2")])).unwrap(), None);
    assert_eq!((bed.text("etc/a").as_deref(), bed.text("etc/.wh.b").as_deref()), (Some("1"), Some("2")));
}

#[test]
fn what_is_damaged_or_for_others_is_refused() {
    let refused = |archive: &[u8], expected: &str| {
        let error = Bed::new().lay(archive).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&layout(|files| files[1].1[600] ^= 1), "has another digest than its name says");
    refused(&layout(|files| drop(files.remove(0))), "is missing in it");
    refused(&layout(|files| files[INDEX].1 = b"{}".to_vec()), "no image for linux/");
    refused(&layout(|files| files[INDEX].1 = b"[".to_vec()), "`index.json` in it");
    let bad = br#"{"manifests":[{"digest":"sha256:../../etc/passwd"}]}"#;
    refused(&layout(|files| files[INDEX].1 = bad.to_vec()), "is no digest");
    let mut cut = tar(&[("a", &[7; 100_000])]);
    cut.truncate(cut.len() / 2);
    refused(&cut, "");
    let config = CONFIG.replace("amd64", "vax");
    let manifest = br#"[{"Config":"c.json","Layers":[]}]"#;
    refused(&tar(&[("manifest.json", manifest), ("c.json", config.as_bytes())]), "it is for vax");
    refused(b"no archive at all, and rather short", "");
}

#[test]
fn an_index_that_names_itself_ends() {
    // A digest in a name is held against what is there, so that only chance could make a circle.
    let digest = "1".repeat(64);
    let text = format!(r#"{{"manifests":[{{"digest":"sha256:{digest}"}}]}}"#);
    let circle = tar(&[("index.json", text.as_bytes()), (&format!("blobs/sha256/{digest}"), text.as_bytes())]);
    let error = Bed::new().lay(&circle).unwrap_err().to_string();
    assert!(error.contains("another digest"), "{error}");
}
