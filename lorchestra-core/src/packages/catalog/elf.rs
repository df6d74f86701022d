//! Reads the parts of an ELF file that the catalog needs, with bounded, positioned reads: nothing in the file is trusted.
//!
//! [`Elf::open`] first checks the class, byte order and architecture of this machine, and that every segment that the loader would map is
//! inside the file. A truncated library would map without error and kill its process at the first access past the end.

use super::problem::{FileFault, Reason};
use object::LittleEndian as LE;
use object::elf::{self, Dyn64, FileHeader64, ProgramHeader64, SectionHeader64};
use object::pod;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Maximum size of a library in bytes. Every run copies its library into memory: a sparse file of a terabyte takes no disk space, but would
/// take that much memory.
pub(crate) const MAX_FILE: u64 = 1 << 30;
/// More sections than a linker creates unless asked to. A larger number is refused.
const MAX_SECTIONS: usize = 4096;
/// The same for the names of sections and for each version table, in bytes.
const MAX_TABLE: u64 = 256 << 10;
/// Covers the header and, in ordinary libraries, all program headers.
const FIRST_READ: usize = 1024;

/// A checked ELF file.
pub(super) struct Elf<'f> {
    file: &'f File,
    len: u64,
    sections: Vec<SectionHeader64<LE>>,
    names: Vec<u8>,
    /// Whether it requests a program interpreter, as executables do.
    is_executable: bool,
}

impl<'f> Elf<'f> {
    /// Checks the file, which is `len` bytes long.
    pub(super) fn open(file: &'f File, len: u64) -> Result<Self, FileFault> {
        if len == 0 {
            return Err(FileFault::new(Reason::Empty, "it is empty", COPY_AGAIN));
        }
        if len > MAX_FILE {
            return Err(too_large(len));
        }
        let mut elf = Self { file, len, sections: Vec::new(), names: Vec::new(), is_executable: false };
        let first = elf.read(0, len.min(FIRST_READ as u64), "its beginning")?;
        if !first.starts_with(&elf::ELFMAG) {
            return Err(FileFault::new(
                Reason::NotElf,
                looks_like(&first),
                "build the package with crate-type = [\"cdylib\"] and copy the .so file",
            ));
        }
        let header = first.get(..size_of::<FileHeader64<LE>>()).and_then(|b| pod::from_bytes::<FileHeader64<LE>>(b).ok());
        let Some((header, _)) = header else { return Err(elf.behind("its header", size_of::<FileHeader64<LE>>() as u64)) };
        check_machine(header)?;
        elf.check_segments(header, &first)?;
        elf.read_sections(header)?;
        Ok(elf)
    }

    /// Returns the header of a section by name.
    pub(super) fn section(&self, name: &str) -> Option<&SectionHeader64<LE>> {
        self.sections.iter().find(|section| self.name(section) == Some(name.as_bytes()))
    }

    pub(super) fn section_at(&self, index: u32) -> Option<&SectionHeader64<LE>> {
        self.sections.get(index as usize)
    }

    /// Reads the bytes of a section, at most `limit`.
    pub(super) fn section_bytes(&self, section: &SectionHeader64<LE>, what: &str, limit: u64) -> Result<Vec<u8>, FileFault> {
        self.read(section.sh_offset.get(LE), section.sh_size.get(LE).min(limit), what)
    }

    /// Reads the bytes of a version table.
    pub(super) fn table(&self, section: &SectionHeader64<LE>) -> Result<Vec<u8>, FileFault> {
        self.section_bytes(section, "its version table", MAX_TABLE)
    }

    /// Whether it is a program rather than a library. Some libraries can be executed too (libc.so.6 prints its version); a library to link
    /// against has a soname, which programs do not have.
    pub(super) fn is_program(&self) -> bool {
        self.is_executable && !self.has_soname()
    }

    fn has_soname(&self) -> bool {
        let Some(section) = self.section(".dynamic") else { return false };
        let Ok(bytes) = self.section_bytes(section, "its dynamic section", MAX_TABLE) else { return false };
        let entries = bytes.len() / size_of::<Dyn64<LE>>();
        let entries = pod::slice_from_bytes::<Dyn64<LE>>(&bytes, entries).map(|(entries, _)| entries.to_vec());
        entries.is_ok_and(|entries| entries.iter().any(|entry| entry.d_tag.get(LE) == elf::DT_SONAME))
    }

    /// Reads `count` bytes from `start`, which must all be inside the file.
    pub(super) fn read(&self, start: u64, count: u64, what: &str) -> Result<Vec<u8>, FileFault> {
        let end = start.saturating_add(count);
        if end > self.len {
            return Err(self.behind(what, end));
        }
        let mut bytes = vec![0; usize::try_from(count).map_err(|_| self.behind(what, end))?];
        match self.file.read_exact_at(&mut bytes, start) {
            Ok(()) => Ok(bytes),
            // The file was truncated after its length was read.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.behind(what, end)),
            Err(e) => Err(broken(&e)),
        }
    }

