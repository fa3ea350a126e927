//! Text that comes from elsewhere, made fit to be shown: consoles, reasons and names may hold anything.

use std::borrow::Cow;

use console::strip_ansi_codes;

/// `text` without ANSI sequences and without characters that move the cursor, reorder the line, or are no text in XML
/// 1.0 (§2.2: of those below U+0020 only tab, line feed and carriage return are). Line feeds stay; tabs become spaces,
/// and so do U+FFFE and U+FFFF, which XML has not either.
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    let text = strip_ansi_codes(text);
    if !text.chars().any(is_unfit) {
        return text;
    }
    Cow::Owned(
        text.chars()
            .filter_map(|letter| match letter {
                '\t' | '\u{fffe}' | '\u{ffff}' => Some(' '),
                letter if is_unfit(letter) => None,
                letter => Some(letter),
            })
            .collect(),
    )
}

fn is_unfit(letter: char) -> bool {
    letter != '\n' && letter.is_control()
        // Overrides and isolates of writing direction make a line read as something else.
        || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}

/// [`plain`], in one line.
#[must_use]
pub fn line(text: &str) -> String {
    plain(text).split('\n').map(str::trim_end).collect::<Vec<_>>().join(" ")
}

/// [`plain`], with the characters that mean something in XML and HTML replaced: fit for their text and for attributes in
/// double quotes. Line feeds are kept as they are, so in XML attributes use [`line()`] first.
#[must_use]
pub fn escape(text: &str) -> String {
    let text = plain(text);
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// `text` in at most `width` letters, with `...` where its middle was: the end tells names apart as often as the start.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(3);
    let start = kept - kept / 2;
    let head: String = text.chars().take(start).collect();
    let tail: String = text.chars().skip(count - kept / 2).collect();
    format!("{head}...{tail}")
}

/// `1 trial`, `2 trials`.
#[must_use]
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_or_breaks_xml_is_left() {
        assert_eq!(plain("a\u{1b}[31mred\u{1b}[0m\u{7}\u{0}b\r\nc\td"), "aredb\nc d");
        assert_eq!(plain("a\u{9b}2Jb\u{8}\u{7f}c"), "abc", "8-bit sequences too");
        assert_eq!(plain("user\u{202e}txt.exe\u{ffff}"), "usertxt.exe ");
        assert!(matches!(plain("as it is\n"), Cow::Borrowed(_)));
        assert_eq!(line("one\r\ntwo"), "one two");
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("</script>\"'&amp; ]]>"), "&lt;/script&gt;&quot;&#39;&amp;amp; ]]&gt;");
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefghij", 8), "abc...ij");
        assert_eq!(cut(&"é".repeat(2_000), 9), "ééé...ééé");
        assert_eq!(cut("abcdef", 2), "...");
        assert_eq!((count(1, "trial"), count(0, "kernel")), ("1 trial".to_owned(), "0 kernels".to_owned()));
    }
}
