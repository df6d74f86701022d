//! Finds the secrets of a plan: in the environment, in files, in systemd's credentials. What is found is handed on and never shown; what
//! is not found is told by its source.

use crate::exit::Code;
use crate::failure::Failure;
use crate::settings::Settings;
use lorchestra_core::plan::Plan;
use lorchestra_core::plan::source::Source;
use lorchestra_core::secrets::{MAX, Secrets};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What was found, in words, and its bytes.
type Found = (String, Zeroizing<Vec<u8>>);

/// All secrets of the plan that are there.
///
/// # Errors
/// One that the job needs is nowhere, or what is there is none. No worker was started.
pub(crate) fn find(plan: &Plan, settings: &Settings) -> Result<Secrets, Failure> {
    let mut secrets = Secrets::default();
    for (param, source) in &plan.secrets {
        let Some((place, bytes)) = look(param, source, plan, settings)? else { continue };
        let flag = param.replace('_', "-");
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            Failure::new(Code::Usage, format!("the secret --{flag} ({place}) is not UTF-8"))
                .mend("a secret is a text; encode bytes as base64, and let the job decode them")
        })?;
        secrets.insert(param, Zeroizing::new(text.to_owned())).map_err(|why| {
            Failure::new(Code::Usage, format!("the secret --{flag} ({place}) {why}")).mend("put the whole secret there")
        })?;
    }
    Ok(secrets)
}

fn look(param: &str, source: &Source, plan: &Plan, settings: &Settings) -> Result<Option<Found>, Failure> {
    match source {
        Source::Env(name) => variable(settings, name).map(Some).ok_or_else(|| {
            missing(param, format!("the environment variable {name} is not set"))
                .mend(format!("export {name}=…, or name another source"))
        }),
        Source::File(path) => file(param, path).map(Some),
        Source::Credential(name) => match credential(settings, name) {
            Some(path) => file(param, &path).map(Some),
            None => Err(missing(param, "there are no credentials: CREDENTIALS_DIRECTORY is not set".into())
                .mend(format!("run it from a systemd unit with LoadCredential={name}:PATH, or name another source"))),
        },
        Source::Usual { credential: name, variable: env, optional } => {
            let path = credential(settings, name).filter(|path| path.exists());
            match (path, variable(settings, env)) {
                (Some(path), _) => file(param, &path).map(Some),
                (None, Some(found)) => Ok(Some(found)),
                (None, None) if *optional => Ok(None),
                (None, None) => {
                    let flag = param.replace('_', "-");
                    Err(missing(param, format!("nobody says where it is, there is no credential {name}, and {env} is not set"))
                        .mend(format!("--{flag} env:NAME, --{flag} file:PATH or --{flag} credential:NAME"))
                        .mend(format!("or in config.toml: [job.\"{}/{}\".secrets] {param} = \"SOURCE\"", plan.package, plan.job)))
                }
            }
        }
    }
}

fn missing(param: &str, why: String) -> Failure {
    Failure::new(Code::Usage, format!("the secret --{} is missing: {why}", param.replace('_', "-")))
}

/// An empty variable counts as one that is not set.
fn variable(settings: &Settings, name: &str) -> Option<Found> {
    use std::os::unix::ffi::OsStringExt;
    let value = settings.variable(name).filter(|value| !value.is_empty())?;
    Some((format!("from {name}"), Zeroizing::new(OsString::into_vec(value))))
}

fn credential(settings: &Settings, name: &str) -> Option<PathBuf> {
    settings.credentials.as_ref().map(|dir| dir.join(name))
}

/// The file's bytes. One of this user's own that others may read is no secret.
fn file(param: &str, path: &Path) -> Result<Found, Failure> {
    let shown = path.display();
    let failed = |e: io::Error| {
        let failure = missing(param, format!("{shown} cannot be read: {e}"));
        match e.kind() {
            io::ErrorKind::NotFound => failure.mend("put the secret there, or name another source"),
            io::ErrorKind::PermissionDenied => failure.mend(format!("chown {} {shown}, or name another source", whoami())),
            _ => failure.mend("name a file that holds the secret and nothing else"),
        }
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    if meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 != 0 {
        return Err(Failure::new(
            Code::Usage,
            format!("the secret --{} is in {shown}, which others may read or write", param.replace('_', "-")),
        )
        .mend(format!("chmod 600 {shown}")));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    // One byte more than any secret and its line break may have: too long is told, and not cut.
    file.take(MAX as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
    Ok((format!("from {shown}"), bytes))
}

fn whoami() -> String {
    rustix::process::geteuid().as_raw().to_string()
}
