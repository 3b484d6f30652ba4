use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an object was declared: a file and a line in it, or the command that made it.
///
/// It travels from the model through the store and the plan into the switch, so that an error or an
/// explanation can name the sentence that caused it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Provenance {
    /// The file's absolute path, or the command line.
    pub source: String,
    /// The line in the file, from 1; `None` for a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

impl Provenance {
    /// A place in a file; `line` counts from 1.
    pub fn file(path: impl Into<String>, line: u32) -> Self {
        Self { source: path.into(), line: Some(line) }
    }

    /// A command that was typed.
    pub fn command(text: impl Into<String>) -> Self {
        Self { source: text.into(), line: None }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => write!(f, "`{}`", self.source),
        }
    }
}
