//! The terminal that we run on: raw while something else has its say, and restored whatever happens.

use std::io::{self, IsTerminal as _};

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether stdin is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether stdout is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether stderr is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// The terminal's rows and columns; the classic ones where there is no terminal.
pub(crate) fn size() -> (u16, u16) {
    let found = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin()));
    found.ok().filter(|size| size.ws_row > 0 && size.ws_col > 0).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Raw mode, until dropped.
#[derive(Debug)]
pub(crate) struct Raw(Option<Termios>);

impl Raw {
    /// Makes stdin's terminal raw; does nothing where stdin is none.
    pub(crate) fn enter() -> io::Result<Self> {
        if !stdin_is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(Some(before)))
    }

    /// The terminal as it is.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Whether there is a terminal that is raw now.
    pub(crate) fn is_active(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}
