//! A console's log, from its file: the last lines, and what is added to them.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::Problem;
use crate::message::LogQuery;
use crate::pipe::pipe;

/// How much is read at once, in bytes.
const PIECE_BYTES: u64 = 64 << 10;
/// How often it is looked for more.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Sends the log in `path`.
pub(crate) async fn stream(path: PathBuf, query: LogQuery) -> Result<Response, Problem> {
    let mut reader = blocking(move || Reader::open(path, query.lines)).await.map_err(Problem::internal)?;
    let (pieces, body) = pipe();
    tokio::spawn(async move {
        loop {
            let read = blocking(move || {
                let piece = reader.next(query.follow)?;
                Ok((reader, piece))
            });
            // An end here, also by a file that went with its machine, is the log's end.
            let Ok((same, piece)) = read.await else { return };
            reader = same;
            match piece {
                Some(piece) if piece.is_empty() => tokio::select! {
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                    () = pieces.closed() => return,
                },
                Some(piece) => {
                    if pieces.send(piece).await.is_err() {
                        return;
                    }
                }
                None => return,
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Reads a file that grows, is emptied when it is too long, and is replaced when its machine starts again.
struct Reader {
    path: PathBuf,
    file: File,
    offset: u64,
}

impl Reader {
    /// Begins with the last `lines` lines, or with the first.
    fn open(path: PathBuf, lines: Option<usize>) -> io::Result<Self> {
        let file = File::open(&path)?;
        let offset = lines.map_or(Ok(0), |lines| offset_of_last(&file, lines))?;
        Ok(Self { path, file, offset })
    }

    /// The next piece; empty if there is nothing more now, `None` at the end of what is not followed.
    fn next(&mut self, follow: bool) -> io::Result<Option<Bytes>> {
        let length = self.file.metadata()?.len();
        if length < self.offset {
            self.offset = 0;
        }
        let piece = read_at(&self.file, self.offset, PIECE_BYTES)?;
        self.offset += piece.len() as u64;
        if piece.is_empty() {
            match follow {
                false => return Ok(None),
                true => self.reopen_if_replaced()?,
            }
        }
        Ok(Some(piece.into()))
    }

    fn reopen_if_replaced(&mut self) -> io::Result<()> {
        if inode(&self.path)? != self.file.metadata()?.ino() {
            self.file = File::open(&self.path)?;
            self.offset = 0;
        }
        Ok(())
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(path.metadata()?.ino())
}

fn read_at(mut file: &File, offset: u64, limit: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut piece = Vec::new();
    file.take(limit).read_to_end(&mut piece)?;
    Ok(piece)
}

/// Where the last `lines` lines begin. The last of them need not be ended.
fn offset_of_last(file: &File, lines: usize) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let (mut end, mut seen) = (length, 0);
    while end > 0 && lines > 0 {
        let start = end.saturating_sub(PIECE_BYTES);
        let piece = read_at(file, start, end - start)?;
        for (index, _) in piece.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let begin = start + index as u64 + 1;
            // The line feed at the very end ends the last line and begins no other.
            seen += usize::from(begin < length);
            if seen == lines {
                return Ok(begin);
            }
        }
        end = start;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &Path, lines: Option<usize>) -> String {
        let mut reader = Reader::open(path.to_owned(), lines).unwrap();
        let pieces: Vec<_> = std::iter::from_fn(|| reader.next(false).unwrap()).collect();
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (text, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\nc\n", 3, "a\nb\nc\n"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\n\n\n", 2, "\n\n"),
            ("a\nb\n", 0, ""),
            ("a\nb", 0, ""),
            ("", 1, ""),
            ("\n", 1, "\n"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(said(&path, Some(lines)), expected, "{lines} of {text:?}");
        }
        let long = format!("{}\n{}\n", "x".repeat(200_000), "y".repeat(100_000));
        std::fs::write(&path, &long).unwrap();
        assert_eq!(said(&path, None), long);
        assert_eq!(said(&path, Some(1)), long[200_001..]);
    }

    #[test]
    fn growth_an_emptied_file_and_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "first").unwrap();
        let mut reader = Reader::open(path.clone(), None).unwrap();
        let mut next = || reader.next(true).map(|piece| piece.map(|piece| String::from_utf8(piece.into()).unwrap()));
        let mut check = |expected: &str| {
            let pieces: Vec<_> = (0..3).map(|_| next().unwrap().unwrap()).collect();
            assert_eq!(pieces.concat(), expected);
        };
        check("first");
        check("");
        File::options().append(true).open(&path).unwrap().set_len(0).unwrap();
        std::fs::write(&path, "two").unwrap();
        check("two");
        std::fs::rename(&path, dir.path().join("log.old")).unwrap();
        std::fs::write(&path, "and the third").unwrap();
        check("and the third");
        std::fs::remove_file(&path).unwrap();
        assert!(next().is_err());
    }
}
