//! Creates N packages from one library, which differ only in their names: `pkg-0000`, `pkg-0001`, … in a separate directory.
//!
//! Replaces the name in the manifest by one of the same length, and updates the checksum. The root module keeps the old name, so such a
//! copy can be listed and shown, but not run.

use lorchestra_plugin_api::manifest::{HEADER_LEN, MAGIC, Manifest};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(library), Some(dir), Some(count)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: bench-copies LIBRARY DIR N".into());
    };
    let count: usize = count.to_str().ok_or("N is a number")?.parse()?;
    if count > 10_000 {
        Err("there are 10000 names")?;
    }
    let mut library = std::fs::read(library)?;
    let section = section_at(&library).ok_or("the library has no manifest")?;
    let manifest = Manifest::from_section(&library[section..])?;
    let json = section + HEADER_LEN..section + HEADER_LEN + Manifest::json_len(&library[section..])?;
    let key = format!("\"package\":\"{}\"", manifest.package);
    let name = find(&library[json.clone()], key.as_bytes()).ok_or("the manifest's name was not found")?;
    let name = json.start + name + key.len() - 1 - manifest.package.len();
    for n in 0..count {
        let new = format!("pkg-{n:04}");
        if new.len() != manifest.package.len() {
            Err("the library's own package is not named pkg-0000")?;
        }
        library[name..name + new.len()].copy_from_slice(new.as_bytes());
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&library[json.clone()]);
        library[section + HEADER_LEN - 4..section + HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(Path::new(&dir).join(format!("lib{new}.so")), &library)?;
    }
    Ok(())
}

/// Finds the section: the one place that begins with the magic bytes and is consistent.
fn section_at(library: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + find(library.get(from..)?, &MAGIC)?;
        if Manifest::from_section(&library[at..]).is_ok() {
            return Some(at);
        }
        from = at + 1;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
