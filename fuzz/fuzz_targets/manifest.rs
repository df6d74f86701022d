//! The JSON of a manifest with a correct header. Parsing it completely and parsing its outline agree, except about its texts, and a job of
//! an accepted manifest has a valid command line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lorchestra_plugin_api::manifest::{FORMAT, MAGIC, Manifest, ManifestError, Outline, is_name};

fuzz_target!(|json: &[u8]| {
    let mut section = MAGIC.to_vec();
    section.extend(FORMAT.to_le_bytes());
    section.extend((json.len() as u32).to_le_bytes());
    section.extend(crc32fast::hash(json).to_le_bytes());
    section.extend(json);
    let (whole, outline) = (Manifest::from_section(&section), Outline::from_section(&section));
    match (whole, outline) {
        (Ok(whole), Ok(outline)) => {
            assert!(is_name(&whole.package) && whole.package == outline.package);
            assert_eq!(whole.jobs.len(), outline.jobs.len());
            for (job, short) in whole.jobs.iter().zip(&outline.jobs) {
                assert!(is_name(&job.name) && job.name == short.name && job.params.len() == short.params.len());
                assert!(
                    job.params
                        .iter()
                        .zip(&short.params)
                        .all(|(a, b)| a.name == b.name && a.kind == b.kind && a.default == b.default)
                );
                lorchestra_cli::fuzzing::job_flags(&whole.package, job, &["--help"]);
                lorchestra_cli::fuzzing::job_flags(&whole.package, job, &[]);
            }
        }
        (Err(whole), Err(outline)) => assert_eq!(std::mem::discriminant(&whole), std::mem::discriminant(&outline)),
        // A mistake in the texts, which an outline does not have.
        (Err(ManifestError::Json(_)), Ok(_)) => {}
        (whole, outline) => panic!("{whole:?} and {outline:?}"),
    }
});
