//! `weft image …`: what machines are made from.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_machine::{Catalog, CatalogImage, Checksum, Debian, Expected, Images, Source, Wanted, is_archive};
use weft_model::Platform;
use weft_types::Label;

use crate::args::ImageCommand;
use crate::commands::Context;
use crate::commands::scratch::Scratch;
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, human_bytes};
use crate::progress;
use crate::table::Table;

/// The image that is built into the catalogue.
const DEBIAN: &str = "debian";

pub(crate) async fn run(context: &Context, command: ImageCommand) -> Result {
    match command {
        ImageCommand::Ls => list(context).await,
        ImageCommand::Build { what, suite, include, name } => match what.as_str() {
            DEBIAN => build_debian(context, name, Debian::new(suite, include)?),
            _ if suite.is_some() || name.is_some() || !include.is_empty() => {
                let title = "--suite, --include and --name are for `weft image build debian` alone";
                Err(Failure::usage("image-options", title, format!("leave them out to build `{what}`")))
            }
            name => build(context, name).await,
        },
        ImageCommand::Import { name, disk, kernel, initrd, cmdline, platform } => {
            let platform = Platform::from(platform);
            if kernel.is_some() && platform != Platform::default() {
                let title = "--arch and --firmware are for disks that boot by themselves";
                return Err(Failure::usage("image-options", title, "leave them out: kernels tell what they are for"));
            }
            let source = match (&kernel, &disk) {
                (Some(kernel), disk) => Source::Kernel {
                    kernel,
                    initrd: initrd.as_deref(),
                    cmdline: cmdline.as_deref(),
                    disk: disk.as_deref(),
                },
                (None, Some(archive)) if is_archive(archive) => {
                    return import_archive(context, &name, archive, platform);
                }
                (None, Some(disk)) => Source::Disk(disk, platform),
                (None, None) => unreachable!("the command line has one of them"),
            };
            let files = [kernel.as_deref(), initrd.as_deref(), disk.as_deref()].into_iter().flatten();
            import(context, &name, source, &files.map(shown).collect::<Vec<_>>().join(", "))
        }
        ImageCommand::Pull { url, name, checksum, platform } => {
            pull(context, &url, name, checksum.as_deref(), platform.into())
        }
        ImageCommand::Rm { name } => {
            let mut link = Link::open(&context.paths).await?;
            link.ask(async |client| client.remove_image(&name).await).await?;
            output::say(format!("the image `{name}` is removed"));
            Ok(())
        }
    }
}

async fn list(context: &Context) -> Result {
    let images = match Link::to_running(&context.paths).await {
        None if context.is_dormant() => {
            let scratch = Scratch::open(&context.paths)?;
            scratch.controller.images().map_err(|problem| Failure::Problems(vec![problem]))?
        }
        link => {
            let mut link = match link {
                Some(link) => link,
                None => Link::open(&context.paths).await?,
            };
            link.ask(async |client| client.images().await).await?
        }
    };
    if context.json {
        return output::json(&images);
    }
    let mut table = Table::new(&["IMAGE", "READY", "SIZE", "USED BY", "WHAT", "FROM"]);
    for image in &images {
        table.row([
            image.name.clone(),
            if image.built { "yes" } else { "no" }.to_owned(),
            image.size.map(|size| human_bytes(size.bytes())).unwrap_or_default(),
            output::list(&image.used_by),
            output::printable(&image.description),
            output::printable(&image.origin),
        ]);
    }
    output::data(&table.render())
}

async fn build(context: &Context, name: &str) -> Result {
    let mut link = Link::open(&context.paths).await?;
    let operation = link.ask(async |client| client.build_image(name).await).await?;
    let course = progress::watch(&mut link, operation, &format!("weft image rm {name}")).await?.succeeded()?;
    match context.json {
        true => output::json(&course.operation),
        false => {
            output::say(format!("the image `{name}` is built"));
            Ok(())
        }
    }
}

fn import(context: &Context, name: &Label, source: Source<'_>, files: &str) -> Result {
    let catalog = catalog(context)?;
    let mut course = Course::new(format!("copying {files}"));
    let made = catalog.import(name, source, &format!("imported from {files}"), &mut |done, total| {
        course.tell(done, Some(total));
    });
    course.clear();
    made_known(context, &made?)
}

fn import_archive(context: &Context, name: &Label, archive: &Path, platform: Platform) -> Result {
    let origin = format!("imported from {}", shown(archive));
    let (catalog, images) = (catalog(context)?, Images::new(&context.paths.cache));
    let made = Steps::show(|steps| catalog.import_archive(&images, name, archive, platform, &origin, steps));
    made_known(context, &made?)
}

