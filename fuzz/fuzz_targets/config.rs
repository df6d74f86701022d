//! The text of config.toml: taken, or refused in one line with a mend.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err((what, mend)) = lorchestra_cli::fuzzing::config(text) {
        assert!(!what.is_empty() && !mend.is_empty());
        assert!(what.lines().count() == 1 && mend.lines().count() == 1, "{what:?} {mend:?}");
    }
});
