//! From text to words.

use std::ops::Range;

use super::Wrong;

/// One word of a condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    Number(f64),
    Sign(&'static str),
}

/// Longest first, so that `<=` is not `<` and something else.
const SIGNS: [&str; 14] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ".", ",", "-", "="];

/// The words with their places.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, Wrong> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, len) = if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        } else if first == '"' || first == '\'' {
            quoted(rest, first).ok_or_else(|| (at..text.len(), "the text that begins here has no end".to_owned()))?
        } else if first.is_ascii_digit() {
            number(rest).ok_or_else(|| (at..at + 1, "this is not a number".to_owned()))?
        } else if first.is_alphabetic() || first == '_' {
            let len = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            (Token::Name(rest[..len].to_owned()), len)
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (Token::Sign(sign), sign.len())
        } else {
            return Err((at..at + first.len_utf8(), format!("`{first}` has no meaning here")));
        };
        tokens.push((token, at..at + len));
        at += len;
    }
    Ok(tokens)
}

/// A text up to the same quote; a backslash takes the next character as it is.
fn quoted(rest: &str, quote: char) -> Option<(Token, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => text.push(chars.next()?.1),
            c if c == quote => return Some((Token::Text(text), at + 1)),
            c => text.push(c),
        }
    }
    None
}

/// Digits, with a fraction if a digit follows the dot: `tcp.handshakes.0.rtt_us` has a position and no fraction.
fn number(rest: &str) -> Option<(Token, usize)> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let mut len = digits(rest);
    if let Some(fraction) = rest[len..].strip_prefix('.')
        && fraction.starts_with(|c: char| c.is_ascii_digit())
    {
        len += 1 + digits(fraction);
    }
    rest[..len].parse().ok().map(|number| (Token::Number(number), len))
}
