//! A message taken apart: a tree of [`Part`]s that borrow its bytes. [`header`] reads the fields, [`content`] decodes a leaf.
//! Talks to mail-parser for everything that is a value or an encoding.
//!
//! The tree is walked here and not by mail-parser. Its 0.11 keeps nested messages inside one another without a limit: a mail
//! of 1.5 MB, fifty thousand levels deep, overflows the stack and ends the process, which no `catch_unwind` stops. (Its 1.0
//! has limits, and needs a newer rustc than this workspace.) JMAP wants less than it gives: a nested message is a leaf.
//! Here depth, parts and header size have limits; a message beyond them is refused as a whole.

use content::Content;
use header::{Headers, MediaType};

pub(crate) mod content;
pub(crate) mod header;

/// Multiparts inside one another, at most. The JSON of this depth is still read by serde_json with its own limit of 128.
pub(crate) const MAX_DEPTH: usize = 60;
/// Parts of a message, at most.
pub(crate) const MAX_PARTS: usize = 10_000;
/// Bytes of one header, at most; mail servers refuse half of it.
pub(crate) const MAX_HEADER: usize = 1 << 20;

/// A part of a message, or the message itself.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) headers: Headers<'a>,
    pub(crate) media_type: MediaType,
    pub(crate) body: Body<'a>,
}

/// What is in a part.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    /// Content, still encoded.
    Leaf(Content<'a>),
    /// Parts of a multipart.
    Parts(Vec<Part<'a>>),
    /// Content that is not here: so many bytes, known by this name.
    Elsewhere { size: usize, blob_id: String },
}

/// What a message has used up of what it may have.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    parts: usize,
}

/// Why a message is not taken apart. The texts are those of the `set_aside` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// More than [`MAX_HEADER`] bytes.
    HeaderTooLarge,
    /// Deeper than [`MAX_DEPTH`].
    NestedTooDeep,
    /// More than [`MAX_PARTS`].
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
    /// For each part.
    pub(crate) fn enter(&mut self) -> Result<(), Refusal> {
        self.parts += 1;
        if self.parts > MAX_PARTS { Err(Refusal::TooManyParts) } else { Ok(()) }
    }

    /// Before the parts of a multipart of this depth.
    pub(crate) fn descend(depth: usize) -> Result<(), Refusal> {
        if depth == MAX_DEPTH { Err(Refusal::NestedTooDeep) } else { Ok(()) }
    }
}

impl<'a> Part<'a> {
    /// Takes a message apart, from its first field on (see [`package_support::header`]). Any bytes are a message: without a header all is text, a multipart without its boundary is
    /// text, and one that is cut off ends where the bytes end.
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

/// The slices between the delimiter lines of a multipart; `None` if there is no delimiter. The line break before a delimiter
/// belongs to it (RFC 2046, section 5.1.1).
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
    // Cut off: what is there of the last part is the last part.
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
