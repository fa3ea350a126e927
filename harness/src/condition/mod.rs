//! Conditions over an observation: `drops["TCP_CSUM"] > 0 and not tls`.
//!
//! ```text
//! condition  = all ("or" all)*                 all = one ("and" one)*                one = "not" one | comparison
//! comparison = operand [("==" | "!=" | "<" | "<=" | ">" | ">=" | "contains") operand]
//! operand    = number | "text" | true | false | null | "len" "(" operand ")" | "(" condition ")" | path
//! path       = name ("." name | "." number | "[" number | "text" | condition "]")*
//! ```
//!
//! Names are those of the JSON document of a run (`bpflab replay --json`). In brackets, a number is a position, a text
//! selects the rows that have a member of that value (`drops["TCP_CSUM"]`) or the entry of a table (`malformed["land"]`),
//! and a condition selects the rows for which it holds, by their own names (`flows[proto == "udp" and packets > 10]`).
//!
//! As a number, a list counts its packets where its rows have `packets` as a number, else its rows; a table of numbers is
//! their sum (`tcp.connections[0].retransmissions` over both directions), and what is not there is 0. As a truth, a number
//! is whether it is not 0, and a list or text whether it is not empty.

mod check;
mod eval;
mod lex;
mod parse;
mod shape;

use serde_json::Value;

use crate::observation::Observation;
use shape::Shape;

/// A condition that cannot be understood, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    text: String,
    at: std::ops::Range<usize>,
    message: String,
}

impl std::error::Error for Complaint {}

impl std::fmt::Display for Complaint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = self.text[..self.at.start].chars().count();
        let under = self.text[self.at.clone()].chars().count().max(1);
        write!(
            out,
            "cannot understand the condition: {}\n  {}\n  {}{}",
            self.message,
            self.text,
            " ".repeat(before),
            "^".repeat(under)
        )
    }
}

/// A place in a condition and what is wrong there.
type Wrong = (std::ops::Range<usize>, String);

/// Longest text of a condition, bytes: a longer one is a mistake, and deep enough to be a danger.
const LONGEST: usize = 4096;

/// A condition over what a run has seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    root: parse::Node,
}

impl Condition {
    /// Reads a condition and holds its names against those of an observation.
    ///
    /// # Errors
    /// [`Complaint`] with the place: a syntax error, an unknown name, a comparison of things that cannot be compared.
    pub fn parse(text: &str) -> Result<Self, Complaint> {
        Self::parse_for(text, &shape::of::<Observation>())
    }

    fn parse_for(text: &str, shape: &Shape) -> Result<Self, Complaint> {
        if text.len() > LONGEST {
            let start = text[..text.floor_char_boundary(40)].to_owned();
            let message = format!("it has {} bytes; the most are {LONGEST}", text.len());
            return Err(Complaint { at: start.len()..start.len(), text: start, message });
        }
        let complain = |(at, message): Wrong| Complaint { text: text.to_owned(), at, message };
        let tokens = lex::tokens(text).map_err(complain)?;
        let root = parse::parse(&tokens, text.len()).map_err(complain)?;
        check::check(&root, shape).map_err(complain)?;
        Ok(Self { text: text.to_owned(), root })
    }

    /// Whether it holds for an observation as JSON.
    #[must_use]
    pub fn holds(&self, observation: &Value) -> bool {
        eval::holds(&self.root, observation)
    }

    /// Its text, as given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// If it is `differs("A", "B")` and nothing else, the names of the two kernels.
    #[must_use]
    pub fn differing_kernels(&self) -> Option<[&str; 2]> {
        match &self.root.what {
            parse::What::Differs(names) => Some([names[0].as_str(), names[1].as_str()]),
            _ => None,
        }
    }
}

impl<'de> serde::Deserialize<'de> for Condition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
