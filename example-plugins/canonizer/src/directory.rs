//! Names of users and channels. They are collected from all lines before the first message is converted, because a message may
//! mention a user whose name is on a later line.

use crate::message::profile_name;
use crate::slack::Post;
use crate::slack::mrkdwn::Names;
use std::collections::HashMap;

/// Names by account and id. The last name read is used.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    accounts: HashMap<String, Account>,
}

#[derive(Debug, Default)]
struct Account {
    users: HashMap<String, String>,
    channels: HashMap<String, String>,
}

/// The names in one account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamesOf<'a>(Option<&'a Account>);

impl Directory {
    /// Collects the names of a message's sender and channel.
    pub(crate) fn learn(&mut self, post: &Post) {
        if !self.accounts.contains_key(&post.account) {
            self.accounts.insert(post.account.clone(), Account::default());
        }
        let Some(account) = self.accounts.get_mut(&post.account) else { return };
        note(&mut account.channels, &post.channel.id, post.channel.name.as_deref());
        // For guests and users of other workspaces, only their own messages contain a name.
        if let Some(id) = &post.raw.user {
            note(&mut account.users, id, post.raw.user_profile.as_ref().and_then(profile_name));
        }
        if let Some(user) = &post.user {
            note(&mut account.users, &user.id, user.name.as_deref());
        }
    }

    pub(crate) fn of(&self, account: &str) -> NamesOf<'_> {
        NamesOf(self.accounts.get(account))
    }
}

/// Most lines repeat known names.
fn note(names: &mut HashMap<String, String>, id: &str, name: Option<&str>) {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return };
    match names.get_mut(id) {
        Some(known) if known == name => {}
        Some(known) => name.clone_into(known),
        None => drop(names.insert(id.to_owned(), name.to_owned())),
    }
}

impl Names for NamesOf<'_> {
    fn user(&self, id: &str) -> Option<&str> {
        self.0?.users.get(id).map(String::as_str)
    }

    fn channel(&self, id: &str) -> Option<&str> {
        self.0?.channels.get(id).map(String::as_str)
    }
}
