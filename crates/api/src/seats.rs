//! Who sits at which machine's console: a serial line has one seat.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use weft_types::VmName;

use crate::Problem;

/// The seats that are taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seats(Arc<Mutex<BTreeSet<VmName>>>);

impl Seats {
    /// Takes the seat at a machine's console until the answer is dropped.
    pub(crate) fn take(&self, vm: VmName) -> Result<Seat, Problem> {
        if self.taken().insert(vm.clone()) {
            return Ok(Seat { seats: self.clone(), vm });
        }
        let title = format!("somebody else is at the console of `{vm}`");
        let hint = format!("they leave it with Ctrl-]; `weft logs -f {vm}` shows what it prints meanwhile");
        Err(Problem::new(StatusCode::CONFLICT, "console-in-use", title, hint))
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<VmName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat that is taken.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Seats,
    vm: VmName,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.vm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_free_when_it_was_left() {
        let seats = Seats::default();
        let vm = |name: &str| name.parse::<VmName>().unwrap();
        let web = seats.take(vm("web")).expect("free");
        assert!(seats.take(vm("db")).is_ok());
        let refused = seats.take(vm("web")).expect_err("taken");
        assert_eq!((refused.status, &refused.code[..]), (409, "console-in-use"));
        drop(web);
        assert!(seats.take(vm("web")).is_ok());
    }
}
