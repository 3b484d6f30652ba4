//! Aligned columns.

use crate::output::Style;

/// Rows under a head. Colours in cells do not disturb the columns.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// How many of the rows are a head.
    heads: usize,
}

impl Table {
    /// A table with these names of columns.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|name| (*name).to_owned()).collect()], heads: 1 }
    }

    /// A table without a head.
    pub(crate) fn plain() -> Self {
        Self { rows: Vec::new(), heads: 0 }
    }

    /// Adds a row; what is empty shows as `-`, so that columns can be counted.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }).collect());
    }

    /// Whether there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == self.heads
    }

    /// The table as text, each line ended.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max();
        let widths: Vec<_> = (0..columns).map(|column| cell_width(column).unwrap_or(0)).collect();
        let line = |(index, row): (usize, &Vec<String>)| {
            let last = row.len().saturating_sub(1);
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &wide))| {
                let padding = if column == last { 0 } else { wide - width(cell) + 2 };
                let cell = if index < self.heads { Style::Dim.paint(cell) } else { cell.clone() };
                format!("{cell}{}", " ".repeat(padding))
            });
            cells.collect::<String>() + "\n"
        };
        self.rows.iter().enumerate().map(line).collect()
    }
}

/// How wide a cell is on the terminal.
fn width(cell: &str) -> usize {
    anstream::adapter::strip_str(cell).map(|part| part.chars().count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["NAME", "STATE", "WHY"]);
        assert!(table.is_empty());
        table.row(["web".to_owned(), Style::Good.paint("ready"), String::new()]);
        table.row(["a-long-name".to_owned(), "off".to_owned(), "it was told to".to_owned()]);
        expect_test::expect![[r#"
            NAME         STATE  WHY
            web          ready  -
            a-long-name  off    it was told to
        "#]]
        .assert_eq(&anstream::adapter::strip_str(&table.render()).to_string());
    }
}
