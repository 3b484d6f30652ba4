//! Reading a TOML tree without giving up: each wrong value is noted with its place, and reading goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use weft_types::Provenance;

use crate::problem::Problem;

/// Where each value stands, and what is wrong, while a file is read.
///
/// Values are known by their path, like `vm.web.nics[1].ip`.
#[derive(Default)]
pub(crate) struct Notes {
    spans: BTreeMap<String, Range<usize>>,
    problems: Vec<(Option<Range<usize>>, Problem)>,
    broken: BTreeSet<String>,
}

impl Notes {
    /// Notes a problem at the value of `path`, or at the nearest value around it that stands in the file.
    /// A path that is already known to be broken is not complained about again.
    pub(crate) fn complain(&mut self, path: &str, problem: Problem) {
        if self.broken.insert(path.to_owned()) {
            let span = self.span(path);
            self.problems.push((span, problem));
        }
    }

    /// Notes a problem at a place that is not a value's, like a key.
    pub(crate) fn complain_at(&mut self, span: Range<usize>, problem: Problem) {
        self.problems.push((Some(span), problem));
    }

    /// Whether something is wrong with the value of `path` itself.
    pub(crate) fn is_broken(&self, path: &str) -> bool {
        self.broken.contains(path)
    }

    /// Where the value of `path` stands, or the nearest one around it.
    pub(crate) fn span(&self, path: &str) -> Option<Range<usize>> {
        let mut path = path;
        loop {
            if let Some(span) = self.spans.get(path) {
                return Some(span.clone());
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    pub(crate) fn place(&mut self, path: &str, span: Range<usize>) {
        self.spans.insert(path.to_owned(), span);
    }

    pub(crate) fn into_problems(self) -> Vec<(Option<Range<usize>>, Problem)> {
        self.problems
    }
}

/// Where the lines of a file begin.
pub(crate) struct Lines {
    source: String,
    starts: Vec<usize>,
}

impl Lines {
    /// Those of `text`, which is the file `path`.
    pub(crate) fn new(text: &str, path: &Path) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { source: path.display().to_string(), starts: std::iter::once(0).chain(ends).collect() }
    }

    /// The line of a byte, as the place where something is declared.
    pub(crate) fn provenance(&self, at: usize) -> Provenance {
        let line = self.starts.partition_point(|start| *start <= at);
        Provenance::file(&self.source, u32::try_from(line).unwrap_or(u32::MAX))
    }
}

/// A table of the file. Each key that is asked for is a known key; the others are reported by [`Section::finish`].
pub(crate) struct Section<'a> {
    table: &'a DeTable<'a>,
    path: String,
    /// What the section describes, with its article: `a network`.
    what: &'static str,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(table: &'a DeTable<'a>, path: impl Into<String>, what: &'static str) -> Self {
        Self { table, path: path.into(), what, known: Vec::new() }
    }

    /// The path of a key's value.
    pub(crate) fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    /// Whether the key is there, whatever its value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A key's value as it stands.
    pub(crate) fn value(&mut self, notes: &mut Notes, key: &'static str) -> Option<&'a DeValue<'a>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        notes.place(&self.path_of(key), value.span());
        Some(value.get_ref())
    }

