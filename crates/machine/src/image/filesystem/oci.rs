//! Container images in one file: an OCI layout (OCI image specification 1.1) or what `docker save` writes, both as tar
//! archives; and plain archives of a root file system.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::tree::Tree;
use crate::image::packed;

/// The longest of an image's own descriptions, in bytes.
const MAX_JSON_BYTES: u64 = 4 << 20;
/// The most layers, and the deepest nesting of indexes.
const MAX_LAYERS: usize = 512;
const MAX_DEPTH: usize = 4;

/// What a container of an image runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// The program and its arguments.
    pub(super) words: Vec<String>,
    env: Vec<String>,
    folder: String,
    user: String,
}

impl Command {
    /// A script that runs it.
    pub(super) fn script(&self) -> String {
        let mut text = "#!/usr/lib/weft/busybox sh\n# What a container of this image runs.\n".to_owned();
        for (key, value) in self.env.iter().filter_map(|line| line.split_once('=')) {
            if key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !key.starts_with(|c: char| c.is_ascii_digit())
            {
                let _ = writeln!(text, "export {key}={}", quoted(value));
            }
        }
        let _ = writeln!(text, "export PATH=\"${{PATH:-/usr/sbin:/usr/bin:/sbin:/bin}}:/usr/lib/weft/bin\"");
        if !self.folder.is_empty() {
            let _ = writeln!(text, "cd {}", quoted(&self.folder));
        }
        let words: Vec<_> = self.words.iter().map(|word| quoted(word)).collect();
        let words = words.join(" ");
        let _ = match self.user.as_str() {
            "" | "0" | "root" | "0:0" | "root:root" => writeln!(text, "exec {words}"),
            user => writeln!(
                text,
                "exec start-stop-daemon -S -p /run/weft-run.pid -c {} -x /usr/lib/weft/bin/env -- {words}",
                quoted(user)
            ),
        };
        text
    }
}

/// A word of a shell's.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The manifests and configurations, as far as they matter.
#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    /// Of an index.
    #[serde(default)]
    manifests: Vec<Descriptor>,
    /// Of an image.
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// An entry of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Configuration {
    architecture: Option<String>,
    config: Option<Running>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Running {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

/// Lays what is in an archive into a tree; what a container of it would run, if it says so. `progress` hears each step.
///
/// # Errors
/// When it is no such archive, is damaged, or is for another architecture.
pub(super) fn lay(archive: &mut File, tree: &mut Tree, progress: &dyn Fn(String)) -> io::Result<Option<Command>> {
    let parts = index(archive)?;
    let image = Image { archive, parts: &parts };
    let (config, layers) = if parts.contains_key("index.json") {
        image.oci("index.json", None, 0)?
    } else if parts.contains_key("manifest.json") {
        let saved: Vec<Saved> = image.json("manifest.json")?;
        let [saved] = <[Saved; 1]>::try_from(saved).map_err(|all| {
            io::Error::other(format!("it has {} images, and one is wanted: save that alone", all.len()))
        })?;
        (saved.config, saved.layers)
    } else {
        progress("reading the archive".to_owned());
        image.archive.rewind()?;
        tree.lay(image.archive, false)?;
        return Ok(None);
    };
    if layers.len() > MAX_LAYERS {
        return Err(io::Error::other(format!("it has more than {MAX_LAYERS} layers")));
    }
    let config: Configuration = image.json(&config)?;
    if config.architecture.as_deref().is_some_and(|architecture| architecture != ARCHITECTURE) {
        let other = config.architecture.unwrap_or_default();
        return Err(io::Error::other(format!("it is for {other}, and this host is {ARCHITECTURE}")));
    }
    for (number, layer) in layers.iter().enumerate() {
        progress(format!("layer {} of {}", number + 1, layers.len()));
        image.layer(layer, tree)?;
    }
    let running = config.config.unwrap_or_default();
    let words = [running.entrypoint, running.cmd].into_iter().flatten().flatten().collect();
    Ok(Some(Command {
        words,
        env: running.env.unwrap_or_default(),
        folder: running.working_dir.unwrap_or_default(),
        user: running.user.unwrap_or_default(),
    }))
}

/// What this host's architecture is called.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Where in an archive a file is, and how long.
type Parts = BTreeMap<String, (u64, u64)>;

fn index(archive: &mut File) -> io::Result<Parts> {
    archive.rewind()?;
    let mut parts = Parts::new();
    let mut links = Vec::new();
    let mut reader = tar::Archive::new(&*archive);
    for entry in reader.entries_with_seek()? {
        let entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            parts.insert(name, (entry.raw_file_position(), entry.size()));
        } else if let (true, Some(target)) = (kind.is_symlink(), entry.link_name_bytes()) {
            // Docker writes a layer that occurs twice as a link from `ID/layer.tar` to `../ID/layer.tar`.
            links.push((name, String::from_utf8_lossy(&target).trim_start_matches("../").to_owned()));
        }
    }
    for (name, target) in links {
        if let Some(part) = parts.get(&target).copied() {
            parts.insert(name, part);
        }
    }
    Ok(parts)
}

