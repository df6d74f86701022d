//! Selection of folders.
//!
//! Without `--folder`, this is the folder with all mail if there is one (`\All`, such as Gmail's `[Gmail]/All Mail` in any
//! language). Otherwise it is every folder except trash, junk, and virtual folders that show messages of others.

use super::tls::Stream;
use super::tolerant::{Losses, Tolerant};
use super::{ServerError, utf7};
use imap::Session;
use imap_proto::NameAttribute;

/// Approximate maximum size of the folder list, in bytes.
pub(crate) const MAX_LIST_SIZE: u64 = 16 << 20;

/// A folder to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// The name as spelled by the server.
    pub(crate) wire: String,
    /// The decoded name.
    pub(crate) name: String,
    /// Whether this is the folder with all mail, whose name is not a label.
    pub(crate) is_all: bool,
}

struct Listed {
    folder: Folder,
    is_readable: bool,
    is_excluded_by_default: bool,
}

/// The folders to read.
pub(crate) struct Chosen {
    pub(crate) folders: Vec<Folder>,
    pub(crate) is_gmail: bool,
    /// Lines of the server's list in which no folder was found.
    pub(crate) unreadable: Vec<String>,
}

/// Lists the folders and returns those to read.
pub(crate) fn choose(
    session: &mut Session<Tolerant<Stream<'_>>>,
    losses: &Losses,
    place: &str,
    wanted: &[String],
) -> Result<Chosen, ServerError> {
    let failed = |e| ServerError::from_imap(place, "listing folders", e);
    let is_gmail = session.capabilities().map_err(failed)?.has_str("X-GM-EXT-1");
    let names = session.list(Some(""), Some("*")).map_err(failed)?;
    let listed: Vec<Listed> = names.iter().map(listed).collect();
    let unreadable = losses.take().folders;
    let readable = || listed.iter().filter(|listed| listed.is_readable);
    if wanted.is_empty() {
        let all: Vec<Folder> = readable().filter(|l| l.folder.is_all).map(|l| l.folder.clone()).collect();
        let chosen = if all.is_empty() {
            readable().filter(|l| !l.is_excluded_by_default).map(|l| l.folder.clone()).collect()
        } else {
            all
        };
        return Ok(Chosen { folders: chosen, is_gmail, unreadable });
    }
    let mut chosen: Vec<Folder> = Vec::new();
    for name in wanted {
        let is_it = |l: &&Listed| {
            l.folder.name == *name || l.folder.wire == *name || (l.folder.wire == "INBOX" && name.eq_ignore_ascii_case("INBOX"))
        };
        let Some(found) = readable().find(is_it) else {
            let mut near = near(name, readable().map(|l| l.folder.name.as_str()));
            if !unreadable.is_empty() {
                near = format!("{near} ({} lines of its list could not be parsed)", unreadable.len());
            }
            return Err(ServerError::NoFolder { place: place.to_owned(), folder: name.clone(), near });
        };
        if !chosen.contains(&found.folder) {
            chosen.push(found.folder.clone());
        }
    }
    Ok(Chosen { folders: chosen, is_gmail, unreadable })
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
    let is_excluded_by_default = [NameAttribute::Trash, NameAttribute::Junk, NameAttribute::Flagged].iter().any(has);
    Listed { folder, is_readable: !is_absent, is_excluded_by_default }
}

/// Returns similar folder names for an error message. Never all of them, because folder names are personal data.
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
    fn only_similar_names_are_suggested() {
        let names = ["INBOX", "Clients/Berg", "[Gmail]/Sent Mail"];
        assert_eq!(near("inbox", names.into_iter()), r#", but "INBOX""#);
        assert_eq!(near("berg", names.into_iter()), r#", but "Clients/Berg""#);
        assert_eq!(near("Archive", names.into_iter()), "");
    }
}
