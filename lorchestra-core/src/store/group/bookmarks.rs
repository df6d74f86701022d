//! The bookmarks of a backfill (`--move-bookmark`): each moves as it would after one run over the whole range.

use super::super::bookmark::{Key, Moved, advance_to};
use super::super::{Store, StoreError};
use super::Group;

/// The effect on the bookmarks of accounts, in order.
pub type MovedAccounts = Vec<(Option<String>, Moved)>;

impl Store {
    /// Moves the bookmark of each account of a backfill whose members are all complete, by the rule for one run over the whole range.
    pub fn move_group_bookmarks(&mut self, group: &Group, now: i64) -> Result<MovedAccounts, StoreError> {
        let Some(range) = group.settings.moves_bookmark else { return Ok(Vec::new()) };
        self.write("moving the bookmarks of a group", |tx| {
            let mut keys: Vec<(String, String, Option<String>)> = Vec::new();
            let mut open: Vec<Option<String>> = Vec::new();
            let mut statement = tx.prepare(
                "SELECT spec ->> '$.package', spec ->> '$.job', spec ->> '$.account', state FROM members WHERE run_group = ?1",
            )?;
            let mut rows = statement.query([group.n])?;
            while let Some(row) = rows.next()? {
                let key: (String, String, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let state: String = row.get(3)?;
                if state != "completed" && !open.contains(&key.2) {
                    open.push(key.2.clone());
                }
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            let complete = keys.into_iter().filter(|(_, _, account)| !open.contains(account));
            complete
                .map(|(package, job, account)| {
                    let key = Key { package: &package, job: &job, account: account.as_deref() };
                    let moved = advance_to(tx, key, range, (now, Some(&group.group_id)))?;
                    Ok((account, moved))
                })
                .collect()
        })
    }

    /// Moves the bookmarks of accounts of a job for which a range is complete already, by the same rule. `group`: that of the other accounts,
    /// if there is one.
    pub fn move_bookmarks(
        &mut self,
        (package, job): (&str, &str),
        accounts: &[Option<String>],
        range: (i64, i64),
        (now, group): (i64, Option<&str>),
    ) -> Result<MovedAccounts, StoreError> {
        self.write("moving bookmarks", |tx| {
            let moved = accounts.iter().map(|account| {
                let key = Key { package, job, account: account.as_deref() };
                Ok((account.clone(), advance_to(tx, key, range, (now, group))?))
            });
            moved.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::bookmark::BookmarkMover;
    use super::super::super::tests::{site, spec};
    use super::super::tests::{new_group, run_to_end};
    use super::super::{GroupSettings, NewGroup, NewMember};
    use super::*;
    use crate::outcome::Cause;

    #[test]
    fn the_bookmark_of_each_complete_account_moves() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let new = new_group("0193a000-0000-7000-8000-00000000abcd", 4);
        let settings = GroupSettings { moves_bookmark: Some((0, 9)), ..new.settings };
        let of = |(at, member): (usize, NewMember)| {
            let account = Some(if at % 2 == 0 { "anna" } else { "bert" }.to_owned());
            NewMember { spec: crate::plan::RunSpec { account, ..spec() }.to_json(), ..member }
        };
        let members = new.members.into_iter().enumerate().map(of).collect();
        store.create_group(&NewGroup { settings, members, ..new }).unwrap();
        let group = store.find_group("backfill", "last").unwrap().unwrap();
        for (place, cause) in [(0, None), (1, Some(Cause::Error)), (2, None), (3, None)] {
            let run_id = store.member(group.n, place).unwrap().unwrap().run_id;
            run_to_end(&mut store, &run_id, cause);
        }
        let anna = |before, after| vec![(Some("anna".to_owned()), Moved { before, after })];
        assert_eq!(store.move_group_bookmarks(&group, 1).unwrap(), anna(None, Some(9)));
        assert_eq!(store.move_group_bookmarks(&group, 1).unwrap(), anna(Some(9), None));
        let moved = store.bookmarks(None, None).unwrap();
        assert_eq!(moved.iter().map(|bookmark| bookmark.account.as_deref()).collect::<Vec<_>>(), [Some("anna")]);
        assert_eq!(moved[0].moved_by, BookmarkMover::Backfill(Some(group.group_id.clone())));
        // Of a backfill without any window left.
        store.move_bookmarks(("pkg", "job"), &[Some("bert".into())], (0, 9), (1, None)).unwrap();
        assert_eq!(store.bookmarks(None, None).unwrap()[1].moved_by, BookmarkMover::Backfill(None));
    }
}
