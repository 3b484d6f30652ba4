//! Mirrors and captures: who gets copies, and how many were lost.

use weft_model::view::MirrorView;

use crate::output::Style;
use crate::table::Table;

/// Mirrors and captures, a line each below an empty one; nothing where there are none.
pub(crate) fn table(mirrors: &[MirrorView]) -> String {
    if mirrors.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["MIRROR", "TO", "COPIES", "LOST", "FROM"]);
    for mirror in mirrors {
        let to = mirror.to.clone().unwrap_or_else(|| "its reader".to_owned());
        let lost = if mirror.lost > 0 { Style::Warning.paint(mirror.lost) } else { mirror.lost.to_string() };
        table.row([mirror.name.clone(), to, mirror.copies.to_string(), lost, mirror.provenance.to_string()]);
    }
    format!("\n{}", table.render())
}
