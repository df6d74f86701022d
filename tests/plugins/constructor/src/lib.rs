//! A library whose constructor runs at dlopen: it appends its process's pid to the file named by `CONSTRUCTOR_MARKER`, then
//! does what `CONSTRUCTOR_FAULT` says (`abort`, `null`, `exit`).
#![expect(unsafe_code, reason = "a constructor, and faults that safe code cannot make")]
#![expect(clippy::disallowed_methods, reason = "a constructor has no other way to be told anything")]

use lorchestra_plugin_api::prelude::*;
use std::io::Write;

plugin! { package = "constructor", jobs = [loaded] }

/// Shows that the library was loaded.
#[job]
fn loaded(cx: &JobContext) -> JobResult {
    cx.emit("loaded", json!({"pid": std::process::id()}))?;
    Ok(())
}

#[used]
// SAFETY: functions in this section are called by the loader without arguments that we read.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    if let Some(path) = std::env::var_os("CONSTRUCTOR_MARKER")
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "{}", std::process::id());
    }
    match std::env::var("CONSTRUCTOR_FAULT").as_deref() {
        Ok("abort") => std::process::abort(),
        // SAFETY: none. This is the fault.
        Ok("null") => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
        Ok("exit") => std::process::exit(0),
        _ => {}
    }
}
