//! Who we are to Google: found where Google's own tools look. Reads one file; talks to no network (tokens are
//! [`super::token`]'s). Promises that what is secret in them is in no error and no Debug, and that what cannot be used says in
//! one sentence what was tried and how to mend it.

use crate::delivery::Refusal;
use gcp_bigquery_client::yup_oauth2::ServiceAccountKey;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use tonic::codegen::http::Uri;

/// Where credentials are looked for: the file, else gcloud's file, else the metadata server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialSources {
    /// GOOGLE_APPLICATION_CREDENTIALS. When given, it alone counts.
    pub file: Option<PathBuf>,
    /// Where gcloud puts `application_default_credentials.json`; need not exist.
    pub gcloud: Option<PathBuf>,
    /// Whether the metadata server of Google's machines may be asked.
    pub metadata: bool,
    /// GCE_METADATA_HOST: its `host` or `host:port`.
    pub metadata_host: Option<String>,
}

/// What was found.
pub(super) enum Credentials {
    /// A plain-text endpoint: an emulator.
    None,
    ServiceAccount {
        file: PathBuf,
        key: Box<ServiceAccountKey>,
        quota_project: Option<String>,
    },
    User {
        file: PathBuf,
        user: Box<User>,
    },
    Metadata {
        host: String,
    },
}

/// The form `authorized_user`, of `gcloud auth application-default login`.
#[derive(Deserialize)]
pub(super) struct User {
    pub(super) client_id: String,
    pub(super) client_secret: String,
    pub(super) refresh_token: String,
    #[serde(default)]
    pub(super) token_uri: Option<String>,
    #[serde(default)]
    pub(super) quota_project_id: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::ServiceAccount { file, .. } => write!(f, "ServiceAccount({})", file.display()),
            Self::User { file, .. } => write!(f, "User({})", file.display()),
            Self::Metadata { host } => write!(f, "Metadata({host})"),
        }
    }
}

const LOGIN: &str = "`gcloud auth application-default login`";
const METADATA_HOST: &str = "metadata.google.internal";

impl Credentials {
    /// `plain`: the endpoints are emulators, for which only a file named on purpose is read.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`].
    pub(super) fn find(sources: &CredentialSources, plain: bool) -> Result<Self, Refusal> {
        if let Some(file) = &sources.file {
            return read(file, true);
        }
        if plain {
            return Ok(Self::None);
        }
        if let Some(file) = &sources.gcloud
            && file.try_exists().unwrap_or(true)
        {
            return read(file, false);
        }
        if sources.metadata {
            let host = sources.metadata_host.as_deref().map(str::trim).filter(|host| !host.is_empty()).unwrap_or(METADATA_HOST);
            return Ok(Self::Metadata { host: host.to_owned() });
        }
        let looked = sources.gcloud.as_ref().map(|file| format!(", there is no {}", file.display())).unwrap_or_default();
        Err(Refusal::Unauthenticated(format!(
            "no credentials: GOOGLE_APPLICATION_CREDENTIALS is not set{looked}, and the metadata server is not to be asked: \
             run {LOGIN}"
        )))
    }

    /// The project they belong to, where the file tells.
    pub(super) fn project(&self) -> Option<&str> {
        match self {
            Self::ServiceAccount { key, quota_project, .. } => key.project_id.as_deref().or(quota_project.as_deref()),
            Self::User { user, .. } => user.quota_project_id.as_deref(),
            Self::None | Self::Metadata { .. } => None,
        }
    }

    /// The project that pays for the requests, if the file names one.
    pub(super) fn quota_project(&self) -> Option<&str> {
        match self {
            Self::ServiceAccount { quota_project, .. } => quota_project.as_deref(),
            Self::User { user, .. } => user.quota_project_id.as_deref(),
            Self::None | Self::Metadata { .. } => None,
        }
    }
}

