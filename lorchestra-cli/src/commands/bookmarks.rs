//! `bookmarks show`, `set`, `reset`; and the bookmark that a run uses.

use super::known::require_known;
use super::{find_job, history, open_and_recover, second_store};
use crate::cells;
use crate::complete;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use crate::wire;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::plan::{self, last};
use lorchestra_core::store::bookmark::BookmarkMover;
pub(super) use lorchestra_core::store::bookmark::Key;
use lorchestra_core::store::{Bookmark, Store, short_id};
use lorchestra_core::text::{printable, quote};
use lorchestra_plugin_api::def::ParamKind;

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra run-job ingester extract_gmail --source ~/takeout.mbox --since last:-30d
  lorchestra bookmarks show
  lorchestra bookmarks set ingester extract_gmail 2024-01-31
  lorchestra bookmarks reset ingester extract_gmail";

pub(super) const RULE: &str = "Each package, job and account has one bookmark. A successful run moves it to the run's --until, or to the position that \
the job reports. A run never moves a bookmark back, and moves it only if the run started at or before the bookmark. Everything before \
a bookmark is therefore done: a backfill, or a run that leaves a gap, does not move it.";

#[derive(Debug, Subcommand)]
pub(crate) enum Bookmarks {
    /// List bookmarks
    #[command(
        before_help = "Examples:\n  lorchestra bookmarks show\n  lorchestra bookmarks show ingester extract_gmail\n  lorchestra bookmarks show --account anna\n  lorchestra bookmarks show --json"
    )]
    Show {
        /// Show only bookmarks of this package, or of this PACKAGE/JOB
        #[arg(add = ArgValueCompleter::new(complete::packages_or_pairs))]
        package: Option<String>,
        /// Show only bookmarks of this job
        #[arg(add = ArgValueCompleter::new(complete::jobs))]
        job: Option<String>,
        /// Show only bookmarks of this account ('' for no account)
        #[arg(long)]
        account: Option<String>,
        /// Print one JSON object per line (schema lorchestra.bookmark/1)
        #[arg(long)]
        json: bool,
    },
    /// Set a bookmark, so that the next `--since last` starts there
    #[command(
        before_help = "Examples:\n  lorchestra bookmarks set ingester extract_gmail 2024-01-31\n  lorchestra bookmarks set ingester extract_gmail --account anna -7d"
    )]
    Set {
        /// Package name, or PACKAGE/JOB
        #[arg(add = ArgValueCompleter::new(complete::packages_or_pairs))]
        package: String,
        /// Job name
        #[arg(add = ArgValueCompleter::new(complete::jobs))]
        job: String,
        /// New position, e.g. 2024-01-31, -7d, now
        #[arg(allow_hyphen_values = true)]
        time: String,
        /// Account, as in the job's runs
        #[arg(long)]
        account: Option<String>,
        /// Print one JSON object (schema lorchestra.bookmark-change/1)
        #[arg(long)]
        json: bool,
    },
    /// Remove a bookmark, so that the next `--since last:TIME` starts at TIME
    #[command(before_help = "Example:\n  lorchestra bookmarks reset ingester extract_gmail --account anna")]
    Reset {
        /// Package name, or PACKAGE/JOB
        #[arg(add = ArgValueCompleter::new(complete::packages_or_pairs))]
        package: String,
        /// Job name
        #[arg(add = ArgValueCompleter::new(complete::jobs))]
        job: String,
        /// Account, as in the job's runs
        #[arg(long)]
        account: Option<String>,
        /// Print one JSON object (schema lorchestra.bookmark-change/1)
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(
    command: &Bookmarks,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    match command {
        Bookmarks::Show { package, job, account, json } => {
            let history = history(settings, notices, printer)?;
            let store = history.as_ref().map(|(_, store)| store);
            let wanted = BookmarkFilter { package: package.as_deref(), job: job.as_deref(), account: account.as_deref() };
            list(store, wanted, *json, settings, printer)
        }
        Bookmarks::Set { package, job, account, time, json } => {
            let key = Key { package, job, account: account.as_deref() };
            let change = set(key, time, settings, notices, printer)?;
            if *json {
                change.print_json(key, printer);
            } else {
                let before = change.before.map_or_else(|| "none".to_owned(), exactly);
                let at = change.at.map(exactly).unwrap_or_default();
                printer.line(format_args!("bookmark of {}: {before} → {at}", whose(key)));
            }
            if change.at.is_some_and(|at| at > now_micros()) {
                printer.warning("that is in the future: until then, runs with --since last have nothing to do");
            }
            Ok(Code::Success)
        }
        Bookmarks::Reset { package, job, account, json } => {
            let key = Key { package, job, account: account.as_deref() };
            let history = history(settings, notices, printer)?;
            let change = reset(history.map(|(_, store)| store), key)?;
            if *json {
                change.print_json(key, printer);
            } else {
                let before = change.before.map(exactly).unwrap_or_default();
                printer.line(format_args!("bookmark of {} removed: it was {before}", whose(key)));
            }
            Ok(Code::Success)
        }
    }
}

/// Returns the bookmark that a plan needs. Closes runs of dead supervisors first, because one that had succeeded may move it. A dry run
/// changes nothing, and uses the bookmark unchanged.
pub(super) fn for_plan(
    key: Key<'_>,
    dry_run: bool,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Option<DateTime<Utc>>, CommandError> {
    let bookmark = if dry_run {
        match StateDir::existing(&settings.state_dir)? {
            Some(state) => Store::peek_bookmark(&state, key)?,
            None => None,
        }
    } else {
        match open_and_recover(settings, notices, printer)? {
            Some((_, store)) => store.bookmark(key)?,
            None => None,
        }
    };
    Ok(bookmark.and_then(|bookmark| DateTime::from_timestamp_micros(bookmark.at)))
}

/// A bookmark that a command has changed: where it was and is, in microseconds since 1970.
struct ChangedBookmark {
    before: Option<i64>,
    at: Option<i64>,
}

impl ChangedBookmark {
    fn print_json(&self, key: Key<'_>, printer: &mut Printer) {
        printer.json(&wire::BookmarkChange {
            schema: "lorchestra.bookmark-change/1",
            package: key.package.to_owned(),
            job: key.job.to_owned(),
            account: key.account.map(str::to_owned),
            before: self.before.map(show::exact_time),
            at: self.at.map(show::exact_time),
        });
    }
}

/// Which bookmarks to show; `None` for no restriction.
#[derive(Clone, Copy)]
struct BookmarkFilter<'a> {
    package: Option<&'a str>,
    job: Option<&'a str>,
    /// Empty for bookmarks without an account.
    account: Option<&'a str>,
}

fn list(
    store: Option<&Store>,
    wanted: BookmarkFilter<'_>,
    as_json: bool,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let BookmarkFilter { package, job, account } = wanted;
    let mut bookmarks = match store {
        Some(store) => store.bookmarks(package, job)?,
        None => Vec::new(),
    };
    if let Some(package) = package.filter(|_| bookmarks.is_empty()) {
        require_known(package, job, settings, store)?;
    }
    bookmarks.retain(|bookmark| account.is_none_or(|account| bookmark.account.as_deref().unwrap_or_default() == account));
    if as_json {
        for bookmark in &bookmarks {
            printer.json(&wire::BookmarkObject {
                schema: "lorchestra.bookmark/1",
                package: bookmark.package.clone(),
                job: bookmark.job.clone(),
                account: bookmark.account.clone(),
                at: show::exact_time(bookmark.at),
                moved_at: show::exact_time(bookmark.moved_at),
                moved_by: match bookmark.moved_by {
                    BookmarkMover::User => "user",
                    BookmarkMover::Run(_) => "run",
                    BookmarkMover::Backfill(_) => "backfill",
                },
                run_id: if let BookmarkMover::Run(run) = &bookmark.moved_by { Some(run.clone()) } else { None },
                group_id: if let BookmarkMover::Backfill(group) = &bookmark.moved_by { group.clone() } else { None },
            });
        }
        return Ok(Code::Success);
    }
    if bookmarks.is_empty() {
        let of = match (package, job) {
            (Some(package), Some(job)) => format!(" of {package}/{job}"),
            (Some(package), None) => format!(" of {package}"),
            (None, _) => String::new(),
        };
        let of_account = match account {
            Some("") => " without an account".to_owned(),
            Some(account) => format!(" for account {}", show::account(account)),
            None => String::new(),
        };
        printer.note(format_args!("No bookmarks{of}{of_account}."));
    }
    let columns: Vec<(String, String)> = bookmarks
        .iter()
        .map(|b| (format!("{}/{}", b.package, b.job), b.account.as_deref().map_or_else(|| "-".to_owned(), show::account)))
        .collect();
    let names = cells::widest(columns.iter().map(|(name, _)| name.as_str()));
    let accounts = cells::widest(columns.iter().map(|(_, account)| account.as_str()));
    for (bookmark, (name, account)) in bookmarks.iter().zip(&columns) {
        let by = match &bookmark.moved_by {
            BookmarkMover::User => "manually".to_owned(),
            BookmarkMover::Run(run) => format!("by run {}", short_id(run)),
            BookmarkMover::Backfill(Some(group)) => format!("by backfill {}", short_id(group)),
            BookmarkMover::Backfill(None) => "by a backfill with nothing to run".to_owned(),
        };
        let (at, moved_at) = (exactly(bookmark.at), show::time(bookmark.moved_at));
        let whose = format!("{}  {}", cells::padded(name, names), cells::padded(account, accounts));
        let line = format!("{whose}  {at}  set {moved_at} {by}");
        // `runs show` has the time.
        let is_wide = printer.width().is_some_and(|width| cells::width(&line) > width);
        printer.line(if is_wide { format!("{whose}  {at}  {by}") } else { line });
    }
    Ok(Code::Success)
}

fn set(
    key: Key<'_>,
    time: &str,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<ChangedBookmark, CommandError> {
    is_read(key, settings)?;
    let now = Utc::now();
    let at = plan::time::parse(time, now).map_err(|e| CommandError::new(Code::Usage, format!("{}: {e}", quote(time))))?;
    second_store(settings, printer);
    let mut store = match open_and_recover(settings, notices, printer)? {
        Some((_, store)) => store,
        None => Store::open(&StateDir::open(&settings.state_dir)?)?,
    };
    let before = store.set_bookmark(key, at.timestamp_micros(), now.timestamp_micros())?;
    Ok(ChangedBookmark { before: before.map(|bookmark| bookmark.at), at: Some(at.timestamp_micros()) })
}

/// Fails if no run would use such a bookmark: a misspelt one would never be noticed.
fn is_read(key: Key<'_>, settings: &Settings) -> Result<(), CommandError> {
    let Key { package, job: job_name, account } = key;
    let catalog = Catalog::scan(&settings.plugin_dirs);
    let (_, _, job) = find_job(&catalog, package, job_name)?;
    let useless =
        |why: &str| CommandError::new(Code::Usage, format!("no run of {package}/{job_name} would use that bookmark: {why}"));
    if !job.has_since() {
        return Err(useless("the job has no datetime parameter `since`"));
    }
    match (job.params.iter().find(|param| last::is_account(param)), account) {
        (None, Some(_)) => Err(useless("the job has no parameter `account`").hint("omit --account")),
        (Some(param), Some(account))
            if param.kind == ParamKind::Enum && param.values.iter().all(|value| value.name != account) =>
        {
            let values: Vec<&str> = param.values.iter().map(|value| value.name.as_str()).collect();
            Err(useless("the job does not accept this account").hint(format!("use one of {}", values.join(", "))))
        }
        (Some(param), None) if !param.optional => {
            Err(useless("its bookmarks are per account").hint("add --account, as in the job's runs"))
        }
        _ => Ok(()),
    }
}

fn reset(store: Option<Store>, key: Key<'_>) -> Result<ChangedBookmark, CommandError> {
    let removed = match store {
        Some(mut store) => match store.reset_bookmark(key)? {
            Some(bookmark) => Ok(bookmark),
            None => Err(store.bookmarks(Some(key.package), Some(key.job))?),
        },
        None => Err(Vec::new()),
    };
    match removed {
        Ok(bookmark) => Ok(ChangedBookmark { before: Some(bookmark.at), at: None }),
        Err(others) => {
            let failure = CommandError::new(Code::Failed, format!("{} has no bookmark", whose(key)));
            let failure =
                others.iter().take(4).fold(failure, |failure, other| failure.hint(format!("found one of {}", of(other))));
            Err(failure.hint("run lorchestra bookmarks show to list all bookmarks"))
        }
    }
}

/// Formats a time as jobs receive it: it can be typed again with the same result.
fn exactly(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros).map_or_else(|| micros.to_string(), plan::time::show)
}

fn whose(key: Key<'_>) -> String {
    let account = key.account.filter(|account| !account.is_empty());
    let account = account.map(|account| format!(" for account {}", show::account(account))).unwrap_or_default();
    printable(&format!("{}/{}{account}", key.package, key.job))
}

fn of(bookmark: &Bookmark) -> String {
    whose(Key { package: &bookmark.package, job: &bookmark.job, account: bookmark.account.as_deref() })
}
