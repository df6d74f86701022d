//! From an open file to its manifest, or to the one reason why there is none that can be used.

use super::elf::{self, Elf, not_a_library};
use super::glibc;
use super::problem::{Fault, Reason};
use crate::plan::value;
use lorchestra_plugin_api::abi::ABI_REVISION;
use lorchestra_plugin_api::manifest::{HEADER_LEN, MAX_JSON, Manifest, ManifestError, Outline, SECTION};
use serde::Deserialize;
use std::fs::File;

/// Reads the manifest of a library that this host can load. Reads by position, a bounded number of bytes; runs nothing.
///
/// # Errors
/// The first thing that is wrong, in this order: ELF, machine, segments; manifest; ABI revision; C library; defaults.
pub fn inspect(file: &File) -> Result<Manifest, Fault> {
    let len = file.metadata().map_err(|e| elf::broken(&e))?.len();
    let (elf, bytes) = section(file, len)?;
    let manifest = Manifest::from_section(&bytes).map_err(|error| unreadable(&bytes, &error))?;
    let of_package = |fault: Fault| Fault { package: Some(manifest.package.clone()), ..fault };
    check_host(&elf, manifest.abi).map_err(of_package)?;
    check_defaults(&manifest).map_err(of_package)?;
    Ok(manifest)
}

/// The same for a listing: reads less of the manifest, and leaves parameters and defaults unchecked.
pub(super) fn outline(file: &File, len: u64) -> Result<Outline, Fault> {
    let (elf, bytes) = section(file, len)?;
    let outline = Outline::from_section(&bytes).map_err(|error| unreadable(&bytes, &error))?;
    check_host(&elf, outline.abi).map_err(|fault| Fault { package: Some(outline.package.clone()), ..fault })?;
    Ok(outline)
}

/// The checked file, and its manifest section.
fn section(file: &File, len: u64) -> Result<(Elf<'_>, Vec<u8>), Fault> {
    let elf = Elf::open(file, len)?;
    let Some(section) = elf.section(SECTION) else {
        if elf.is_executable {
            return Err(not_a_library("an executable"));
        }
        return Err(Fault::new(
            Reason::NoManifest,
            "it is a library without a lorchestra manifest",
            "call plugin! in the package's lib.rs, or move other libraries out of the plugin directory",
        ));
    };
    let bytes = elf.section_bytes(section, "its manifest", (HEADER_LEN + MAX_JSON) as u64)?;
    Ok((elf, bytes))
}

/// Whether this host has what the library was built for.
fn check_host(elf: &Elf<'_>, abi: u32) -> Result<(), Fault> {
    check_revision(abi)?;
    glibc::check(elf)
}

/// What every revision's manifest has.
#[derive(Deserialize)]
struct Least {
    abi: u32,
    package: String,
}

fn unreadable(bytes: &[u8], error: &ManifestError) -> Fault {
    // A newer plugin may have things that this host cannot read: then its revision is the reason.
    if let ManifestError::Json(_) = error
        && let Ok(len) = Manifest::json_len(bytes)
        && let Some(json) = bytes.get(HEADER_LEN..HEADER_LEN + len)
        && let Ok(least) = serde_json::from_slice::<Least>(json)
        && let Err(fault) = check_revision(least.abi)
    {
        return Fault { package: Some(least.package), ..fault };
    }
    if let ManifestError::Format(_) = error {
        return Fault::new(Reason::AbiTooNew, error.to_string(), "upgrade lorchestra");
    }
    Fault::new(Reason::BadManifest, error.to_string(), "build the package again, and copy the library again")
}

fn check_revision(abi: u32) -> Result<(), Fault> {
    if abi > ABI_REVISION {
        return Err(Fault::new(
            Reason::AbiTooNew,
            format!("it is built for plugin ABI {abi}, and this lorchestra runs up to {ABI_REVISION}"),
            "upgrade lorchestra",
        ));
    }
    if abi.saturating_add(1) < ABI_REVISION {
        return Err(Fault::new(
            Reason::AbiTooOld,
            format!("it is built for plugin ABI {abi}, and this lorchestra runs {} and {ABI_REVISION}", ABI_REVISION - 1),
            "build the package again with the present lorchestra-plugin-api",
        ));
    }
    Ok(())
}

fn check_defaults(manifest: &Manifest) -> Result<(), Fault> {
    for job in &manifest.jobs {
        for param in &job.params {
            value::check_default(param).map_err(|why| {
                Fault::new(
                    Reason::BadManifest,
                    format!("the default of {} in {} cannot be used: {why}", param.name, job.name),
                    "mend the default in the package's source and build it again",
                )
            })?;
        }
    }
    Ok(())
}
