//! Finds the secrets of a plan: in the environment, in files, in systemd's credentials; without a source on the command line, by
//! [`crate::config`]. Passes them on without showing them. The error for a missing secret names its source, and where that was configured.

use crate::config::secret_key;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use lorchestra_core::host::files;
use lorchestra_core::host::rights::{self, Change, Kind, Target};
use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::source::Source;
use lorchestra_core::plan::{ParamArg, RunSpec};
use lorchestra_core::secrets::Secrets;
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::limits::MAX_SECRET;
use lorchestra_plugin_api::manifest::JobManifest;
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The source, described for a message, and the bytes.
type NamedSecret = (String, Zeroizing<Vec<u8>>);

/// The sources in config.toml that the command line does not override: by parameter, the key as written there, and the source.
#[derive(Default)]
pub(crate) struct Configured<'a>(BTreeMap<String, (&'a str, &'a str)>);

impl<'a> Configured<'a> {
    /// # Errors
    /// If the file names a secret that the job does not have, or one twice under different names.
    pub(crate) fn of(package: &str, job: &JobManifest, typed: &[ParamArg], settings: &'a Settings) -> Result<Self, CommandError> {
        let mut sources = BTreeMap::new();
        let full_name = format!("{package}/{}", job.name);
        for (name, source) in settings.jobs.get(&full_name).iter().flat_map(|policy| &policy.secrets) {
            let wrong = |what: &str, hint: &str| {
                CommandError::config(&settings.config_path, &format!("{}: {what}", secret_key(&full_name, name)), hint)
            };
            let secrets = || job.params.iter().filter(|param| param.kind == ParamKind::Secret);
            let Some(param) = secrets().find(|param| param.name == *name || param.flag() == *name) else {
                let known: Vec<&str> = secrets().map(|param| param.name.as_str()).collect();
                let there = if known.is_empty() {
                    "it has no secrets".to_owned()
                } else {
                    format!("its secrets are {}", known.join(", "))
                };
                let what = format!("{} has no such secret", job.name);
                return Err(wrong(&what, &format!("{there}; fix the name, or remove the line")));
            };
            let is_typed = |given: &ParamArg| given.name.replace('-', "_") == param.name.replace('-', "_");
            if !typed.iter().any(is_typed) && sources.insert(param.name.clone(), (name.as_str(), source.as_str())).is_some() {
                return Err(wrong("it is also set under another name", "remove one of the two lines"));
            }
        }
        Ok(Self(sources))
    }

    /// The sources as values of their parameters.
    pub(crate) fn values(&self, settings: &Settings) -> impl Iterator<Item = ParamArg> {
        let file = settings.config_name();
        self.0.iter().map(move |(param, (name, source))| ParamArg {
            name: param.clone(),
            text: (*source).to_owned(),
            typed_as: format!("{file}: secrets.{name} ="),
            is_configured: true,
        })
    }

    /// Makes paths of files absolute if they are not relative to the working directory: `~/` means the home directory, which no shell
    /// expands after `file:`, and a relative path in config.toml is relative to that file's directory.
    pub(crate) fn place(&self, spec: &mut RunSpec, settings: &Settings) {
        for (param, source) in &mut spec.secrets {
            let Source::File(path) = source else { continue };
            if let Ok(below) = path.strip_prefix("~") {
                *path = settings.home.join(below);
            } else if self.0.contains_key(param) {
                let dir = settings.config_path.parent().unwrap_or(Path::new("/"));
                *path = dir.join(&*path);
            }
        }
    }
}

/// A secret to find, and where its source was configured.
struct RequiredSecret<'a> {
    param: &'a str,
    /// The configuration file and the key that set its source.
    config: Option<(&'a Path, String)>,
}

impl RequiredSecret<'_> {
    /// An error whose message begins with "the secret".
    fn wrong(&self, what: &str) -> CommandError {
        let failure = match &self.config {
            Some((path, key)) => CommandError::new(Code::Config, format!("{}: {key}: the secret {what}", path.display())),
            None => CommandError::new(Code::Usage, format!("the secret --{} {what}", self.flag())),
        };
        failure.refusing(Cause::Secret)
    }

    fn missing(&self, why: &str) -> CommandError {
        self.wrong(&format!("is missing: {why}"))
    }

    fn flag(&self) -> String {
        self.param.replace('_', "-")
    }
}

