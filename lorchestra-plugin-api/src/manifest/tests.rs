//! Both directions of the format, and what is refused.

use super::*;
use crate::def::{JobDef, PackageDef, ParamDef, ValueDef};
use serde_json::{Value, json};

static PACKAGE: PackageDef = PackageDef {
    name: "pack",
    version: "1.2.3",
    jobs: &[JobDef {
        name: "a_job",
        signature: "(cx, n: u32 = 500)",
        docs: "Says \"hé\\\".\n\u{1b}[31mred\ttab",
        file: "src/lib.rs",
        line: 1042,
        params: &[ParamDef {
            name: "n",
            rust_type: "u32",
            kind: ParamKind::Uint(32),
            optional: false,
            default: Some("500"),
            docs: "",
            repeated: false,
            values: &[],
            deprecated: None,
        }],
        timeout: None,
        retries: None,
        overlap: None,
        deprecated: None,
    }],
};
const LEN: usize = section_len(&PACKAGE, 1);
static SECTION_BYTES: [u8; LEN] = section(&PACKAGE, 1);

#[test]
fn a_written_manifest_is_read_back_unchanged() {
    let manifest = Manifest::from_section(&SECTION_BYTES).unwrap();
    let outline = Outline::from_section(&SECTION_BYTES).unwrap();
    assert_eq!((outline.package, outline.version, outline.jobs[0].name.as_str()), ("pack".into(), "1.2.3".into(), "a_job"));
    assert_eq!(manifest.package, "pack");
    assert_eq!(manifest.jobs[0].docs, PACKAGE.jobs[0].docs);
    assert_eq!(manifest.jobs[0].line, 1042);
    assert_eq!(manifest.jobs[0].params[0].default, serde_json::json!(500));
    assert_eq!(manifest.jobs[0].params[0].kind, ParamKind::Uint(32));
}

#[test]
fn padding_after_the_json_is_ignored() {
    let mut bytes = SECTION_BYTES.to_vec();
    bytes.extend([0; 13]);
    assert!(Manifest::from_section(&bytes).is_ok());
}

#[test]
fn a_second_manifest_is_reported() {
    let twice = [SECTION_BYTES, SECTION_BYTES].concat();
    assert_eq!(Manifest::from_section(&twice), Err(ManifestError::Multiple));
}

/// Keys that may be absent are absent where a package does not use them.
#[test]
fn unused_fields_are_not_in_the_manifest() {
    let json = std::str::from_utf8(&SECTION_BYTES[HEADER_LEN..]).unwrap();
    for key in ["optional", "timeout", "retries", "overlap", "deprecated", "repeated", "values"] {
        assert!(!json.contains(key), "{key}");
    }
    let [outline, _] = lines(&SECTION_BYTES);
    assert_eq!(
        outline,
        json!({"abi": 1, "package": "pack", "version": "1.2.3", "jobs": [{"name": "a_job", "params": [{"name": "n", "kind": "u32", "default": 500}]}]})
    );
}

static RICH: PackageDef = PackageDef {
    name: "rich",
    version: "1.0.0",
    jobs: &[JobDef {
        name: "a_job",
        signature: "(cx)",
        docs: "",
        file: "f",
        line: 1,
        params: &[ParamDef {
            name: "format",
            rust_type: "Vec<Format>",
            kind: ParamKind::Enum,
            optional: true,
            default: None,
            docs: "",
            repeated: true,
            values: &[ValueDef { name: "json", docs: "One object." }, ValueDef { name: "nd-json", docs: "" }],
            deprecated: Some("use \"shape\""),
        }],
        timeout: Some("30m"),
        retries: Some(2),
        overlap: Some("wait=5m"),
        deprecated: Some("use other_job"),
    }],
};