    fn check_segments(&mut self, header: &FileHeader64<LE>, first: &[u8]) -> Result<(), FileFault> {
        let count = usize::from(header.e_phnum.get(LE));
        let size = size_of::<ProgramHeader64<LE>>();
        if count == 0 || usize::from(header.e_phentsize.get(LE)) != size {
            return Err(FileFault::new(
                Reason::NotALibrary,
                "it has nothing to load (an object file?)",
                "copy the .so file that cargo built",
            ));
        }
        let start = header.e_phoff.get(LE);
        let bytes = (count * size) as u64;
        let near = usize::try_from(start).ok().and_then(|start| first.get(start..start.checked_add(count * size)?));
        let table = match near {
            Some(table) => table.to_vec(),
            None => self.read(start, bytes, "its program headers")?,
        };
        let Ok((segments, _)) = pod::slice_from_bytes::<ProgramHeader64<LE>>(&table, count) else {
            return Err(self.behind("its program headers", start.saturating_add(bytes)));
        };
        for segment in segments {
            match segment.p_type.get(LE) {
                elf::PT_LOAD => {
                    let end = segment.p_offset.get(LE).saturating_add(segment.p_filesz.get(LE));
                    if end > self.len {
                        return Err(self.behind("its code and data", end));
                    }
                }
                elf::PT_INTERP => self.is_executable = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_sections(&mut self, header: &FileHeader64<LE>) -> Result<(), FileFault> {
        let count = usize::from(header.e_shnum.get(LE));
        let start = header.e_shoff.get(LE);
        if start == 0
            || count == 0
            || count > MAX_SECTIONS
            || usize::from(header.e_shentsize.get(LE)) != size_of::<SectionHeader64<LE>>()
        {
            // No sections, so no manifest: the lookup of the manifest reports it.
            return Ok(());
        }
        let table = self.read(start, (count * size_of::<SectionHeader64<LE>>()) as u64, "its section headers")?;
        let Ok((sections, _)) = pod::slice_from_bytes::<SectionHeader64<LE>>(&table, count) else { return Ok(()) };
        self.sections = sections.to_vec();
        if let Some(names) = self.sections.get(usize::from(header.e_shstrndx.get(LE).0)) {
            self.names = self.section_bytes(names, "the names of its sections", MAX_TABLE)?;
        }
        Ok(())
    }

    fn name(&self, section: &SectionHeader64<LE>) -> Option<&[u8]> {
        text_at(&self.names, section.sh_name.get(LE) as usize)
    }

    fn behind(&self, what: &str, need: u64) -> FileFault {
        FileFault::new(Reason::Truncated, format!("it is {} bytes long, but {what} should end at {need}", self.len), COPY_AGAIN)
    }
}

const COPY_AGAIN: &str = "copy it again, to a temporary name first, then rename it";

/// Returns the NUL-terminated text at an offset of a string table.
pub(super) fn text_at(table: &[u8], offset: usize) -> Option<&[u8]> {
    table.get(offset..)?.split(|&b| b == 0).next()
}

pub(crate) fn too_large(len: u64) -> FileFault {
    FileFault::new(
        Reason::TooLarge,
        format!("it is {len} bytes long; the maximum is {MAX_FILE} (1 GiB)"),
        "build it with strip = true, and copy it again",
    )
}

pub(super) fn broken(error: &io::Error) -> FileFault {
    FileFault::new(
        Reason::Unreadable,
        format!("it cannot be read: {error}"),
        "copy it again; the disk or its file system may be damaged",
    )
}

/// The architecture of this build.
const MACHINE: (elf::Machine, &str) =
    if cfg!(target_arch = "aarch64") { (elf::EM_AARCH64, "aarch64") } else { (elf::EM_X86_64, "x86_64") };

fn check_machine(header: &FileHeader64<LE>) -> Result<(), FileFault> {
    let other = |what: String| {
        let host = MACHINE.1;
        FileFault::new(
            Reason::WrongArchitecture,
            format!("built for {what}; this host is 64-bit {host}"),
            format!("build it with cargo build --release --target {host}-unknown-linux-gnu"),
        )
    };
    let ident = &header.e_ident;
    if ident.class != elf::ELFCLASS64 {
        return Err(other("32 bits".into()));
    }
    if ident.data != elf::ELFDATA2LSB {
        return Err(other("big-endian processors".into()));
    }
    let machine = header.e_machine.get(LE);
    if machine != MACHINE.0 {
        return Err(other(match machine {
            elf::EM_X86_64 => "x86_64".into(),
            elf::EM_AARCH64 => "aarch64".into(),
            elf::EM_RISCV => "riscv64".into(),
            elf::EM_PPC64 => "powerpc64".into(),
            elf::EM_LOONGARCH => "loongarch64".into(),
            elf::EM_S390 => "s390x".into(),
            other => format!("another processor (ELF machine {})", other.0),
        }));
    }
    match header.e_type.get(LE) {
        elf::ET_DYN => Ok(()),
        elf::ET_EXEC => Err(not_a_library("an executable")),
        elf::ET_REL => Err(not_a_library("an object file")),
        elf::ET_CORE => Err(not_a_library("a core dump")),
        _ => Err(not_a_library("an ELF file of another kind")),
    }
}

pub(super) fn not_a_library(what: &str) -> FileFault {
    FileFault::new(
        Reason::NotALibrary,
        format!("it is {what}, not a shared library"),
        "build the package with crate-type = [\"cdylib\"] and copy the .so file",
    )
}

fn looks_like(first: &[u8]) -> &'static str {
    match first {
        [b'#', b'!', ..] => "it is a script, not an ELF file",
        [0x1f, 0x8b, ..] => "it is gzip data, not an ELF file",
        [b'P', b'K', ..] => "it is a zip archive, not an ELF file",
        [b'M', b'Z', ..] => "it is a Windows library, not an ELF file",
        [0xcf | 0xce | 0xca | 0xfe, ..] => "it may be a macOS library; it is not an ELF file",
        _ if first.starts_with(b"!<arch>") => "it is a static library, not a shared one",
        _ if first.starts_with(b"version https://git-lfs") => "it is a Git LFS pointer, not the file itself",
        _ if std::str::from_utf8(first).is_ok_and(|text| !text.contains('\0')) => "it is text, not an ELF file",
        _ => "it is not an ELF file",
    }
}
