//! Checksums of what is pulled: given outright, or standing in a list beside it, as distributions publish them.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256, Sha512};

/// A checksum that a file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The digest in lower-case hexadecimal; its length tells the algorithm.
    hex: String,
}

impl Checksum {
    /// A SHA-256 of 64 hexadecimal digits or a SHA-512 of 128, with or without `sha256:` or `sha512:` before it.
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, hex) = match text.split_once(':') {
            Some(("sha256", hex)) => (64, hex),
            Some(("sha512", hex)) => (128, hex),
            Some(_) => return None,
            None => (text.len(), text),
        };
        let fits = hex.len() == digits && matches!(digits, 64 | 128) && hex.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self { hex: hex.to_ascii_lowercase() })
    }

    /// The checksum of the file `name` in a list such as `sha256sum` writes, with `--tag` or without.
    pub(super) fn in_list(list: &str, name: &str) -> Option<Self> {
        list.lines().find_map(|line| {
            if let Some((head, hex)) = line.rsplit_once(") = ") {
                let (algorithm, file) = head.split_once(" (")?;
                let known = matches!(algorithm, "SHA256" | "SHA512") && file == name;
                return if known { Self::parse(hex.trim()) } else { None };
            }
            let (hex, file) = line.split_once(char::is_whitespace)?;
            let file = file.trim_start().trim_start_matches(['*']);
            let file = file.strip_prefix("./").unwrap_or(file).trim_end();
            if file == name { Self::parse(hex) } else { None }
        })
    }

    /// Whether it is the one of what was hashed; if not, that one.
    pub(super) fn check(&self, hashed: Hashed) -> Result<(), String> {
        let found = match self.hex.len() {
            64 => hashed.sha256(),
            _ => hashed.sha512(),
        };
        if found == self.hex { Ok(()) } else { Err(found) }
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.hex)
    }
}

/// Both digests of some bytes.
#[derive(Clone, Default)]
pub(super) struct Hashed {
    sha256: Sha256,
    /// Only where it is asked for: it takes its time.
    sha512: Option<Sha512>,
}

impl Hashed {
    pub(super) fn for_checking(checksum: Option<&Checksum>) -> Self {
        let long = checksum.is_some_and(|checksum| checksum.hex.len() == 128);
        Self { sha256: Sha256::new(), sha512: long.then(Sha512::new) }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.sha512 {
            Some(sha512) => sha512.update(bytes),
            None => self.sha256.update(bytes),
        }
    }

    /// What to call it: the algorithm and the digest.
    pub(super) fn named(&self) -> String {
        match self.sha512 {
            Some(_) => format!("SHA-512 {}", self.clone().sha512()),
            None => format!("SHA-256 {}", self.clone().sha256()),
        }
    }

    fn sha256(self) -> String {
        hex(&self.sha256.finalize())
    }

    fn sha512(self) -> String {
        hex(&self.sha512.unwrap_or_default().finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_length_tells_the_algorithm() {
        let mut hashed = Hashed::for_checking(None);
        hashed.update(b"abc");
        assert_eq!(hashed.named(), format!("SHA-256 {SHA256}"));
        Checksum::parse(&SHA256.to_uppercase()).unwrap().check(hashed.clone()).unwrap();
        Checksum::parse(&format!("sha256:{SHA256}")).unwrap().check(hashed).unwrap();
        let long = Checksum::parse(&"0".repeat(128)).unwrap();
        let mut hashed = Hashed::for_checking(Some(&long));
        hashed.update(b"abc");
        // FIPS 180-2, appendix C.1.
        assert!(long.check(hashed).unwrap_err().starts_with("ddaf35a193617abacc417349ae204131"));
        for bad in ["", "abc", "md5:abc", &SHA256[1..], &format!("sha512:{SHA256}"), &format!("{}g", &SHA256[1..])] {
            assert_eq!(Checksum::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn lists_are_read_as_their_programs_write_them() {
        let expected = Checksum::parse(SHA256);
        for line in [
            format!("{SHA256}  disk.qcow2"),
            format!("{SHA256} *disk.qcow2\r"),
            format!("{SHA256}  ./disk.qcow2"),
            format!("SHA256 (disk.qcow2) = {SHA256}"),
        ] {
            let list = format!("# comment\n{}  other\n{line}\n", "1".repeat(64));
            assert_eq!(Checksum::in_list(&list, "disk.qcow2"), expected, "{line}");
            assert_eq!(Checksum::in_list(&list, "disk"), None);
        }
        assert_eq!(Checksum::in_list("MD5 (disk) = 00\n00 disk\n", "disk"), None);
    }
}