fn read(file: &Path, named: bool) -> Result<Credentials, Refusal> {
    let shown = file.display();
    let whence = if named { "the file of GOOGLE_APPLICATION_CREDENTIALS" } else { "gcloud's file" };
    let refuse = |what: String| Err(Refusal::Unauthenticated(format!("credentials: {whence}, {shown}, {what}")));
    let again = if named { "name a readable key file".to_owned() } else { format!("run {LOGIN} again") };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse(format!("is not there: correct the path, or unset the variable and run {LOGIN}"));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return refuse(format!("is not JSON: {again}")),
        Err(error) => return refuse(format!("cannot be read ({error}): {again}")),
    };
    // serde's errors may quote the value they stumbled over: they are never shown.
    let Ok(Value::Object(object)) = serde_json::from_str(&text) else { return refuse(format!("is not JSON: {again}")) };
    let form = object.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
    let quota_project = object.get("quota_project_id").and_then(Value::as_str).map(str::to_owned);
    let missing = |needed: &[&str]| {
        needed
            .iter()
            .find(|&&name| object.get(name).and_then(Value::as_str).is_none_or(str::is_empty))
            .map(|name| (*name).to_owned())
    };
    let needed: &[&str] = match form.as_str() {
        "service_account" => &["client_email", "private_key", "token_uri"],
        "authorized_user" => &["client_id", "client_secret", "refresh_token"],
        "" => return refuse(format!("is no credentials file (it has no `type`): {again}")),
        other => {
            let other = super::words::one_line(other);
            return refuse(format!(
                "has the form {other}, which lorchestra cannot use: name a service_account key, \
                 or an authorized_user file made by {LOGIN}"
            ));
        }
    };
    if let Some(name) = missing(needed) {
        return refuse(format!("has the form {form}, but no `{name}`: {again}"));
    }
    // yup-oauth2 panics over one that is none.
    if object.get("token_uri").and_then(Value::as_str).is_some_and(|uri| uri.parse::<Uri>().is_err()) {
        return refuse(format!("has the form {form}, but its `token_uri` is no address: {again}"));
    }
    let file = file.to_owned();
    if form == "service_account" {
        let Ok(key) = serde_json::from_value(Value::Object(object)) else {
            return refuse(format!("has the form {form}, but is not complete: {again}"));
        };
        return Ok(Credentials::ServiceAccount { file, key: Box::new(key), quota_project });
    }
    let Ok(user) = serde_json::from_value(Value::Object(object)) else {
        return refuse(format!("has the form {form}, but is not complete: {again}"));
    };
    Ok(Credentials::User { file, user: Box::new(user) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const SERVICE: &str = r#"{"type":"service_account","project_id":"proj","private_key_id":"id","private_key":"hunter2-key",
        "client_email":"a@b","client_id":"1","token_uri":"https://oauth2.googleapis.com/token"}"#;
    const USER: &str = r#"{"type":"authorized_user","client_id":"id","client_secret":"hunter2-secret",
        "refresh_token":"hunter2-refresh","quota_project_id":"pays"}"#;

    fn put(dir: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn named(file: PathBuf) -> CredentialSources {
        CredentialSources { file: Some(file), metadata: true, ..CredentialSources::default() }
    }

    #[test]
    fn the_forms_we_know() {
        let dir = TempDir::new().unwrap();
        let found = Credentials::find(&named(put(&dir, "s", SERVICE)), false).unwrap();
        assert!(matches!(&found, Credentials::ServiceAccount { key, .. } if key.client_email == "a@b"));
        assert_eq!((found.project(), found.quota_project()), (Some("proj"), None));
        assert!(!format!("{found:?}").contains("hunter2"));

        let found = Credentials::find(&named(put(&dir, "u", USER)), true).unwrap();
        assert!(matches!(&found, Credentials::User { user, .. } if user.refresh_token == "hunter2-refresh"));
        assert_eq!((found.project(), found.quota_project()), (Some("pays"), Some("pays")));
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn order_of_the_sources() {
        let dir = TempDir::new().unwrap();
        let mut sources = named(put(&dir, "s", SERVICE));
        sources.gcloud = Some(put(&dir, "u", USER));
        let form = |sources: &CredentialSources, plain| format!("{:?}", Credentials::find(sources, plain).unwrap());
        assert!(form(&sources, false).starts_with("ServiceAccount("));
        sources.file = None;
        assert!(form(&sources, false).starts_with("User("));
        assert_eq!(form(&sources, true), "None");
        sources.gcloud = Some(dir.path().join("none"));
        assert_eq!(form(&sources, false), "Metadata(metadata.google.internal)");
        sources.metadata_host = Some("127.0.0.1:1".to_owned());
        assert_eq!(form(&sources, false), "Metadata(127.0.0.1:1)");
        sources.metadata = false;
        let text = Credentials::find(&sources, false).unwrap_err().to_string();
        assert!(text.contains("GOOGLE_APPLICATION_CREDENTIALS is not set, there is no "), "{text}");
        assert!(text.contains("gcloud auth application-default login"), "{text}");
    }

    #[test]
    fn refused_with_file_form_and_mend_and_without_secrets() {
        let dir = TempDir::new().unwrap();
        for (name, text, said) in [
            ("external", r#"{"type":"external_account","audience":"hunter2"}"#, "has the form external_account, which"),
            (
                "impersonated",
                r#"{"type":"impersonated_service_account","x":"hunter2"}"#,
                "has the form impersonated_service_account",
            ),
            ("text", "hunter2 is no json", "is not JSON"),
            ("list", "[\"hunter2\"]", "is not JSON"),
            ("untyped", r#"{"installed":{"client_secret":"hunter2"}}"#, "has no `type`"),
            ("half", r#"{"type":"service_account","private_key":"hunter2","client_email":"a"}"#, "but no `token_uri`"),
            (
                "address",
                r#"{"type":"service_account","private_key":"hunter2","client_email":"a","token_uri":"http://a b"}"#,
                "`token_uri` is no address",
            ),
            (
                "number",
                r#"{"type":"authorized_user","client_id":"a","client_secret":"hunter2","refresh_token":2}"#,
                "no `refresh_token`",
            ),
        ] {
            let path = put(&dir, name, text);
            let refusal = Credentials::find(&named(path.clone()), false).unwrap_err();
            let shown = refusal.to_string();
            assert!(matches!(refusal, Refusal::Unauthenticated(_)), "{shown}");
            assert!(shown.contains(said) && shown.contains(&path.display().to_string()), "{shown}");
            assert!(shown.contains("name a") && !shown.contains("hunter2") && !shown.contains('\n'), "{shown}");
        }
        let shown = Credentials::find(&named(dir.path().join("gone")), true).unwrap_err().to_string();
        assert!(shown.contains("is not there: correct the path"), "{shown}");
        let shown = Credentials::find(&named(dir.path().to_owned()), true).unwrap_err().to_string();
        assert!(shown.contains("cannot be read"), "{shown}");
        let sources = CredentialSources { gcloud: Some(put(&dir, "g", "{}")), ..CredentialSources::default() };
        let shown = Credentials::find(&sources, false).unwrap_err().to_string();
        assert!(shown.contains("gcloud's file") && shown.contains("login` again"), "{shown}");
    }
}