struct Image<'a> {
    archive: &'a mut File,
    parts: &'a Parts,
}

impl Image<'_> {
    fn part(&self, name: &str) -> io::Result<io::Take<&File>> {
        let (at, length) =
            self.parts.get(name).ok_or_else(|| io::Error::other(format!("`{name}` is missing in it")))?;
        let mut file = &*self.archive;
        file.seek(SeekFrom::Start(*at))?;
        Ok(file.take(*length))
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, name: &str) -> io::Result<T> {
        let mut text = Vec::new();
        self.part(name)?.take(MAX_JSON_BYTES).read_to_end(&mut text)?;
        self.check(name, &text)?;
        serde_json::from_slice(&text).map_err(|error| io::Error::other(format!("`{name}` in it: {error}")))
    }

    /// What is named after its own digest must have it.
    fn check(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let Some(expected) = name.strip_prefix("blobs/sha256/") else { return Ok(()) };
        same_digest(name, expected, Sha256::new().chain_update(bytes))
    }

    /// The configuration and the layers of the image for this host, from an index on.
    fn oci(&self, name: &str, platform: Option<&Platform>, depth: usize) -> io::Result<(String, Vec<String>)> {
        let manifest: Manifest = self.json(name)?;
        if let Some(config) = manifest.config {
            let layers = manifest.layers.iter().map(|layer| blob(&layer.digest)).collect::<io::Result<_>>()?;
            return Ok((blob(&config.digest)?, layers));
        }
        let fits = |it: &&Descriptor| {
            it.platform.as_ref().or(platform).is_none_or(|it| it.architecture == ARCHITECTURE && it.os == "linux")
        };
        match manifest.manifests.iter().find(fits) {
            Some(next) if depth < MAX_DEPTH => self.oci(&blob(&next.digest)?, next.platform.as_ref(), depth + 1),
            Some(_) => Err(io::Error::other("its indexes are nested too deep")),
            None => Err(io::Error::other(format!("it has no image for linux/{ARCHITECTURE}"))),
        }
    }

    fn layer(&self, name: &str, tree: &mut Tree) -> io::Result<()> {
        let mut reader = Hashing { inner: self.part(name)?, hash: Sha256::new() };
        let mut magic = [0; 4];
        let length = self.part(name)?.read(&mut magic)?;
        // The part is sought again: both readers share the file's position.
        reader.inner = self.part(name)?;
        match packed::program(&magic[..length]) {
            None => tree.lay(&mut reader, true)?,
            Some(program) => packed::unpack(program, &mut reader, |layer| tree.lay(layer, true))?,
        }
        io::copy(&mut reader, &mut io::sink())?; // what follows the archive's end belongs to the digest
        match name.strip_prefix("blobs/sha256/") {
            Some(expected) => same_digest(name, expected, reader.hash),
            None => Ok(()),
        }
    }
}

fn same_digest(name: &str, expected: &str, hash: Sha256) -> io::Result<()> {
    let found = hash.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    match found == expected {
        true => Ok(()),
        false => Err(io::Error::other(format!("`{name}` in it has another digest than its name says"))),
    }
}

/// The path of what has this digest.
fn blob(digest: &str) -> io::Result<String> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(format!("blobs/sha256/{hex}")),
        _ => Err(io::Error::other(format!("`{}` in it is no digest", digest.escape_debug()))),
    }
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
