//! Finds the secrets of a plan: in the environment, in files, in systemd's credentials; where nobody typed a source, by what
//! [`crate::config`] says. What is found is handed on and never shown; what is not found is told by its source and by who named that.

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

/// What was found, in words, and its bytes.
type NamedSecret = (String, Zeroizing<Vec<u8>>);

/// The sources that config.toml names and the command line does not: by parameter, the key as it is written there, and the source.
#[derive(Default)]
pub(crate) struct Configured<'a>(BTreeMap<String, (&'a str, &'a str)>);

impl<'a> Configured<'a> {
    /// # Errors
    /// The file names a secret that the job does not take, or one by two names.
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
                let there = if known.is_empty() { "it has none".to_owned() } else { format!("there are {}", known.join(", ")) };
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
    pub(crate) fn values(&self) -> impl Iterator<Item = ParamArg> {
        self.0.iter().map(|(param, (name, source))| ParamArg {
            name: param.clone(),
            text: (*source).to_owned(),
            typed_as: format!("config.toml: secrets.{name} ="),
        })
    }

    /// Makes paths of files absolute where they do not count from the working directory: `~/` is the home directory, which no shell writes out
    /// behind `file:`, and a relative path in config.toml counts from the directory of that.
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

/// A secret that is looked for, and who said where.
struct Sought<'a> {
    param: &'a str,
    /// The file that names its source, and the key.
    config: Option<(&'a Path, String)>,
}

impl Sought<'_> {
    /// What is wrong with it: the end of a sentence that begins with "the secret".
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

/// All secrets of the plan that are there.
///
/// # Errors
/// One that the job needs is nowhere, or what is there is none. No worker was started.
pub(crate) fn find(spec: &RunSpec, configured: &Configured<'_>, settings: &Settings) -> Result<Secrets, CommandError> {
    let mut secrets = Secrets::default();
    let job = format!("{}/{}", spec.package, spec.job);
    for (param, source) in &spec.secrets {
        let config = configured.0.get(param).map(|(name, _)| (&*settings.config_path, secret_key(&job, name)));
        let sought = Sought { param, config };
        let Some((place, bytes)) = look(&sought, source, &job, settings)? else { continue };
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            sought
                .wrong(&format!("({place}) is not UTF-8"))
                .hint("secrets are text; encode binary data as base64 and decode it in the job")
        })?;
        secrets
            .insert(param, Zeroizing::new(text.to_owned()))
            .map_err(|why| sought.wrong(&format!("({place}) {why}")).hint("store the complete secret there"))?;
    }
    Ok(secrets)
}

fn look(sought: &Sought<'_>, source: &Source, job: &str, settings: &Settings) -> Result<Option<NamedSecret>, CommandError> {
    match source {
        Source::Env(name) => variable(settings, name).map(Some).ok_or_else(|| {
            sought
                .missing(&format!("the environment variable {name} is not set"))
                .hint(format!("export {name}=…, or use another source"))
        }),
        Source::File(path) => file(sought, path).map(Some),
        Source::Credential(name) => match credential(settings, name) {
            Some(path) => file(sought, &path).map(Some),
            None => Err(sought
                .missing("CREDENTIALS_DIRECTORY is not set")
                .hint(format!("run it from a systemd unit with LoadCredential={name}:PATH, or use another source"))),
        },
        Source::Usual { credential: name, variable: env, optional } => {
            let path = credential(settings, name).filter(|path| path.exists());
            match (path, variable(settings, env)) {
                (Some(path), _) => file(sought, &path).map(Some),
                (None, Some(found)) => Ok(Some(found)),
                (None, None) if *optional => Ok(None),
                (None, None) => {
                    let flag = sought.flag();
                    Err(sought
                        .missing(&format!("no source is given, credential {name} does not exist, and {env} is not set"))
                        .hint(format!("--{flag} env:NAME, --{flag} file:PATH or --{flag} credential:NAME"))
                        .hint(format!("or in config.toml: {} = \"SOURCE\"", secret_key(job, sought.param))))
                }
            }
        }
    }
}

/// An empty variable counts as one that is not set.
fn variable(settings: &Settings, name: &str) -> Option<NamedSecret> {
    use std::os::unix::ffi::OsStringExt;
    let value = settings.variable(name).filter(|value| !value.is_empty())?;
    Some((format!("from {name}"), Zeroizing::new(OsString::into_vec(value))))
}

fn credential(settings: &Settings, name: &str) -> Option<PathBuf> {
    settings.credentials.as_ref().map(|dir| dir.join(name))
}

/// The file's bytes. One of this user's own that others may read is no secret.
fn file(sought: &Sought<'_>, path: &Path) -> Result<NamedSecret, CommandError> {
    let shown = path.display();
    let failed = |e: io::Error| {
        let failure = sought.missing(&format!("{shown} cannot be read: {e}"));
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
        let failure = sought.wrong(&format!("is in {shown}, which other users may read or write"));
        let private = rights::command(Target { path, owner: user, kind: Kind::File }, Change::Private, user);
        return Err(private.into_iter().fold(failure, CommandError::hint));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    // One byte more than any secret and its line break may have: too long is told, and not cut.
    file.take(MAX_SECRET as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
    Ok((format!("from {shown}"), bytes))
}
