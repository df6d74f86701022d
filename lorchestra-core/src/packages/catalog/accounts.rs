//! Group membership according to `/etc/passwd` and `/etc/group`. Reads only those two files, and only when a group has write permission.
//!
//! Does not ask the C library, whose lookups may load modules and query the network. So this module does not see users that only a
//! directory service knows, and treats a group that only the service knows as shared.

use std::fs;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Whether the group's only members are `user` and root, with at least one of them in it. Distributions create such a group for each user;
/// `umask 002` shares nothing with it.
pub(super) fn is_own_group(group: u32, user: u32) -> bool {
    match (fs::read_to_string(PASSWD), fs::read_to_string(GROUP)) {
        (Ok(passwd), Ok(groups)) => is_own(&passwd, &groups, group, user),
        _ => false,
    }
}

/// Returns the name of a group, or its number if it has none.
pub(super) fn group_name(group: u32) -> String {
    let groups = fs::read_to_string(GROUP).unwrap_or_default();
    let found = lines(&groups).find(|fields| number(fields, 2) == Some(group)).and_then(|fields| fields.first().copied());
    found.map_or_else(|| group.to_string(), str::to_owned)
}

fn is_own(passwd: &str, groups: &str, group: u32, user: u32) -> bool {
    // An entry that includes a directory service: there are more users than the files list.
    if [passwd, groups].iter().any(|text| text.lines().any(|line| line.starts_with(['+', '-']))) {
        return false;
    }
    let mut people = 0;
    let mut is_ours = |uid: Option<u32>| {
        people += 1;
        uid.is_some_and(|uid| uid == user || uid == 0)
    };
    if !lines(passwd).filter(|fields| number(fields, 3) == Some(group)).all(|fields| is_ours(number(&fields, 2))) {
        return false;
    }
    let mut known = false;
    for fields in lines(groups).filter(|fields| number(fields, 2) == Some(group)) {
        known = true;
        for name in fields.get(3).copied().unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let uid = lines(passwd).find(|fields| fields.first() == Some(&name)).and_then(|fields| number(&fields, 2));
            if !is_ours(uid) {
                return false;
            }
        }
    }
    known && people > 0
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(':').collect())
}

fn number(fields: &[&str], at: usize) -> Option<u32> {
    fields.get(at)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEOPLE: &str = "root:x:0:0::/root:/bin/sh\nsync:x:4:7::/:/bin/sync\nanna:x:1000:1000::/home/anna:/bin/sh\n\
                          anna2:x:1000:50::/home/anna:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\ncarl:x:1002:100::/home/carl:/bin/sh\n";

    #[test]
    fn a_group_is_private_while_it_has_no_other_member() {
        let groups = |more: &str| format!("root:x:0:\nusers:x:100:\nbob:x:1001:anna\nempty:x:60:\n{more}");
        for (what, more, group, own) in [
            ("the user's own", "anna:x:1000:", 1000, true),
            ("the same, with the user named", "anna:x:1000:anna", 1000, true),
            ("by another name of the user", "anna:x:1000:anna2", 1000, true),
            ("with root", "anna:x:1000:root", 1000, true),
            ("with another member", "anna:x:1000:bob", 1000, false),
            ("with the user and another member", "anna:x:1000:anna,bob", 1000, false),
            ("with a member who is not in passwd", "anna:x:1000:zoe", 1000, false),
            ("root's", "", 0, true),
            ("one that only a member makes own", "work:x:70:anna", 70, true),
            ("another user's, with this user as a member", "", 1001, false),
            ("the primary group of another user", "", 100, false),
            ("without members", "", 60, false),
            ("one that is not known here", "", 4711, false),
            ("listed twice", "anna:x:1000:\nalso:x:1000:bob", 1000, false),
        ] {
            assert_eq!(is_own(PEOPLE, &groups(more), group, 1000), own, "{what}");
        }
    }

    #[test]
    fn a_group_that_the_files_do_not_list_is_shared() {
        let groups = "anna:x:1000:\n";
        assert!(is_own(PEOPLE, groups, 1000, 1000));
        assert!(!is_own(&format!("{PEOPLE}+::::::\n"), groups, 1000, 1000));
        assert!(!is_own(PEOPLE, &format!("{groups}+:::\n"), 1000, 1000));
        assert!(!is_own("", groups, 1000, 1000));
        assert!(is_own(&format!("# people\n{PEOPLE}broken\n"), groups, 1000, 1000));
    }
}
