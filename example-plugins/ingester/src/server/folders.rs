//! Which folders are read. Talks to the server.
//!
//! Without `--folder`: where a folder holds all mail (`\All`, as Gmail's `[Gmail]/All Mail` in any language) that one; elsewhere every
//! folder but trash and junk, and but those that only show what is in others.

use super::tls::Stream;
use super::tolerant::Tolerant;
use super::{ServerError, utf7};
use imap::Session;
use imap_proto::NameAttribute;

/// Bytes of the list of all folders, about, at most.
pub(crate) const ANSWER: u64 = 16 << 20;

/// A folder that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// As the server spells it.
    pub(crate) wire: String,
    /// As people see it.
    pub(crate) name: String,
    /// Whether it holds all mail: then its name says nothing about a message.
    pub(crate) is_all: bool,
}

struct Listed {
    folder: Folder,
    is_readable: bool,
    is_left_out: bool,
}

/// The folders to read, and whether the server is Gmail's.
pub(crate) fn choose(
    session: &mut Session<Tolerant<Stream<'_>>>,
    place: &str,
    wanted: &[String],
) -> Result<(Vec<Folder>, bool), ServerError> {
    let failed = |e| ServerError::from_imap(place, "listing folders", e);
    let is_gmail = session.capabilities().map_err(failed)?.has_str("X-GM-EXT-1");
    let names = session.list(Some(""), Some("*")).map_err(failed)?;
    let listed: Vec<Listed> = names.iter().map(listed).collect();
    let readable = || listed.iter().filter(|listed| listed.is_readable);
    if wanted.is_empty() {
        let all: Vec<Folder> = readable().filter(|l| l.folder.is_all).map(|l| l.folder.clone()).collect();
        let chosen = if all.is_empty() { readable().filter(|l| !l.is_left_out).map(|l| l.folder.clone()).collect() } else { all };
        return Ok((chosen, is_gmail));
    }
    let mut chosen: Vec<Folder> = Vec::new();
    for name in wanted {
        let is_it = |l: &&Listed| {
            l.folder.name == *name || l.folder.wire == *name || (l.folder.wire == "INBOX" && name.eq_ignore_ascii_case("INBOX"))
        };
        let Some(found) = readable().find(is_it) else {
            let near = near(name, readable().map(|l| l.folder.name.as_str()));
            return Err(ServerError::NoFolder { place: place.to_owned(), folder: name.clone(), near });
        };
        if !chosen.contains(&found.folder) {
            chosen.push(found.folder.clone());
        }
    }
    Ok((chosen, is_gmail))
}

fn listed(name: &imap::types::Name<'_>) -> Listed {
    let has = |attribute: &NameAttribute<'_>| name.attributes().contains(attribute);
    let is_absent = name.attributes().iter().any(|attribute| match attribute {
        NameAttribute::NoSelect => true,
        NameAttribute::Extension(other) => other.eq_ignore_ascii_case("\\NonExistent"),
        _ => false,
    });
    let wire = name.name().to_owned();
    let folder = Folder { name: utf7::decode(&wire), wire, is_all: has(&NameAttribute::All) };
    let is_left_out = [NameAttribute::Trash, NameAttribute::Junk, NameAttribute::Flagged].iter().any(has);
    Listed { folder, is_readable: !is_absent, is_left_out }
}

/// Those that may have been meant; never all there are, for the names of folders are personal.
fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    let low = wanted.to_lowercase();
    let last = |name: &str| name.rsplit(['/', '.']).next().unwrap_or_default().to_lowercase();
    let near: Vec<String> = names
        .filter(|name| name.to_lowercase() == low || last(name) == last(wanted))
        .take(3)
        .map(|name| format!("{name:?}"))
        .collect();
    if near.is_empty() { String::new() } else { format!(", but {}", near.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_told_and_no_other() {
        let names = ["INBOX", "Clients/Berg", "[Gmail]/Sent Mail"];
        assert_eq!(near("inbox", names.into_iter()), r#", but "INBOX""#);
        assert_eq!(near("berg", names.into_iter()), r#", but "Clients/Berg""#);
        assert_eq!(near("Archive", names.into_iter()), "");
    }
}
