//! Writes a manifest section in const evaluation. The counterpart of [`Outline::from_section`](super::Outline::from_section) and
//! [`Manifest::from_section`](super::Manifest::from_section).

use super::{FORMAT, HEADER_LEN, MAGIC, MAX_JSON};
use crate::def::{JobDef, PackageDef, ParamDef, ValueDef};

/// Slow, but usable in const evaluation. The reader uses crc32fast for the same checksum.
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// Returns the total length of the section for `package`.
pub const fn section_len(package: &PackageDef, abi: u32) -> usize {
    let mut out = Writer::<0> { bytes: [], len: 0 };
    out.package(package, abi);
    HEADER_LEN + out.len
}

/// Returns the section for `package`. `N` must be [`section_len`].
pub const fn section<const N: usize>(package: &PackageDef, abi: u32) -> [u8; N] {
    let mut out = Writer::<N> { bytes: [0; N], len: HEADER_LEN };
    out.package(package, abi);
    assert!(out.len == N, "N is not section_len(package)");
    let json_len = N - HEADER_LEN;
    assert!(json_len <= MAX_JSON, "plugin!: the descriptions of all jobs together exceed 1 MiB");
    let mut bytes = out.bytes;
    let (_, json) = bytes.split_at(HEADER_LEN);
    let crc = CRC.checksum(json).to_le_bytes();
    let len = (json_len as u32).to_le_bytes();
    let format = FORMAT.to_le_bytes();
    let mut i = 0;
    while i < HEADER_LEN {
        bytes[i] = match i {
            0..6 => MAGIC[i],
            6..8 => format[i - 6],
            8..12 => len[i - 8],
            _ => crc[i - 12],
        };
        i += 1;
    }
    bytes
}

/// Writes JSON in const evaluation. With `N == 0` it only counts bytes.
struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    const fn byte(&mut self, byte: u8) {
        if N > 0 {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
    }

    const fn raw(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    const fn string(&mut self, text: &str) {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        self.byte(b'"');
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            match bytes[i] {
                b'"' => self.raw("\\\""),
                b'\\' => self.raw("\\\\"),
                b'\n' => self.raw("\\n"),
                b @ 0..0x20 => {
                    self.raw("\\u00");
                    self.byte(HEX[(b >> 4) as usize]);
                    self.byte(HEX[(b & 15) as usize]);
                }
                b => self.byte(b),
            }
            i += 1;
        }
        self.byte(b'"');
    }

    const fn number(&mut self, n: u32) {
        if n >= 10 {
            self.number(n / 10);
        }
        self.byte(b'0' + (n % 10) as u8);
    }

    const fn key(&mut self, first: bool, name: &str) {
        if !first {
            self.byte(b',');
        }
        self.string(name);
        self.byte(b':');
    }

    const fn package(&mut self, package: &PackageDef, abi: u32) {
        self.outline(package, abi);
        self.byte(b'\n');
        self.texts(package);
    }

    const fn outline(&mut self, package: &PackageDef, abi: u32) {
        self.byte(b'{');
        self.key(true, "abi");
        self.number(abi);
        self.key(false, "package");
        self.string(package.name);
        self.key(false, "version");
        self.string(package.version);
        self.key(false, "jobs");
        self.byte(b'[');
        let mut i = 0;
        while i < package.jobs.len() {
            self.comma(i);
            self.job(&package.jobs[i]);
            i += 1;
        }
        self.raw("]}");
    }

    const fn job(&mut self, job: &JobDef) {
        self.byte(b'{');
        self.key(true, "name");
        self.string(job.name);
        if !job.params.is_empty() {
            self.key(false, "params");
            self.byte(b'[');
            let mut i = 0;
            while i < job.params.len() {
                self.comma(i);
                self.param(&job.params[i]);
                i += 1;
            }
            self.byte(b']');
        }
        self.text("timeout", job.timeout);
        if let Some(retries) = job.retries {
            self.key(false, "retries");
            self.number(retries);
        }
        self.text("overlap", job.overlap);
        self.text("deprecated", job.deprecated);
        self.byte(b'}');
    }

    const fn param(&mut self, param: &ParamDef) {
        self.byte(b'{');
        self.key(true, "name");
        self.string(param.name);
        self.key(false, "kind");
        self.string(param.kind.as_str());
        self.flag("optional", param.optional);
        if let Some(json) = param.default {
            self.key(false, "default");
            self.raw(json);
        }
        self.flag("repeated", param.repeated);
        if !param.values.is_empty() {
            self.values(param.values);
        }
        self.text("deprecated", param.deprecated);
        self.byte(b'}');
    }

    const fn values(&mut self, values: &[ValueDef]) {
        self.key(false, "values");
        self.byte(b'[');
        let mut i = 0;
        while i < values.len() {
            self.comma(i);
            self.byte(b'{');
            self.key(true, "name");
            self.string(values[i].name);
            self.key(false, "docs");
            self.string(values[i].docs);
            self.byte(b'}');
            i += 1;
        }
        self.byte(b']');
    }

    const fn texts(&mut self, package: &PackageDef) {
        self.byte(b'{');
        self.key(true, "rustc");
        self.string(env!("LORCHESTRA_RUSTC"));
        self.key(false, "target");
        self.string(env!("LORCHESTRA_TARGET"));
        self.key(false, "jobs");
        self.byte(b'[');
        let mut i = 0;
        while i < package.jobs.len() {
            self.comma(i);
            self.job_texts(&package.jobs[i]);
            i += 1;
        }
        self.raw("]}");
    }

    const fn job_texts(&mut self, job: &JobDef) {
        self.byte(b'{');
        self.key(true, "signature");
        self.string(job.signature);
        self.key(false, "docs");
        self.string(job.docs);
        self.key(false, "file");
        self.string(job.file);
        self.key(false, "line");
        self.number(job.line);
        self.key(false, "params");
        self.byte(b'[');
        let mut i = 0;
        while i < job.params.len() {
            let param = &job.params[i];
            self.comma(i);
            self.byte(b'{');
            self.key(true, "rust_type");
            self.string(param.rust_type);
            if !param.docs.is_empty() {
                self.text("docs", Some(param.docs));
            }
            self.byte(b'}');
            i += 1;
        }
        self.raw("]}");
    }

    /// Separates the entry with this index from the one before it.
    const fn comma(&mut self, index: usize) {
        if index > 0 {
            self.byte(b',');
        }
    }

    /// Writes a key only if it has a value.
    const fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.key(false, name);
            self.string(value);
        }
    }

    /// Writes a key only if it is true.
    const fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.key(false, name);
            self.raw("true");
        }
    }
}
