//! Creates and tests the directory. Not done during delivery, so that an unmounted disk does not lead to files below its mount point.

use super::{JsonlConfig, PREFIX, refusal};
use crate::delivery::DeliveryError;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;

/// Whether the directory is missing.
///
/// # Errors
/// [`DeliveryError::Denied`] if there is something else.
pub fn missing(config: &JsonlConfig) -> Result<bool, DeliveryError> {
    match std::fs::metadata(&config.dir) {
        Ok(meta) if meta.is_dir() => Ok(false),
        Ok(_) => Err(DeliveryError::Denied(format!("{} is not a directory", config.dir.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(refusal(&config.dir, &error)),
    }
}

/// Creates the directory if it is missing, and tests it by creating and removing a file.
///
/// # Errors
/// The error of the file system.
pub fn set_up(config: &JsonlConfig) -> Result<(), DeliveryError> {
    let set_up = || {
        DirBuilder::new().recursive(true).mode(0o750).create(&config.dir)?;
        let mut file = tempfile::Builder::new().prefix(PREFIX).suffix(".tmp").tempfile_in(&config.dir)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()
    };
    set_up().map_err(|error| refusal(&config.dir, &error))
}
