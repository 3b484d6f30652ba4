//! Replays every corpus, and some thousand changed copies of it, through its target.

use std::env;
use std::fs;
use std::path::Path;

/// Changed copies of each file; each target sees the same ones in every run. `FUZZ_COPIES` changes it.
const COPIES: usize = 400;

#[test]
fn every_corpus_replays() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let copies = env::var("FUZZ_COPIES").map_or(COPIES, |copies| copies.parse().expect("FUZZ_COPIES is a number"));
    let wanted = env::var("FUZZ_TARGET").ok();
    for (name, target) in weft_fuzz::targets() {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let folder = corpora.join(name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("target `{name}` has no corpus in {}: {error}", folder.display()))
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "target `{name}` has an empty corpus");
        target(&[]);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for file in files {
            let seed = fs::read(&file).expect("a readable file");
            target(&seed);
            for _ in 0..copies {
                target(&random.change(&seed));
            }
        }
    }
}

#[test]
fn every_corpus_has_its_target() {
    let known: Vec<_> = weft_fuzz::targets().iter().map(|(name, _)| *name).collect();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name.as_str()), "corpus/{name} belongs to no target");
    }
}

/// Xorshift64*: repeatable, and good enough to break things.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    /// A copy with a few bytes flipped, cut, doubled or set to values that live at borders.
    fn change(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..1 + self.next() % 4 {
            let at = self.next() % (bytes.len() + 1);
            match self.next() % 5 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next() as u8),
                2 if at < bytes.len() => bytes[at] ^= 1 << (self.next() % 8),
                3 if at < bytes.len() => bytes[at] = [0x00, 0x01, 0x7f, 0x80, 0xff][self.next() % 5],
                _ => {
                    let copy: Vec<_> = bytes[at..].iter().take(self.next() % 64).copied().collect();
                    bytes.extend(copy);
                }
            }
        }
        bytes
    }
}
