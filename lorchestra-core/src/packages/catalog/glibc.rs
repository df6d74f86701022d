//! Determines which glibc a plugin requires and which one this host has, from version tables, without loading either.

use super::elf::{Elf, text_at};
use super::problem::{FileFault, Reason};
use crate::host::process::kernel_text;
use object::LittleEndian as LE;
use object::elf::{SectionHeader64, Verdaux, Verdef, Vernaux, Verneed};
use object::pod;
use std::fs::File;
use std::sync::OnceLock;

/// A version of glibc: `2.36`.
pub(super) type GlibcVersion = (u32, u32);
/// Maximum number of entries to read from a version table.
const MAX_ENTRIES: usize = 4096;
/// Maximum number of bytes of names to read at once.
const MAX_NAMES: u64 = 64 << 10;

/// Refuses a library that requires a newer glibc than this host's. The dynamic loader would refuse it too, with a less clear message. If
/// this host's version is unknown (no glibc), nothing is refused.
pub(super) fn check(elf: &Elf<'_>) -> Result<(), FileFault> {
    let Some(needed) = needed(elf)? else { return Ok(()) };
    match host() {
        Some(host) if needed > host => Err(FileFault::new(
            Reason::NeedsNewerGlibc,
            format!("it needs glibc {}.{}; this host has {}.{}", needed.0, needed.1, host.0, host.1),
            "build it on this host or on one with an older glibc, or upgrade this host",
        )),
        _ => Ok(()),
    }
}

/// Returns the newest glibc version in `.gnu.version_r`.
pub(super) fn needed(elf: &Elf<'_>) -> Result<Option<GlibcVersion>, FileFault> {
    let Some(section) = elf.section(".gnu.version_r") else { return Ok(None) };
    let table = elf.table(section)?;
    let mut names = Vec::new();
    let mut at = 0;
    for _ in 0..MAX_ENTRIES {
        let Some((need, _)) = table.get(at..).and_then(|bytes| pod::from_bytes::<Verneed<LE>>(bytes).ok()) else { break };
        let mut aux_at = at.saturating_add(need.vn_aux.get(LE) as usize);
        for _ in 0..need.vn_cnt.get(LE) {
            let Some((aux, _)) = table.get(aux_at..).and_then(|bytes| pod::from_bytes::<Vernaux<LE>>(bytes).ok()) else { break };
            names.push(aux.vna_name.get(LE));
            match aux.vna_next.get(LE) {
                0 => break,
                next => aux_at = aux_at.saturating_add(next as usize),
            }
        }
        match need.vn_next.get(LE) {
            0 => break,
            next => at = at.saturating_add(next as usize),
        }
    }
    newest(elf, section, &names)
}

/// Returns the glibc version of this process, which workers will use too.
pub(super) fn host() -> Option<GlibcVersion> {
    static HOST: OnceLock<Option<GlibcVersion>> = OnceLock::new();
    *HOST.get_or_init(|| {
        let maps = kernel_text("/proc/self/maps").ok()?;
        let path =
            maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|path| path.ends_with("/libc.so.6"))?;
        let file = File::open(path).ok()?;
        defined(&Elf::open(&file, file.metadata().ok()?.len()).ok()?)
    })
}

/// Returns the newest glibc version in `.gnu.version_d`.
fn defined(elf: &Elf<'_>) -> Option<GlibcVersion> {
    let section = elf.section(".gnu.version_d")?;
    let table = elf.table(section).ok()?;
    let mut names = Vec::new();
    let mut at = 0;
    for _ in 0..MAX_ENTRIES {
        let (def, _) = pod::from_bytes::<Verdef<LE>>(table.get(at..)?).ok()?;
        let aux_at = at.saturating_add(def.vd_aux.get(LE) as usize);
        let (aux, _) = pod::from_bytes::<Verdaux<LE>>(table.get(aux_at..)?).ok()?;
        names.push(aux.vda_name.get(LE));
        match def.vd_next.get(LE) {
            0 => break,
            next => at = at.saturating_add(next as usize),
        }
    }
    newest(elf, section, &names).ok()?
}

/// Returns the newest `GLIBC_x.y` among the names at these offsets of the string table that belongs to `section`. The names of versions are
/// next to each other at the end of the table, so one read gets them all.
fn newest(elf: &Elf<'_>, section: &SectionHeader64<LE>, offsets: &[u32]) -> Result<Option<GlibcVersion>, FileFault> {
    let (Some(&first), Some(&last)) = (offsets.iter().min(), offsets.iter().max()) else { return Ok(None) };
    let Some(strings) = elf.section_at(section.sh_link.get(LE)) else { return Ok(None) };
    let (start, size) = (strings.sh_offset.get(LE), strings.sh_size.get(LE));
    // The last name ends somewhere within the table.
    let end = (u64::from(last) + 64).min(size);
    let count = end.saturating_sub(first.into()).min(MAX_NAMES);
    let names = elf.read(start.saturating_add(first.into()), count, "the names of its symbol versions")?;
    Ok(offsets.iter().filter_map(|offset| version(text_at(&names, (offset - first) as usize)?)).max())
}

fn version(name: &[u8]) -> Option<GlibcVersion> {
    let (major, minor) = std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_")?.split_once('.')?;
    // GLIBC_2.2.5: the third number is never decisive.
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_glibc_is_found() {
        let (major, minor) = host().expect("tests run on glibc");
        assert!(major == 2 && (20..200).contains(&minor), "{major}.{minor}");
    }

    #[test]
    fn names_of_versions() {
        assert_eq!(version(b"GLIBC_2.34"), Some((2, 34)));
        assert_eq!(version(b"GLIBC_2.2.5"), Some((2, 2)));
        for other in [&b"GLIBC_PRIVATE"[..], b"GLIBC_ABI_DT_RELR", b"GCC_3.0", b"", b"\xff"] {
            assert_eq!(version(other), None);
        }
    }
}