#[test]
fn every_field_of_a_job_is_read() {
    static BYTES: [u8; section_len(&RICH, 2)] = section(&RICH, 2);
    let job = Manifest::from_section(&BYTES).unwrap().jobs.remove(0);
    assert_eq!((job.timeout.as_deref(), job.retries, job.overlap.as_deref()), (Some("30m"), Some(2), Some("wait=5m")));
    assert_eq!(job.deprecated.as_deref(), Some("use other_job"));
    let param = &job.params[0];
    assert!(param.repeated && !param.is_required());
    assert_eq!(param.deprecated.as_deref(), Some("use \"shape\""));
    let values: Vec<(&str, &str)> = param.values.iter().map(|value| (&*value.name, &*value.docs)).collect();
    assert_eq!(values, [("json", "One object."), ("nd-json", "")]);
    let outline = Outline::from_section(&BYTES).unwrap();
    assert_eq!(outline.jobs[0].deprecated, job.deprecated);
}

#[test]
fn every_truncation_and_every_flipped_byte_is_an_error() {
    for cut in 0..LEN {
        assert!(Manifest::from_section(&SECTION_BYTES[..cut]).is_err(), "cut at {cut}");
    }
    for i in 0..LEN {
        let mut bytes = SECTION_BYTES;
        bytes[i] ^= 0x20;
        assert!(Manifest::from_section(&bytes).is_err(), "byte {i} flipped");
    }
}

#[test]
fn an_announced_gigabyte_is_refused() {
    let mut bytes = SECTION_BYTES;
    bytes[8..12].copy_from_slice(&(1u32 << 30).to_le_bytes());
    assert_eq!(Manifest::json_len(&bytes), Err(ManifestError::TooLong(1 << 30)));
}

/// Returns a section with these lines of JSON.
fn section_of(lines: &[Value; 2]) -> Vec<u8> {
    section_of_text(&lines.each_ref().map(Value::to_string).join("\n"))
}

fn section_of_text(text: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(text.as_bytes()).to_le_bytes());
    bytes.extend(text.bytes());
    bytes
}

/// Returns the two lines of a section.
fn lines(section: &[u8]) -> [Value; 2] {
    let mut lines = section[HEADER_LEN..].split(|&byte| byte == b'\n').map(|line| serde_json::from_slice(line).unwrap());
    std::array::from_fn(|_| lines.next().unwrap())
}

/// The manifest above as JSON, with these parameters (name and kind).
fn with_params(params: &[(&str, &str)]) -> [Value; 2] {
    let [mut outline, mut texts] = lines(&SECTION_BYTES);
    outline["jobs"][0]["params"] =
        params.iter().map(|(name, kind)| json!({"name": name, "kind": kind, "optional": true})).collect();
    texts["jobs"][0]["params"] = params.iter().map(|(_, kind)| json!({"rust_type": kind, "docs": "Says."})).collect();
    [outline, texts]
}

#[test]
fn conflicting_flags_are_refused_and_named() {
    let twice = "the parameter \"a\" of \"a_job\" is listed twice";
    let own = "the parameter \"plugin_dir\" of \"a_job\" has the flag --plugin-dir, which lorchestra itself uses";
    for (params, why) in [
        (&[("a_b", "u8"), ("a-b", "u8")][..], "the parameters \"a_b\" and \"a-b\" of \"a_job\" share the flag --a-b"),
        (&[("x", "bool"), ("no_x", "u8")], "the parameters \"x\" and \"no_x\" of \"a_job\" share the flag --no-x"),
        (&[("no-x", "bool"), ("x", "bool")], "the parameters \"no-x\" and \"x\" of \"a_job\" share the flag --no-x"),
        (&[("a", "u8"), ("b", "u8"), ("a", "bool")], twice),
        (&[("a", "bool"), ("a", "bool")], twice),
        (&[("help", "string")], "the parameter \"help\" of \"a_job\" has the flag --help, which lorchestra itself uses"),
        (&[("version", "string")], "has the flag --version, which lorchestra itself uses"),
        (&[("verbose", "bool")], "has the flag --verbose, which lorchestra itself uses"),
        (&[("plugin_dir", "path")], own),
        (&[("A", "u8")], "the parameter name \"A\""),
    ] {
        let bytes = section_of(&with_params(params));
        for error in [Manifest::from_section(&bytes).unwrap_err(), Outline::from_section(&bytes).unwrap_err()] {
            assert!(error.to_string().contains(why), "{params:?}: {error}");
        }
    }
    // Only a bool has a `--no-` flag.
    let bytes = section_of(&with_params(&[("x", "string"), ("no_x", "string"), ("timeout", "u8"), ("helper", "bool")]));
    assert!(Manifest::from_section(&bytes).is_ok() && Outline::from_section(&bytes).is_ok());
}

