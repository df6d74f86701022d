//! Two packages linked into one test: runs jobs of both in its process with `lorchestra_plugin_api::testing`, on one data directory.

use canonizer::canonicalize_email;
use ingester::extract_gmail;
use lorchestra_plugin_api::testing::{self, TempDir};
use lorchestra_tests::built;

#[test]
fn two_packages_hand_over_in_one_process() {
    let data = TempDir::new();
    testing::job::<canonicalize_email>().data(&data).run().assert_permanent("run ingester/extract_gmail first");

    let mailbox = built::workspace().join("example-plugins/ingester/sample/takeout.mbox");
    let extracted = testing::job::<extract_gmail>().data(&data).param("source", mailbox).param("account", "demo").run();
    extracted.assert_ok();
    assert_eq!(extracted.event("extraction.completed").payload["written"], 34);
    assert_eq!(extracted.read("mail/demo.jsonl").lines().count(), 34);

    let canonical = testing::job::<canonicalize_email>().data(&data).run();
    canonical.assert_ok();
    assert_eq!(canonical.event("canonicalization.completed").payload["written"], 34);
    assert_eq!(data.read("canonizer/email.jsonl").lines().count(), 34);
}

#[test]
fn a_mailbox_cancelled_halfway_is_continued() {
    let data = TempDir::new();
    let mailbox = built::workspace().join("example-plugins/ingester/sample/takeout.mbox");
    let extract = || testing::job::<extract_gmail>().data(&data).param("source", &mailbox);
    extract().cancel_after_checks(10).run().assert_retryable("cancelled after 10 messages");
    let rest = extract().run();
    assert_eq!(rest.assert_ok().event("extraction.completed").payload["duplicates"], 11);
    assert_eq!(data.read("ingester/mail/default.jsonl").lines().count(), 34);
}
