use serde::{Deserialize, Serialize};

/// What of DHCPv6 (RFC 8415) a network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dhcp6 {
    /// Machines make their addresses themselves, and can ask for the rest.
    Stateless,
    /// They can ask for addresses too.
    Stateful,
}

impl Dhcp6 {
    /// Every kind, in the words that people know.
    pub const WORDS: &[(&str, Self)] = &[("stateless", Self::Stateless), ("stateful", Self::Stateful)];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Stateful => "stateful",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_for_one_thing() {
        for (word, kind) in Dhcp6::WORDS {
            assert_eq!(kind.as_str(), *word);
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{word}\""));
        }
    }
}