/// Returns all secrets of the plan that were found.
///
/// # Errors
/// If a required secret is missing, or a value is not a valid secret. No worker was started.
pub(crate) fn find(spec: &RunSpec, configured: &Configured<'_>, settings: &Settings) -> Result<Secrets, CommandError> {
    let mut secrets = Secrets::default();
    let job = format!("{}/{}", spec.package, spec.job);
    for (param, source) in &spec.secrets {
        let config = configured.0.get(param).map(|(name, _)| (&*settings.config_path, secret_key(&job, name)));
        let required = RequiredSecret { param, config };
        let Some((place, bytes)) = look(&required, source, &job, settings)? else { continue };
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            required
                .wrong(&format!("({place}) is not UTF-8"))
                .hint("secrets are text; encode binary data as base64 and decode it in the job")
        })?;
        secrets
            .insert(param, Zeroizing::new(text.to_owned()))
            .map_err(|why| required.wrong(&format!("({place}) {why}")).hint("store the complete secret there"))?;
    }
    Ok(secrets)
}

fn look(
    required: &RequiredSecret<'_>,
    source: &Source,
    job: &str,
    settings: &Settings,
) -> Result<Option<NamedSecret>, CommandError> {
    match source {
        Source::Env(name) => variable(settings, name).map(Some).ok_or_else(|| {
            required
                .missing(&format!("the environment variable {name} is not set"))
                .hint(format!("export {name}=…, or use another source"))
        }),
        Source::File(path) => file(required, path).map(Some),
        Source::Credential(name) => match credential(settings, name) {
            Some(path) => file(required, &path).map(Some),
            None => Err(required
                .missing("CREDENTIALS_DIRECTORY is not set")
                .hint(format!("run it from a systemd unit with LoadCredential={name}:PATH, or use another source"))),
        },
        Source::Usual { credential: name, variable: env, optional } => {
            let path = credential(settings, name).filter(|path| path.exists());
            match (path, variable(settings, env)) {
                (Some(path), _) => file(required, &path).map(Some),
                (None, Some(found)) => Ok(Some(found)),
                (None, None) if *optional => Ok(None),
                (None, None) => {
                    let flag = required.flag();
                    Err(required
                        .missing(&format!("no source is given, credential {name} does not exist, and {env} is not set"))
                        .hint(format!("--{flag} env:NAME, --{flag} file:PATH or --{flag} credential:NAME"))
                        .hint(format!("or in config.toml: {} = \"SOURCE\"", secret_key(job, required.param))))
                }
            }
        }
    }
}

/// An empty variable counts as not set.
fn variable(settings: &Settings, name: &str) -> Option<NamedSecret> {
    use std::os::unix::ffi::OsStringExt;
    let value = settings.variable(name).filter(|value| !value.is_empty())?;
    Some((format!("from {name}"), Zeroizing::new(OsString::into_vec(value))))
}

fn credential(settings: &Settings, name: &str) -> Option<PathBuf> {
    settings.credentials.as_ref().map(|dir| dir.join(name))
}

/// Reads a file. A file of this user that others may read is refused.
fn file(required: &RequiredSecret<'_>, path: &Path) -> Result<NamedSecret, CommandError> {
    let shown = path.display();
    let failed = |e: io::Error| {
        let failure = required.missing(&format!("{shown} cannot be read: {e}"));
        match e.kind() {
            io::ErrorKind::NotFound => failure.hint("create the file with the secret, or use another source"),
            io::ErrorKind::PermissionDenied => failure.hint(format!("{}, or use another source", rights::readable(path))),
            _ => failure.hint("use a file that contains only the secret"),
        }
    };
    let file = files::open_regular(path, OFlags::RDONLY).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() == user && meta.mode() & 0o077 != 0 {
        let failure = required.wrong(&format!("is in {shown}, which other users may read or write"));
        let private = rights::command(Target { path, owner: user, kind: Kind::File }, Change::Private, user);
        return Err(private.into_iter().fold(failure, CommandError::hint));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    // One byte more than a secret and its line break may have, so that a longer one is refused rather than cut.
    file.take(MAX_SECRET as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
    Ok((format!("from {shown}"), bytes))
}
