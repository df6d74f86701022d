//! Selection of text bodies, HTML bodies and attachments: the algorithm of RFC 8621, section 4.1.4, step by step. (mail-parser
//! 0.11 provides such lists too, but differs: an inline image is both body and attachment.)

use super::EmailBodyPart;

/// The three lists, which borrow the parts.
#[derive(Debug, Default)]
pub(super) struct BodyLists<'a> {
    pub(super) text: Vec<&'a EmailBodyPart>,
    pub(super) html: Vec<&'a EmailBodyPart>,
    pub(super) attachments: Vec<&'a EmailBodyPart>,
}

/// The context of a part.
#[derive(Clone, Copy)]
struct Place<'t> {
    /// Type of the directly enclosing multipart.
    multipart: &'t str,
    in_alternative: bool,
}

impl<'a> BodyLists<'a> {
    pub(super) fn of(structure: &'a EmailBodyPart) -> Self {
        let mut lists = Self::default();
        lists.add(std::slice::from_ref(structure), Place { multipart: "mixed", in_alternative: false }, true, true);
        lists
    }

    /// `text` and `html`: whether the list still accepts parts; the RFC's null is false.
    fn add(&mut self, parts: &'a [EmailBodyPart], place: Place<'_>, mut text: bool, mut html: bool) {
        let (text_before, html_before) = (self.text.len(), self.html.len());
        for (i, part) in parts.iter().enumerate() {
            if let Some(sub_parts) = &part.sub_parts {
                let multipart = part.media_type.split_once('/').map_or("", |(_, kind)| kind);
                let in_alternative = place.in_alternative || multipart == "alternative";
                self.add(sub_parts, Place { multipart, in_alternative }, text, html);
            } else if !is_inline(part, i, place.multipart) {
                self.attachments.push(part);
            } else if place.multipart == "alternative" {
                match part.media_type.as_str() {
                    "text/plain" if text => self.text.push(part),
                    "text/html" if html => self.html.push(part),
                    _ => self.attachments.push(part),
                }
            } else {
                if place.in_alternative {
                    match part.media_type.as_str() {
                        "text/plain" => html = false,
                        "text/html" => text = false,
                        _ => {}
                    }
                }
                if text {
                    self.text.push(part);
                }
                if html {
                    self.html.push(part);
                }
                if !(text && html) && is_inline_media(part) {
                    self.attachments.push(part);
                }
            }
        }
        if place.multipart == "alternative" && text && html {
            // Only one kind was found: show it in place of the other.
            if self.text.len() == text_before {
                self.text.extend_from_slice(&self.html[html_before..]);
            } else if self.html.len() == html_before {
                self.html.extend_from_slice(&self.text[text_before..]);
            }
        }
    }
}

fn is_inline(part: &EmailBodyPart, position: usize, multipart: &str) -> bool {
    part.disposition.as_deref() != Some("attachment")
        && (matches!(part.media_type.as_str(), "text/plain" | "text/html") || is_inline_media(part))
        // Not the first part of a multipart/related, so it belongs to the first. Text with a file name is an attachment.
        && (position == 0 || (multipart != "related" && (is_inline_media(part) || part.name.is_none())))
}

fn is_inline_media(part: &EmailBodyPart) -> bool {
    ["image/", "audio/", "video/"].iter().any(|kind| part.media_type.starts_with(kind))
}
