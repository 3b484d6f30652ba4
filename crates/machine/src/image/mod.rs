//! Images.
use std::path::PathBuf;
use weft_types::ByteSize;
use crate::MachineError;
/// A built image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
}
/// A step of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process builds it; waiting.
    Waiting,
    /// The lists of packages are being refreshed.
    Refreshing,
    /// A package is being downloaded.
    Downloading(String),
    /// A package is being unpacked.
    Unpacking(String),
    /// The initial RAM disk is being written.
    Writing,
    /// Done.
    Done,
}
impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another build"),
            Self::Refreshing => f.write_str("refreshing the lists of packages"),
            Self::Downloading(package) => write!(f, "downloading {package}"),
            Self::Unpacking(package) => write!(f, "unpacking {package}"),
            Self::Writing => f.write_str("writing the initial RAM disk"),
            Self::Done => f.write_str("done"),
        }
    }
}
/// An image in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name.
    pub name: String,
    /// What it is made of, like `linux 6.1.0-44-cloud-amd64`.
    pub detail: String,
    /// Its size on disk.
    pub size: ByteSize,
    /// Where it lies.
    pub path: PathBuf,
}
/// The cache.
#[derive(Clone, Debug)]
pub struct Images {
    #[expect(dead_code, reason = "for minutes")]
    cache_dir: PathBuf,
}
impl Images {
    /// The images in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self { Self { cache_dir: cache_dir.into() } }
    /// The image, built if need be.
    pub fn ensure(&self, _name: &str, _progress: &dyn Fn(Progress)) -> Result<Built, MachineError> { todo!() }
    /// What is in the cache.
    pub fn list(&self) -> Result<Vec<ImageInfo>, MachineError> { todo!() }
    /// Removes.
    pub fn remove(&self, _name: &str) -> Result<(), MachineError> { todo!() }
}
