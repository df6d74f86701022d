//! Reads the manifest of an open file, or gives the one reason why it cannot be used.

use super::elf::{self, Elf, not_a_library};
use super::glibc;
use super::problem::{FileFault, Reason};
use crate::plan::retries::MOST;
use crate::plan::value::{self, ParamType};
use crate::plan::{OnOverlap, duration};
use lorchestra_plugin_api::abi::ABI_REVISION;
use lorchestra_plugin_api::manifest::{HEADER_LEN, MAX_JSON, Manifest, ManifestError, Outline, SECTION, is_name};
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;

/// The oldest ABI revision that this host runs: the one before the current one. There was none before 1.
const OLDEST_REVISION: u32 = if ABI_REVISION > 1 { ABI_REVISION - 1 } else { 1 };

/// Reads the manifest of a library that this host can load. Reads a bounded number of bytes with positioned reads; runs nothing.
///
/// # Errors
/// The first problem, in this order: ELF, machine, segments; outline; ABI revision; C library; defaults; texts.
pub fn inspect(file: &File) -> Result<Manifest, FileFault> {
    let len = file.metadata().map_err(|e| elf::broken(&e))?.len();
    let (elf, bytes) = section(file, len)?;
    // The texts last, so that a listing gives the same reason.
    checked(&elf, &bytes)?.with_texts(&bytes).map_err(|error| unreadable(&bytes, &error))
}

/// Returns the newest glibc version that a library requires, and this host's; `None` if unknown.
pub fn needed_glibc(file: &File) -> (Option<String>, Option<String>) {
    let shown = |version: glibc::GlibcVersion| format!("{}.{}", version.0, version.1);
    let needed = file.metadata().ok().and_then(|meta| glibc::needed(&Elf::open(file, meta.len()).ok()?).ok()?);
    (needed.map(shown), glibc::host().map(shown))
}

/// Like [`inspect`], for a listing: reads only the outline, and refuses the same files, except those with a mistake in their texts.
pub(super) fn outline(file: &File, len: u64) -> Result<Outline, FileFault> {
    let (elf, bytes) = section(file, len)?;
    checked(&elf, &bytes)
}

/// Returns the outline in a manifest section, if this host can run its jobs.
fn checked(elf: &Elf<'_>, bytes: &[u8]) -> Result<Outline, FileFault> {
    let outline = Outline::from_section(bytes).map_err(|error| unreadable(bytes, &error))?;
    let of_package = |fault: FileFault| FileFault { package: Some(outline.package.clone()), ..fault };
    check_host(elf, outline.abi).map_err(of_package)?;
    for job in &outline.jobs {
        check_job(&job.name, job.timeout.as_deref(), job.retries, job.overlap.as_deref()).map_err(of_package)?;
        check_defaults(&job.name, job.params.iter().map(|param| (param.into(), &param.default))).map_err(of_package)?;
    }
    Ok(outline)
}

/// Returns the checked file and its manifest section.
fn section(file: &File, len: u64) -> Result<(Elf<'_>, Vec<u8>), FileFault> {
    let elf = Elf::open(file, len)?;
    let Some(section) = elf.section(SECTION) else {
        if elf.is_program() {
            return Err(not_a_library("an executable"));
        }
        return Err(FileFault::new(
            Reason::NoManifest,
            "it is a library without a lorchestra manifest",
            "call plugin! in the package's lib.rs, or move other libraries out of the plugin directory",
        ));
    };
    let bytes = elf.section_bytes(section, "its manifest", (HEADER_LEN + MAX_JSON) as u64)?;
    Ok((elf, bytes))
}

/// Checks that this host has what the library requires.
fn check_host(elf: &Elf<'_>, abi: u32) -> Result<(), FileFault> {
    check_revision(abi)?;
    glibc::check(elf)
}

/// The fields that manifests of all revisions have.
#[derive(Deserialize)]
struct MinimalManifest {
    abi: u32,
    package: String,
}

fn unreadable(bytes: &[u8], error: &ManifestError) -> FileFault {
    let minimal = match error {
        ManifestError::Json(_) | ManifestError::Name(_) => Manifest::json_len(bytes)
            .ok()
            .and_then(|len| bytes.get(HEADER_LEN..HEADER_LEN + len))
            .and_then(|json| json.split(|&byte| byte == b'\n').next())
            .and_then(|outline| serde_json::from_slice::<MinimalManifest>(outline).ok()),
        _ => None,
    };
    // A newer plugin may contain things that this host cannot read: then its ABI revision is the reason.
    let fault = match (minimal.as_ref().map(|minimal| check_revision(minimal.abi)), error) {
        (Some(Err(fault)), _) => fault,
        (_, ManifestError::Format(_)) => FileFault::new(Reason::AbiTooNew, error.to_string(), "upgrade lorchestra"),
        (_, ManifestError::Name(_)) => {
            FileFault::new(Reason::BadManifest, error.to_string(), "fix the name in the package's source and build it again")
        }
        _ => FileFault::new(Reason::BadManifest, error.to_string(), "build the package again, and copy the library again"),
    };
    // So that a lookup by name reports that the package is here.
    FileFault { package: minimal.map(|minimal| minimal.package).filter(|package| is_name(package)), ..fault }
}

fn check_revision(abi: u32) -> Result<(), FileFault> {
    if abi > ABI_REVISION {
        return Err(FileFault::new(
            Reason::AbiTooNew,
            format!("built for plugin ABI {abi}; this lorchestra supports up to {ABI_REVISION}"),
            "upgrade lorchestra",
        ));
    }
    if abi < OLDEST_REVISION {
        return Err(FileFault::new(
            Reason::AbiTooOld,
            format!("built for plugin ABI {abi}; this lorchestra supports {OLDEST_REVISION} or newer"),
            "build the package again with the current lorchestra-plugin-api",
        ));
    }
    Ok(())
}

/// Checks the job's own defaults for timeout, retries and overlap.
fn check_job(job: &str, timeout: Option<&str>, retries: Option<u32>, overlap: Option<&str>) -> Result<(), FileFault> {
    let bad = |what: &str, why: String| {
        FileFault::new(
            Reason::BadManifest,
            format!("the {what} of {job} cannot be used: {why}"),
            format!("fix the {what} in the package's source and build it again"),
        )
    };
    if let Some(text) = timeout {
        let limit = duration::parse(text).map_err(|why| bad("timeout", why.to_string()))?;
        if limit.is_zero() {
            return Err(bad("timeout", "it would stop every run at once".to_owned()));
        }
    }
    if retries.is_some_and(|retries| retries > MOST) {
        return Err(bad("retries", format!("the maximum is {MOST}")));
    }
    if let Some(text) = overlap {
        text.parse::<OnOverlap>().map_err(|why| bad("overlap", why))?;
    }
    Ok(())
}

/// Checks the default of each parameter against its type.
fn check_defaults<'a>(job: &str, params: impl Iterator<Item = (ParamType<'a>, &'a Value)>) -> Result<(), FileFault> {
    for (param, default) in params {
        value::check_default(param, default).map_err(|why| {
            FileFault::new(
                Reason::BadManifest,
                format!("the default of {} in {job} cannot be used: {why}", param.name),
                "fix the default in the package's source and build it again",
            )
        })?;
    }
    Ok(())
}
