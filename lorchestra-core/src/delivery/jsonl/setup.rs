//! The directory, made where it is missing, and tried. Never on the way of an event: a disk that is not mounted is not filled up below its
//! mount point.

use super::{JsonlConfig, PREFIX, refusal};
use crate::delivery::DeliveryError;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;

/// Whether the directory is missing.
///
/// # Errors
/// [`DeliveryError::Denied`]: there is something else.
pub fn missing(config: &JsonlConfig) -> Result<bool, DeliveryError> {
    match std::fs::metadata(&config.dir) {
        Ok(meta) if meta.is_dir() => Ok(false),
        Ok(_) => Err(DeliveryError::Denied(format!("{} is not a directory", config.dir.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(refusal(&config.dir, &error)),
    }
}

/// Makes the directory where it is missing, and a file in it that is removed again.
///
/// # Errors
/// What the file system has against it.
pub fn set_up(config: &JsonlConfig) -> Result<(), DeliveryError> {
    let set_up = || {
        DirBuilder::new().recursive(true).mode(0o750).create(&config.dir)?;
        let mut file = tempfile::Builder::new().prefix(PREFIX).suffix(".tmp").tempfile_in(&config.dir)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()
    };
    set_up().map_err(|error| refusal(&config.dir, &error))
}
