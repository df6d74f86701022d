//! Conversion of Gmail's labels and Maildir flags to JMAP mailboxes and keywords.
//!
//! | Gmail's label | becomes |
//! | --- | --- |
//! | Inbox, Sent, Draft(s), Trash, Spam, Archived | mailbox `inbox`, `sent`, `drafts`, `trash`, `junk`, `archive` |
//! | Opened, Starred, Important, Draft(s), Spam | keyword `$seen`, `$flagged`, `$important`, `$draft`, `$junk` |
//! | Sent, without Unread | keyword `$seen` |
//! | Unread | no `$seen` |
//! | any other | mailbox `label_<label>`, or `label64_<base64url>` if JMAP ids cannot contain a character |
//!
//! Over IMAP the folder is a label too: INBOX and Junk become the mailboxes `inbox` and `junk`, and user-defined flags that start with
//! `$` (RFC 5788: `$Forwarded`) become keywords.
//!
//! | the API's label | becomes |
//! | --- | --- |
//! | INBOX, SENT, DRAFT, TRASH, SPAM | as above |
//! | STARRED, IMPORTANT | as above |
//! | CHAT, CATEGORY_…, `Label_…` (created by a user; its name is not in the message) | mailbox `label_…` |
//! | none of UNREAD | keyword `$seen` |
//!
//! Takeout writes labels in the language of the account. Only the English names of system labels are recognized; others become
//! ordinary labels. A message without a mailbox is in `archive`, because JMAP requires one.

use crate::gmail::Labels;
use crate::key::Key;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::BTreeMap;

type Set = BTreeMap<String, bool>;

/// Returns `mailboxIds` and `keywords`.
pub(super) fn of(labels: &Labels, flags: Option<&str>) -> (Set, Set) {
    let (mut mailboxes, mut keywords) = (Set::new(), Set::new());
    let labels: Vec<&str> = match labels {
        Labels::Takeout(labels) => labels.iter().map(String::as_str).collect(),
        Labels::Api(labels) => {
            add(&mut keywords, "$seen");
            labels.iter().map(|label| takeouts_name(label)).collect()
        }
    };
    for &label in &labels {
        match label {
            "Inbox" | "INBOX" => add(&mut mailboxes, "inbox"),
            "Trash" => add(&mut mailboxes, "trash"),
            "Archived" => add(&mut mailboxes, "archive"),
            "Sent" => {
                add(&mut mailboxes, "sent");
                add(&mut keywords, "$seen");
            }
            "Draft" | "Drafts" => {
                add(&mut mailboxes, "drafts");
                add(&mut keywords, "$draft");
            }
            "Spam" | "Junk" => {
                add(&mut mailboxes, "junk");
                add(&mut keywords, "$junk");
            }
            "Opened" => add(&mut keywords, "$seen"),
            "Starred" => add(&mut keywords, "$flagged"),
            "Important" => add(&mut keywords, "$important"),
            "Unread" => {}
            flag if is_keyword(flag) => add(&mut keywords, &flag.to_ascii_lowercase()),
            other => add(&mut mailboxes, &label_id(other)),
        }
    }
    if labels.contains(&"Unread") {
        keywords.remove("$seen");
    }
    for flag in flags.unwrap_or_default().chars() {
        match flag {
            'S' => add(&mut keywords, "$seen"),
            'R' => add(&mut keywords, "$answered"),
            'F' => add(&mut keywords, "$flagged"),
            'D' => add(&mut keywords, "$draft"),
            'P' => add(&mut keywords, "$forwarded"),
            'T' => add(&mut mailboxes, "trash"),
            _ => {}
        }
    }
    if mailboxes.is_empty() {
        add(&mut mailboxes, "archive");
    }
    (mailboxes, keywords)
}

fn takeouts_name(api: &str) -> &str {
    match api {
        "INBOX" => "Inbox",
        "SENT" => "Sent",
        "DRAFT" => "Draft",
        "TRASH" => "Trash",
        "SPAM" => "Spam",
        "STARRED" => "Starred",
        "IMPORTANT" => "Important",
        "UNREAD" => "Unread",
        other => other,
    }
}

fn is_keyword(flag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    flag.len() <= 255 && flag.strip_prefix('$').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(word))
}

fn add(set: &mut Set, name: &str) {
    set.insert(name.to_owned(), true);
}

/// JMAP ids consist of `A-Z a-z 0-9 - _` and have at most 255 bytes.
fn label_id(label: &str) -> String {
    let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let id = if plain { format!("label_{label}") } else { format!("label64_{}", URL_SAFE_NO_PAD.encode(label)) };
    if id.len() <= 255 { id } else { format!("labelx_{}", Key::of(label.as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(labels: &[&str], flags: Option<&str>, made: fn(Vec<String>) -> Labels) -> (String, String) {
        let (mailboxes, keywords) = of(&made(labels.iter().map(|&label| label.to_owned()).collect()), flags);
        let join = |set: Set| set.into_keys().collect::<Vec<_>>().join(" ");
        (join(mailboxes), join(keywords))
    }

    #[test]
    fn labels_and_flags() {
        for (labels, flags, mailboxes, keywords) in [
            (&["Inbox", "Opened", "Starred"][..], None, "inbox", "$flagged $seen"),
            (&["Inbox", "Unread", "Important"], None, "inbox", "$important"),
            (&["Sent"], None, "sent", "$seen"),
            (&["Opened", "Unread"], None, "archive", ""),
            (&["Draft", "Work-2_x"], None, "drafts label_Work-2_x", "$draft"),
            (&["Spam"], None, "junk", "$junk"),
            (&["INBOX", "$Forwarded", "NonJunk"], Some("S"), "inbox label_NonJunk", "$forwarded $seen"),
            (&["$", "$a b"], None, "label64_JA label64_JGEgYg", ""),
            (&["Category Updates", "Bücher"], None, "label64_Q2F0ZWdvcnkgVXBkYXRlcw label64_QsO8Y2hlcg", ""),
            (&[], Some("RST"), "trash", "$answered $seen"),
            (&[], Some("DFPx"), "archive", "$draft $flagged $forwarded"),
            (&[], None, "archive", ""),
        ] {
            assert_eq!(
                names(labels, flags, Labels::Takeout),
                (mailboxes.to_owned(), keywords.to_owned()),
                "{labels:?} {flags:?}"
            );
        }
    }

    #[test]
    fn labels_of_the_api() {
        for (labels, mailboxes, keywords) in [
            (&["INBOX", "UNREAD", "IMPORTANT"][..], "inbox", "$important"),
            (&["INBOX", "STARRED", "Label_12"], "inbox label_Label_12", "$flagged $seen"),
            (&["SENT"], "sent", "$seen"),
            (&["DRAFT", "UNREAD"], "drafts", "$draft"),
            (&["TRASH", "SPAM", "CATEGORY_UPDATES"], "junk label_CATEGORY_UPDATES trash", "$junk $seen"),
            (&[], "archive", "$seen"),
        ] {
            assert_eq!(names(labels, None, Labels::Api), (mailboxes.to_owned(), keywords.to_owned()), "{labels:?}");
        }
    }

    #[test]
    fn ids_are_valid_and_unique() {
        let long = "ä".repeat(200);
        let ids: std::collections::HashSet<String> = ["a", "A", "a b", "a/b", "", "ä", "label64_YQ", &long, &"a".repeat(300)]
            .iter()
            .map(|label| label_id(label))
            .collect();
        assert_eq!(ids.len(), 9);
        assert!(ids.iter().all(|id| id.len() <= 255 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))));
    }
}
