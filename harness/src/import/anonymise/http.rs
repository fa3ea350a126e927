//! HTTP/1.x lines (RFC 9112): which words stay, and how long the body behind a head is.

use super::Tools;
use super::policy::Replace;
use super::text::known;

/// Methods of RFC 9110, RFC 5789 and WebDAV's most used.
pub(super) const METHODS: [&str; 14] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "MKCOL", "COPY",
    "MOVE", "REPORT",
];

/// Headers whose values are made of the protocol's own words, which stay; other words in them do not.
const PLAIN: [&str; 30] = [
    "accept",
    "accept-encoding",
    "accept-ranges",
    "age",
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "dnt",
    "expect",
    "expires",
    "if-modified-since",
    "if-unmodified-since",
    "keep-alive",
    "last-modified",
    "max-forwards",
    "pragma",
    "proxy-connection",
    "range",
    "retry-after",
    "sec-websocket-version",
    "te",
    "transfer-encoding",
    "upgrade",
    "upgrade-insecure-requests",
    "vary",
];

/// Headers whose names stay and whose values do not.
const NAMED: [&str; 36] = [
    "accept-language",
    "authorization",
    "cookie",
    "etag",
    "from",
    "host",
    "if-match",
    "if-none-match",
    "if-range",
    "location",
    "content-location",
    "content-disposition",
    "content-language",
    "link",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "referer",
    "server",
    "set-cookie",
    "trailer",
    "user-agent",
    "via",
    "warning",
    "www-authenticate",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-powered-by",
    "x-request-id",
    "x-requested-with",
    "forwarded",
    "alt-svc",
    "strict-transport-security",
    "sec-websocket-key",
    "sec-websocket-accept",
];

/// Words of the protocol: media types, codings, cache directives, dates, reason phrases.
const VOCABULARY: [&str; 140] = [
    "text",
    "html",
    "plain",
    "css",
    "javascript",
    "application",
    "json",
    "xml",
    "xhtml",
    "image",
    "png",
    "jpeg",
    "gif",
    "webp",
    "svg",
    "avif",
    "x-icon",
    "audio",
    "video",
    "font",
    "woff",
    "woff2",
    "octet-stream",
    "form-data",
    "multipart",
    "byteranges",
    "x-www-form-urlencoded",
    "pdf",
    "zip",
    "charset",
    "utf-8",
    "iso-8859-1",
    "boundary",
    "q",
    "gzip",
    "deflate",
    "br",
    "zstd",
    "compress",
    "identity",
    "chunked",
    "trailers",
    "keep-alive",
    "close",
    "upgrade",
    "h2c",
    "websocket",
    "timeout",
    "max",
    "no-cache",
    "no-store",
    "no-transform",
    "must-revalidate",
    "proxy-revalidate",
    "max-age",
    "s-maxage",
    "max-stale",
    "min-fresh",
    "only-if-cached",
    "public",
    "private",
    "immutable",
    "bytes",
    "none",
    "100-continue",
    "host",
    "origin",
    "cookie",
    "accept",
    "accept-encoding",
    "accept-language",
    "user-agent",
    "authorization",
    "get",
    "head",
    "post",
    "put",
    "delete",
    "connect",
    "options",
    "trace",
    "patch",
    "mon",
    "tue",
    "wed",
    "thu",
    "fri",
    "sat",
    "sun",
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
    "gmt",
    "basic",
    "bearer",
    "digest",
    "ok",
    "created",
    "accepted",
    "no",
    "content",
    "partial",
    "moved",
    "permanently",
    "found",
    "see",
    "other",
    "not",
    "modified",
    "temporary",
    "permanent",
    "redirect",
    "bad",
    "request",
    "unauthorized",
    "forbidden",
    "method",
    "allowed",
    "gone",
    "conflict",
    "unavailable",
    "service",
    "gateway",
    "internal",
    "error",
    "continue",
    "switching",
    "protocols",
    "entity",
    "too",
    "large",
];

/// What a head says about the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    /// `Content-Length`.
    pub length: Option<u64>,
    /// `Transfer-Encoding` ends in `chunked`, the one coding that delimits itself.
    pub chunked: bool,
    /// Lengths that contradict each other, or a transfer coding that is not understood: nobody knows where the body ends.
    pub unclear: bool,
}

/// A request or a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Request,
    Response(u16),
}

/// What the answer to a request has to be read by (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Head,
    Connect,
    Other,
}

/// A line without its end, and its length.
fn split_end(line: &[u8]) -> (&[u8], usize) {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    (text, text.len())
}