/// Removes or replaces each value in the JSON, one at a time. A manifest with a mistake in its outline is refused by both readers, one
/// with a mistake in its texts only by the complete one.
#[test]
fn a_mistake_anywhere_is_refused_by_who_reads_it() {
    fn paths(value: &Value, at: String, all: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| paths(value, format!("{at}/{key}"), all)),
            Value::Array(list) => list.iter().enumerate().for_each(|(i, value)| paths(value, format!("{at}/{i}"), all)),
            _ => {}
        }
        all.push(at);
    }
    let whole = with_params(&[("n", "u8"), ("x", "bool")]);
    for line in 0..2 {
        let mut all = Vec::new();
        paths(&whole[line], String::new(), &mut all);
        let mut refused = 0;
        for path in &all {
            let new = [
                json!(null),
                json!(7),
                json!(-1),
                json!("text"),
                json!("Bad Name"),
                json!(true),
                json!([]),
                json!({}),
                json!([1]),
            ];
            let mut changes: Vec<[Value; 2]> = new
                .into_iter()
                .map(|new| {
                    let mut changed = whole.clone();
                    *changed[line].pointer_mut(path).unwrap() = new;
                    changed
                })
                .collect();
            let mut without = whole.clone();
            if let Some((parent, key)) = path.rsplit_once('/')
                && let Some(Value::Object(map)) = without[line].pointer_mut(parent)
            {
                map.remove(key);
                changes.push(without);
            }
            for changed in changes {
                let bytes = section_of(&changed);
                let (manifest, outline) = (Manifest::from_section(&bytes), Outline::from_section(&bytes));
                refused += usize::from(manifest.is_err());
                match (line, manifest, outline) {
                    // A number of jobs or parameters is a mistake of neither line alone.
                    (0, Err(ManifestError::Json(why)), Ok(_)) => assert!(why.contains("but texts for"), "{path}: {why}"),
                    (0, manifest, outline) => assert_eq!(manifest.map(drop), outline.map(drop), "{path}: {changed:?}"),
                    (_, _, outline) => assert!(outline.is_ok(), "{path}: {changed:?}"),
                }
            }
        }
        assert!(refused > 4 * all.len(), "{refused} of {} paths of line {line}", all.len());
    }
}

#[test]
fn texts_of_other_jobs_or_parameters_are_refused() {
    let mut fewer = with_params(&[("n", "u8")]);
    fewer[1]["jobs"] = json!([]);
    let mut more = with_params(&[("n", "u8")]);
    more[1]["jobs"][0]["params"] = json!([{"rust_type": "u8"}, {"rust_type": "u8"}]);
    for (lines, why) in [(fewer, "there are 1 jobs, but texts for 0"), (more, "there are 1 parameters, but texts for 2")] {
        assert_eq!(Manifest::from_section(&section_of(&lines)), Err(ManifestError::Json(why.into())));
    }
    let one_line = section_of_text(&with_params(&[])[0].to_string());
    for error in [Manifest::from_section(&one_line).unwrap_err(), Outline::from_section(&one_line).unwrap_err()] {
        assert_eq!(error, ManifestError::Json("the second line is missing".into()));
    }
}

#[test]
fn names() {
    for good in ["a", "ingester", "a-b_c9"] {
        assert!(is_name(good), "{good}");
    }
    let long = "a".repeat(65);
    for bad in ["", "A", "9a", "_a", "a.b", "a/b", "ä", &long] {
        assert!(!is_name(bad), "{bad}");
    }
}
