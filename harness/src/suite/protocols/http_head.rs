//! The head of an HTTP/1.x message: its first line and the fields that say where its body ends.

use super::printable;

/// What follows a head (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// This many bytes.
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// Everything up to the end of the connection.
    UntilClose,
}

/// The fields that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// `Host`.
    pub host: Option<String>,
    /// `Content-Length`, all lines joined by commas.
    length: Option<Vec<u8>>,
    /// `Transfer-Encoding`, all lines joined by commas.
    coding: Option<Vec<u8>>,
}

/// The head of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Target as sent, made printable.
    pub target: String,
    /// `1.0`, `1.1`; empty if the line was cut before it.
    pub version: String,
    /// Header fields.
    pub fields: Fields,
}

/// The head of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// `1.0`, `1.1`.
    pub version: String,
    /// Status code, 100 to 999.
    pub status: u16,
    /// Header fields.
    pub fields: Fields,
}

/// Whether the text ends with an empty line. A line may end with LF alone (RFC 9112 section 2.2).
#[must_use]
pub fn is_whole(text: &[u8]) -> bool {
    text.ends_with(b"\n\r\n") || text.ends_with(b"\n\n")
}

/// The first line, without its end.
#[must_use]
pub fn first_line(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end()
}

/// The size on a chunk's line, its extensions left out (RFC 9112 section 7.1).
#[must_use]
pub fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let text = std::str::from_utf8(digits).ok()?;
    (text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(())?;
    u64::from_str_radix(text, 16).ok()
}

impl Request {
    /// Reads a whole head; nothing if its first line is no request line.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        Some(Self { fields: Fields::parse(head), ..Self::line(first_line(head))? })
    }

    /// Reads a request line (RFC 9112 section 3): method, target and version with a space between.
    #[must_use]
    pub fn line(line: &[u8]) -> Option<Self> {
        let (method, rest) = split_once(line, b' ')?;
        let space = rest.iter().rposition(|&byte| byte == b' ')?;
        let (target, version) = (rest.get(..space)?.trim_ascii(), rest.get(space + 1..)?);
        let fits = is_token(method) && !target.is_empty();
        fits.then(|| {
            Some(Self {
                method: printable(method),
                target: printable(target),
                version: version_of(version)?,
                fields: Fields::default(),
            })
        })?
    }

    /// Reads as much of a head as there is. A request line that is itself cut counts if a method and the beginning of a
    /// path or an `http` URL are there.
    #[must_use]
    pub fn parse_cut(text: &[u8]) -> Option<Self> {
        if text.contains(&b'\n') {
            let whole_lines = text.iter().rposition(|&byte| byte == b'\n').and_then(|end| text.get(..=end))?;
            return Self::parse(whole_lines);
        }
        let (method, target) = split_once(text, b' ')?;
        let target = target.split(|&byte| byte == b' ').next()?;
        let path = target.starts_with(b"/") || target.starts_with(b"http://") || target.starts_with(b"https://");
        (is_token(method) && path).then(|| Self {
            method: printable(method),
            target: printable(target),
            ..Self::default()
        })
    }
}

impl Response {
    /// Reads a whole head; nothing if its first line is no status line.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        Some(Self { fields: Fields::parse(head), ..Self::line(first_line(head))? })
    }

    /// Reads a status line (RFC 9112 section 4): version and three digits, perhaps a reason.
    #[must_use]
    pub fn line(line: &[u8]) -> Option<Self> {
        let (version, rest) = split_once(line, b' ')?;
        let (code, after) = rest.split_at_checked(3)?;
        let fits = code.iter().all(u8::is_ascii_digit) && matches!(after.first(), None | Some(b' '));
        let status = std::str::from_utf8(code).ok()?.parse().ok().filter(|&status| fits && status >= 100)?;
        Some(Self { version: version_of(version)?, status, fields: Fields::default() })
    }

    /// Reads as much of a head as there is, if its first line is whole.
    #[must_use]
    pub fn parse_cut(text: &[u8]) -> Option<Self> {
        text.contains(&b'\n').then(|| Self::line(first_line(text)))?
    }
}

