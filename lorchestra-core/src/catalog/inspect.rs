//! From an open file to its manifest, or to the one reason why there is none that can be used.

use super::elf::{self, Elf, not_a_library};
use super::glibc;
use super::problem::{Fault, Reason};
use crate::plan::value;
use lorchestra_plugin_api::abi::ABI_REVISION;
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{HEADER_LEN, MAX_JSON, Manifest, ManifestError, Outline, SECTION, is_name};
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;

/// The oldest revision that is run: the one before the present one. There was none before 1.
const OLDEST_REVISION: u32 = if ABI_REVISION > 1 { ABI_REVISION - 1 } else { 1 };

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
    let params = manifest.jobs.iter().flat_map(|job| job.params.iter().map(move |param| (job, param)));
    check_defaults(params.map(|(job, param)| (&*job.name, &*param.name, param.kind, &param.default))).map_err(of_package)?;
    Ok(manifest)
}

/// The newest glibc that a library asks for, and this host's; each where it is known.
pub fn needed_glibc(file: &File) -> (Option<String>, Option<String>) {
    let shown = |version: glibc::Version| format!("{}.{}", version.0, version.1);
    let needed = file.metadata().ok().and_then(|meta| glibc::needed(&Elf::open(file, meta.len()).ok()?).ok()?);
    (needed.map(shown), glibc::host().map(shown))
}

/// As [`inspect`] for a listing: keeps less of the manifest, and refuses what [`inspect`] refuses.
pub(super) fn outline(file: &File, len: u64) -> Result<Outline, Fault> {
    let (elf, bytes) = section(file, len)?;
    let outline = Outline::from_section(&bytes).map_err(|error| unreadable(&bytes, &error))?;
    let of_package = |fault: Fault| Fault { package: Some(outline.package.clone()), ..fault };
    check_host(&elf, outline.abi).map_err(of_package)?;
    let params = outline.jobs.iter().flat_map(|job| job.params.iter().map(move |param| (job, param)));
    check_defaults(params.map(|(job, param)| (&*job.name, &*param.name, param.kind, &param.default))).map_err(of_package)?;
    Ok(outline)
}

/// The checked file, and its manifest section.
fn section(file: &File, len: u64) -> Result<(Elf<'_>, Vec<u8>), Fault> {
    let elf = Elf::open(file, len)?;
    let Some(section) = elf.section(SECTION) else {
        if elf.is_program() {
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
    let least = match error {
        ManifestError::Json(_) | ManifestError::Name(_) => Manifest::json_len(bytes)
            .ok()
            .and_then(|len| bytes.get(HEADER_LEN..HEADER_LEN + len))
            .and_then(|json| serde_json::from_slice::<Least>(json).ok()),
        _ => None,
    };
    // A newer plugin may have things that this host cannot read: then its revision is the reason.
    let fault = match (least.as_ref().map(|least| check_revision(least.abi)), error) {
        (Some(Err(fault)), _) => fault,
        (_, ManifestError::Format(_)) => Fault::new(Reason::AbiTooNew, error.to_string(), "upgrade lorchestra"),
        (_, ManifestError::Name(_)) => {
            Fault::new(Reason::BadManifest, error.to_string(), "mend the name in the package's source and build it again")
        }
        _ => Fault::new(Reason::BadManifest, error.to_string(), "build the package again, and copy the library again"),
    };
    // Whoever asks for the package by its name is told that it is here.
    Fault { package: least.map(|least| least.package).filter(|package| is_name(package)), ..fault }
}

fn check_revision(abi: u32) -> Result<(), Fault> {
    if abi > ABI_REVISION {
        return Err(Fault::new(
            Reason::AbiTooNew,
            format!("it is built for plugin ABI {abi}, and this lorchestra runs up to {ABI_REVISION}"),
            "upgrade lorchestra",
        ));
    }
    if abi < OLDEST_REVISION {
        return Err(Fault::new(
            Reason::AbiTooOld,
            format!("it is built for plugin ABI {abi}, and this lorchestra runs none before {OLDEST_REVISION}"),
            "build the package again with the present lorchestra-plugin-api",
        ));
    }
    Ok(())
}

/// Of each parameter: its job, its name, what it takes, its default.
fn check_defaults<'a>(params: impl Iterator<Item = (&'a str, &'a str, ParamKind, &'a Value)>) -> Result<(), Fault> {
    for (job, param, kind, default) in params {
        value::check_default(param, kind, default).map_err(|why| {
            Fault::new(
                Reason::BadManifest,
                format!("the default of {param} in {job} cannot be used: {why}"),
                "mend the default in the package's source and build it again",
            )
        })?;
    }
    Ok(())
}