/// Rewrites the first line of a message into `out`. Nothing if it is none.
pub(super) fn start_line(line: &[u8], out: &mut [u8], tools: &mut Tools) -> Option<(Head, Option<Method>)> {
    let (text, len) = split_end(line);
    out[len..].copy_from_slice(&line[len..]);
    if let Some(rest) = text.strip_prefix(b"HTTP/1.").filter(|rest| matches!(rest, [b'0' | b'1', b' ', ..])) {
        let code = std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok().filter(|code| (100..1000).contains(code))?;
        out[..12].copy_from_slice(&text[..12]);
        tools.words.text(&text[12..], &mut out[12..len], &VOCABULARY, false, &mut tools.ids);
        return Some((Head { kind: Kind::Response(code), ..Head::default() }, None));
    }
    let target = text.iter().position(|byte| *byte == b' ')? + 1;
    let version = len.checked_sub(9).filter(|at| *at >= target)?;
    if !matches!(&text[version..], b" HTTP/1.0" | b" HTTP/1.1") || !known(&text[..target - 1], &METHODS) {
        return None;
    }
    out[..target].copy_from_slice(&text[..target]);
    out[version..len].copy_from_slice(&text[version..]);
    let method = match &text[..target - 1] {
        b"HEAD" => Method::Head,
        b"CONNECT" => Method::Connect,
        _ => Method::Other,
    };
    let (from, to) = (&text[target..version], &mut out[target..version]);
    match (method, tools.policy.http) {
        (Method::Connect, _) => tools.words.host(from, to, &mut tools.ids),
        (_, Replace::Replace) => tools.words.url(from, to, &mut tools.ids),
        (_, Replace::Keep) => keep_but_host(from, to, tools),
    }
    tools.counts.add("http_targets", 1);
    Some((Head::default(), Some(method)))
}

/// Keeps a target but for the host that it may name.
fn keep_but_host(from: &[u8], to: &mut [u8], tools: &mut Tools) {
    to.copy_from_slice(from);
    let Some(start) = from.windows(3).position(|three| three == b"://").map(|at| at + 3) else { return };
    let end = from[start..].iter().position(|byte| b"/?#".contains(byte)).map_or(from.len(), |len| start + len);
    tools.words.host(&from[start..end], &mut to[start..end], &mut tools.ids);
}

/// Rewrites a header line into `out` and notes what it says about the body. A line that is no header, a folded one
/// among them (RFC 9112 section 5.2), loses all its words.
pub(super) fn header(line: &[u8], out: &mut [u8], head: &mut Head, tools: &mut Tools) {
    let (text, len) = split_end(line);
    out[len..].copy_from_slice(&line[len..]);
    let colon = text.iter().position(|byte| *byte == b':').filter(|_| !matches!(text.first(), Some(b' ' | b'\t')));
    let Some(colon) = colon else {
        head.unclear |= !text.is_empty();
        return tools.words.text(text, &mut out[..len], &[], false, &mut tools.ids);
    };
    let (name, value) = (text[..colon].to_ascii_lowercase(), &text[colon + 1..]);
    let name = String::from_utf8_lossy(&name);
    let name = name.trim_end();
    note(name, value, head);
    let plain = PLAIN.contains(&name);
    let named = plain || NAMED.contains(&name) || name.starts_with("sec-fetch-");
    let verbatim = tools.policy.keep_headers.iter().any(|kept| kept == name);
    if named || verbatim || tools.policy.http == Replace::Keep {
        out[..colon].copy_from_slice(&text[..colon]);
    } else {
        tools.words.word(&text[..colon], &mut out[..colon]);
    }
    out[colon] = b':';
    let skip = value.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let start = colon + 1 + skip;
    out[colon + 1..start].copy_from_slice(&text[colon + 1..start]);
    let (from, to) = (&text[start..], &mut out[start..len]);
    match name {
        _ if verbatim => return to.copy_from_slice(from),
        "host" => tools.words.host(from, to, &mut tools.ids),
        _ if tools.policy.http == Replace::Keep => return to.copy_from_slice(from),
        "origin" | "referer" | "location" | "content-location" => tools.words.url(from, to, &mut tools.ids),
        _ if plain => tools.words.text(from, to, &VOCABULARY, true, &mut tools.ids),
        "authorization" | "proxy-authorization" | "www-authenticate" | "proxy-authenticate" => {
            tools.words.text(from, to, &["basic", "bearer", "digest", "realm"], false, &mut tools.ids);
        }
        _ => tools.words.text(from, to, &[], false, &mut tools.ids),
    }
    if to != from {
        tools.counts.add("http_headers", 1);
    }
}

fn note(name: &str, value: &[u8], head: &mut Head) {
    let value = value.trim_ascii();
    match name {
        "content-length" => {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            head.unclear |= number.is_none() || head.length.is_some_and(|before| Some(before) != number);
            head.length = number;
        }
        "transfer-encoding" => {
            head.chunked = value.to_ascii_lowercase().ends_with(b"chunked");
            head.unclear |= !head.chunked;
        }
        _ => {}
    }
}