impl Fields {
    fn parse(head: &[u8]) -> Self {
        let (mut host, mut length, mut coding) = (None, None, None);
        let mut field: Option<&mut Option<Vec<u8>>> = None;
        for line in head.split(|&byte| byte == b'\n').skip(1) {
            if let (Some(b' ' | b'\t'), Some(value)) = (line.first(), field.as_deref_mut().and_then(Option::as_mut)) {
                // A folded line continues the one before (RFC 9112 section 5.2).
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
                continue;
            }
            let Some((name, value)) = split_once(line, b':') else { continue };
            field = match name.trim_ascii() {
                name if name.eq_ignore_ascii_case(b"host") => Some(&mut host),
                name if name.eq_ignore_ascii_case(b"content-length") => Some(&mut length),
                name if name.eq_ignore_ascii_case(b"transfer-encoding") => Some(&mut coding),
                _ => None,
            };
            match field.as_deref_mut() {
                Some(Some(present)) => {
                    present.push(b',');
                    present.extend_from_slice(value.trim_ascii());
                }
                Some(absent) => *absent = Some(value.trim_ascii().to_vec()),
                None => {}
            }
        }
        let host = host.map(|host| printable(&host)).filter(|host| !host.is_empty());
        Self { host, length, coding }
    }

    /// Where a request's body ends (RFC 9112 section 6.3, rules 4 to 7).
    ///
    /// # Errors
    /// What makes that impossible to say.
    pub fn request_body(&self) -> Result<Body, String> {
        match (self.chunked(), self.content_length()?) {
            (Some(true), _) => Ok(Body::Chunked),
            (Some(false), _) => Err("a transfer coding that does not end with chunked".to_owned()),
            (None, length) => Ok(Body::Length(length.unwrap_or(0))),
        }
    }

    /// Where a response's body ends, if it may have one (RFC 9112 section 6.3, rules 4, 5, 6 and 8).
    ///
    /// # Errors
    /// As [`Fields::request_body`].
    pub fn response_body(&self) -> Result<Body, String> {
        match self.chunked() {
            Some(true) => Ok(Body::Chunked),
            Some(false) => Ok(Body::UntilClose),
            None => Ok(self.content_length()?.map_or(Body::UntilClose, Body::Length)),
        }
    }

    /// Whether the last transfer coding is chunked, if there is one.
    fn chunked(&self) -> Option<bool> {
        let codings = self.coding.as_deref()?;
        let last = codings.rsplit(|&byte| byte == b',').next().unwrap_or_default();
        Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"))
    }

    /// The length, which may be repeated (RFC 9112 section 6.3 rule 5); a transfer coding overrides it.
    fn content_length(&self) -> Result<Option<u64>, String> {
        let Some(text) = self.length.as_deref().filter(|_| self.coding.is_none()) else { return Ok(None) };
        let mut lengths = text.split(|&byte| byte == b',').map(|length| {
            let digits = std::str::from_utf8(length.trim_ascii()).unwrap_or_default();
            // `parse` would take a plus sign.
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
        });
        let first = lengths.next().flatten();
        match first {
            Some(length) if lengths.all(|other| other == first) => Ok(Some(length)),
            _ => Err(format!("Content-Length {}", printable(text))),
        }
    }
}

fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|&byte| byte == at)?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

/// `1.0` of `HTTP/1.0`.
fn version_of(text: &[u8]) -> Option<String> {
    match text.strip_prefix(b"HTTP/1.")? {
        [digit @ b'0'..=b'9'] => Some(format!("1.{}", char::from(*digit))),
        _ => None,
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let in_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.len() <= 32 && text.iter().all(in_token)
}
