//! The text of config.toml: accepted, or refused in one line with a hint.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err((what, hint)) = lorchestra_cli::fuzzing::config(text) {
        assert!(!what.is_empty() && !hint.is_empty());
        assert!(what.lines().count() == 1 && hint.lines().count() == 1, "{what:?} {hint:?}");
    }
});
