//! MIME parsing: a tree of [`Part`]s that borrow the bytes of the message. [`header`] parses the fields, [`content`] decodes a
//! leaf. mail-parser parses all values and encodings.
//!
//! The tree is built here and not by mail-parser. Its version 0.11 nests messages without a limit: a mail of 1.5 MB with
//! 50,000 levels overflows the stack and aborts the process, which `catch_unwind` cannot prevent. (Version 1.0 has limits, but
//! needs a newer rustc than this workspace.) JMAP also needs less: a nested message is a leaf. Here depth, number of parts and
//! header size are limited; a message beyond a limit is refused as a whole.

use content::Content;
use header::{Headers, MediaType};

pub(crate) mod content;
pub(crate) mod header;

/// Maximum nesting of multiparts. serde_json can still read the resulting JSON within its limit of 128 levels.
pub(crate) const MAX_DEPTH: usize = 60;
/// Maximum number of parts of a message.
pub(crate) const MAX_PARTS: usize = 10_000;
/// Maximum size of a header, in bytes. Mail servers refuse half of that.
pub(crate) const MAX_HEADER: usize = 1 << 20;

/// A part of a message, or the message itself.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) headers: Headers<'a>,
    pub(crate) media_type: MediaType,
    pub(crate) body: Body<'a>,
}

/// The content of a part.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    /// Encoded content.
    Leaf(Content<'a>),
    /// Parts of a multipart.
    Parts(Vec<Part<'a>>),
    /// Content that is not available: its size and its name.
    Elsewhere { size: usize, blob_id: String },
}

/// Resources used while parsing a message.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    parts: usize,
}

/// Why a message is refused. The names are those of the `set_aside` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A header is larger than [`MAX_HEADER`] bytes.
    HeaderTooLarge,
    /// Nested deeper than [`MAX_DEPTH`].
    NestedTooDeep,
    /// More than [`MAX_PARTS`] parts.
    TooManyParts,
}

impl Refusal {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::HeaderTooLarge => "header_too_large",
            Self::NestedTooDeep => "nested_too_deep",
            Self::TooManyParts => "too_many_parts",
        }
    }
}

impl Limits {
    /// Counts a part.
    pub(crate) fn enter(&mut self) -> Result<(), Refusal> {
        self.parts += 1;
        if self.parts > MAX_PARTS { Err(Refusal::TooManyParts) } else { Ok(()) }
    }

    /// Checks the depth before a multipart is parsed.
    pub(crate) fn descend(depth: usize) -> Result<(), Refusal> {
        if depth == MAX_DEPTH { Err(Refusal::NestedTooDeep) } else { Ok(()) }
    }
}

impl<'a> Part<'a> {
    /// Parses a message, starting at its first field (see [`package_support::header`]). Any bytes are a valid message: without
    /// a header everything is text, a multipart without a boundary is text, and a truncated multipart ends where the bytes
    /// end.
    pub(crate) fn parse(raw: &'a [u8]) -> Result<Self, Refusal> {
        let raw = &raw[package_support::header::start(raw)..];
        part(raw, &MediaType::text_plain(), 0, &mut Limits::default())
    }
}

fn part<'a>(bytes: &'a [u8], default: &MediaType, depth: usize, limits: &mut Limits) -> Result<Part<'a>, Refusal> {
    limits.enter()?;
    let (headers, body) = Headers::split(bytes)?;
    let media_type = headers.media_type("Content-Type").unwrap_or_else(|| default.clone());
    if media_type.is_multipart()
        && let Some(boundary) = media_type.parameter("boundary")
        && let Some(slices) = split(body, boundary.as_bytes())
    {
        Limits::descend(depth)?;
        let default = if media_type.is("multipart/digest") { MediaType::of("message/rfc822") } else { MediaType::text_plain() };
        let children = slices.into_iter().map(|slice| part(slice, &default, depth + 1, limits)).collect::<Result<_, _>>()?;
        return Ok(Part { headers, media_type, body: Body::Parts(children) });
    }
    let (media_type, readable) = if media_type.is_multipart() { (MediaType::text_plain(), false) } else { (media_type, true) };
    let content = Content::new(body, headers.text("Content-Transfer-Encoding").as_deref(), readable);
    Ok(Part { headers, media_type, body: Body::Leaf(content) })
}

/// Splits a multipart at its delimiter lines; `None` if there is no delimiter. The line break before a delimiter belongs to it
/// (RFC 2046, section 5.1.1).
fn split<'a>(body: &'a [u8], boundary: &[u8]) -> Option<Vec<&'a [u8]>> {
    let mut slices = Vec::new();
    let mut start = None;
    let mut offset = 0;
    let ends = memchr::memchr_iter(b'\n', body).map(|at| at + 1);
    for end in ends.chain(Some(body.len())) {
        if let Some(delimiter) = delimiter(&body[offset..end], boundary) {
            if let Some(start) = start.take() {
                slices.push(without_line_end(&body[start..offset]));
            }
            if delimiter == Delimiter::Close {
                return Some(slices).filter(|slices| !slices.is_empty());
            }
            start = Some(end);
        }
        offset = end;
    }
    // Truncated: what remains is the last part.
    slices.push(&body[start?..]);
    Some(slices)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Delimiter {
    Open,
    Close,
}

fn delimiter(line: &[u8], boundary: &[u8]) -> Option<Delimiter> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    let (delimiter, rest) = match rest.strip_prefix(b"--") {
        Some(rest) => (Delimiter::Close, rest),
        None => (Delimiter::Open, rest),
    };
    (rest.trim_ascii().is_empty()).then_some(delimiter)
}

fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests;