fn build_debian(context: &Context, name: Option<Label>, debian: Debian) -> Result {
    let name = name.unwrap_or_else(|| DEBIAN.parse().expect("`debian` is a label"));
    let (catalog, images) = (catalog(context)?, Images::new(&context.paths.cache));
    let made = Steps::show(|steps| catalog.build_debian(&images, &name, &debian, steps));
    made_known(context, &made?)
}

fn pull(context: &Context, url: &str, name: Option<Label>, checksum: Option<&str>, platform: Platform) -> Result {
    let name = match name {
        Some(name) => name,
        None => named_after(url).ok_or_else(|| {
            let title = format!("no name for an image can be made from {url}");
            Failure::usage("image-name", title, "give it one: --name NAME")
        })?,
    };
    let expected = checksum.map(|text| match Checksum::parse(text) {
        Some(sum) => Ok(Expected::Sum(sum)),
        None if text.contains("://") => Ok(Expected::List(text.to_owned())),
        None => {
            let title = format!("`{text}` is no checksum");
            Err(Failure::usage(
                "checksum",
                title,
                "give a SHA-256 (64 hexadecimal digits), a SHA-512 (128), or the address of a list",
            ))
        }
    });
    let expected = expected.transpose()?;
    let (catalog, images) = (catalog(context)?, Images::new(&context.paths.cache));
    let mut course = Course::new(format!("pulling {url}"));
    let pulled = Steps::show(|steps| {
        let mut tell = |done, total| course.tell(done, total);
        let wanted = Wanted { url, expected: expected.as_ref(), platform };
        catalog.pull(&images, &name, wanted, &mut tell, steps)
    });
    let (image, sum) = pulled?;
    match expected {
        Some(_) => output::say(format!("its checksum is right: {sum}")),
        None => output::say(format!("nobody has said what its checksum should be; it is: {sum}")),
    }
    made_known(context, &image)
}

/// The catalogue of this home, which is made if need be.
fn catalog(context: &Context) -> Result<Catalog> {
    context.paths.create()?;
    Ok(Catalog::new(context.paths.images()))
}

fn made_known(context: &Context, image: &CatalogImage) -> Result {
    if context.json {
        return output::json(&serde_json::json!({
            "name": image.name, "source": image.source, "origin": image.origin, "size": image.size,
        }));
    }
    output::say(format!("the image `{0}` is there; use it in a file with: image = \"{0}\"", image.name));
    Ok(())
}

/// The name of an image that is made from what is at `url`: the file's up to its first dot.
fn named_after(url: &str) -> Option<Label> {
    let file = url.split(['?', '#']).next()?.rsplit('/').next()?;
    let stem = file.split('.').next()?.to_ascii_lowercase().replace('_', "-");
    stem.parse().ok()
}

/// A path as it means the same from everywhere.
fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)).display().to_string()
}

/// What something long is at, on a terminal one line that is drawn again, and elsewhere a line for each step.
struct Steps;

impl Steps {
    fn show<T>(work: impl FnOnce(&dyn Fn(String)) -> T) -> T {
        let (began, live) = (Instant::now(), std::io::stderr().is_terminal());
        let done = work(&|step| {
            let line = format!("{:>7.2} s  {}", began.elapsed().as_secs_f64(), output::printable(&step));
            if live { progress::draw(&line) } else { output::say(line) }
        });
        if live {
            progress::clear();
        }
        done
    }
}

/// How far something long is, on a terminal one line that is drawn again.
struct Course {
    what: String,
    began: Instant,
    drawn: Option<Instant>,
    live: bool,
}

impl Course {
    fn new(what: String) -> Self {
        let live = std::io::stderr().is_terminal();
        if !live {
            output::say(&what);
        }
        Self { what, began: Instant::now(), drawn: None, live }
    }

    fn tell(&mut self, done: u64, total: Option<u64>) {
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() > Duration::from_millis(100));
        if !(self.live && is_due) {
            return;
        }
        self.drawn = Some(Instant::now());
        let elapsed = self.began.elapsed().as_secs_f64();
        let share = match total.filter(|total| *total > 0) {
            Some(total) => format!("{} of {} ({} %)", human_bytes(done), human_bytes(total), done * 100 / total),
            None => human_bytes(done),
        };
        progress::draw(&format!("{elapsed:>7.2} s  {share}  {}", output::printable(&self.what)));
    }

    fn clear(&self) {
        if self.live {
            progress::clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_after_their_files() {
        let name = |url| named_after(url).map(|name| name.to_string());
        let debian = "https://cloud.example/bookworm/debian-12-genericcloud-amd64.qcow2";
        assert_eq!(name(debian).as_deref(), Some("debian-12-genericcloud-amd64"));
        assert_eq!(name("http://h/a/FreeBSD_14.raw?x=/y.z").as_deref(), Some("freebsd-14"));
        assert_eq!(name("http://h/"), None);
    }
}