    pub(crate) fn string(&mut self, notes: &mut Notes, key: &'static str, example: &str) -> Option<&'a str> {
        let value = self.value(notes, key)?;
        let path = self.path_of(key);
        match value.as_str() {
            Some(text) => Some(text),
            None => wrong_type(notes, &path, value, "a text", example),
        }
    }

    /// A text that means a value of another type.
    pub(crate) fn parsed<T: FromStr>(&mut self, notes: &mut Notes, key: &'static str, example: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.string(notes, key, example)?;
        parse(notes, &self.path_of(key), text)
    }

    pub(crate) fn boolean(&mut self, notes: &mut Notes, key: &'static str) -> Option<bool> {
        let value = self.value(notes, key)?;
        let path = self.path_of(key);
        match value.as_bool() {
            Some(yes) => Some(yes),
            None => wrong_type(notes, &path, value, "true or false", "true"),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn integer(
        &mut self,
        notes: &mut Notes,
        key: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = self.value(notes, key)?;
        let path = self.path_of(key);
        let Some(number) = value.as_integer() else {
            return wrong_type(notes, &path, value, "a whole number", &range.start().to_string());
        };
        let parsed = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok();
        match parsed.filter(|n| range.contains(n)) {
            Some(n) => Some(n),
            None => {
                let hint = format!("choose {} to {}", range.start(), range.end());
                let message = format!("`{key}` cannot be {}", number.as_str());
                notes.complain(&path, Problem::new("out-of-range", message, hint));
                None
            }
        }
    }

    /// Reports each key that nobody asked for, with the nearest known one.
    pub(crate) fn finish(self, notes: &mut Notes) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let hint = match nearest(name, self.known.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("{} has the keys {}", self.what, list(&self.known)),
            };
            let message = format!("`{name}` is not a key of {}", self.what);
            notes.complain_at(key.span(), Problem::new("unknown-key", message, hint));
        }
    }
}

/// Notes that `value` is not what the path wants.
pub(crate) fn wrong_type<T>(
    notes: &mut Notes,
    path: &str,
    value: &DeValue<'_>,
    wanted: &str,
    example: &str,
) -> Option<T> {
    let key = path.rsplit('.').next().unwrap_or(path);
    let quoted = if wanted == "a text" { format!("{key} = \"{example}\"") } else { format!("{key} = {example}") };
    let message = format!("`{key}` must be {wanted}, not {}", article(value.type_str()));
    notes.complain(path, Problem::new("wrong-type", message, format!("write it like `{quoted}`")));
    None
}

/// Parses a text; what is wrong with it is noted at `path`.
pub(crate) fn parse<T: FromStr>(notes: &mut Notes, path: &str, text: &str) -> Option<T>
where
    T::Err: Display,
{
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            let message = error.to_string();
            // Addresses come from the standard library, whose errors do not name the value.
            let message = if message.contains(text) { message } else { format!("`{text}`: {message}") };
            notes.complain(path, Problem::plain("bad-value", message));
            None
        }
    }
}

/// The tables of a table, like the networks of `[network.*]`: each with its name and the place of its name.
pub(crate) fn subtables<'a>(
    notes: &mut Notes,
    root: &mut Section<'a>,
    kind: &'static str,
) -> Vec<(&'a str, Range<usize>, &'a DeTable<'a>)> {
    let Some(value) = root.value(notes, kind) else { return Vec::new() };
    let Some(table) = value.as_table() else {
        let hint = format!("name it: `[{kind}.NAME]`");
        notes.complain(kind, Problem::new("wrong-type", format!("`{kind}` must be a table of {kind}s"), hint));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (key, value) in table.iter() {
        let path = format!("{kind}.{}", key.get_ref());
        notes.place(&path, key.span());
        match value.get_ref().as_table() {
            Some(table) => found.push((&**key.get_ref(), key.span(), table)),
            None => {
                let hint = format!("write `[{path}]` and its keys below");
                let message = format!("`{path}` must be a table, not {}", article(value.get_ref().type_str()));
                notes.complain(&path, Problem::new("wrong-type", message, hint));
            }
        }
    }
    found.sort_by_key(|(_, span, _)| span.start);
    found
}

/// The items of a list, each with its path.
pub(crate) fn items<'a>(
    notes: &mut Notes,
    section: &mut Section<'a>,
    key: &'static str,
    example: &str,
) -> Vec<(String, &'a DeValue<'a>)> {
    let Some(value) = section.value(notes, key) else { return Vec::new() };
    let path = section.path_of(key);
    let Some(array) = value.as_array() else {
        wrong_type::<()>(notes, &path, value, "a list", example);
        return Vec::new();
    };
    let item = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| {
        let path = format!("{path}[{index}]");
        notes.place(&path, value.span());
        (path, value.get_ref())
    };
    array.iter().enumerate().map(item).collect()
}

/// The known word that was probably meant.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Words as a list: `` `a`, `b` and `c` ``.
pub(crate) fn list<S: AsRef<str>>(words: &[S]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [word] => format!("`{}`", word.as_ref()),
        [front @ .., last] => {
            let front: Vec<_> = front.iter().map(|word| format!("`{}`", word.as_ref())).collect();
            format!("{} and `{}`", front.join(", "), last.as_ref())
        }
    }
}

fn article(type_name: &str) -> String {
    match type_name {
        "integer" | "array" => format!("an {type_name}"),
        _ => format!("a {type_name}"),
    }
}
/// The value for which one of these words stands.
pub(crate) fn one_of<T: Copy>(notes: &mut Notes, path: &str, text: &str, words: &[(&str, T)]) -> Option<T> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let hint = match nearest(text, known.iter().copied()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("choose from {}", list(&known)),
    };
    let key = path.rsplit('.').next().unwrap_or(path);
    notes.complain(path, Problem::new("bad-value", format!("`{text}` is not a value of `{key}`"), hint));
    None
}
