//! Finds Google credentials where Google's own tools look. Reads one file and gcloud's configuration; makes no network request
//! ([`super::token`] fetches tokens). Guarantees that secrets are in no error and no Debug output, and that the error for unusable
//! credentials says in one sentence what was tried and how to fix it.

use crate::delivery::DeliveryError;
use gcp_bigquery_client::yup_oauth2::ServiceAccountKey;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use tonic::codegen::http::Uri;

/// Where to look for credentials: the file, or else gcloud's file, or else the metadata server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialSources {
    /// GOOGLE_APPLICATION_CREDENTIALS. If set, only this file counts.
    pub file: Option<PathBuf>,
    /// gcloud's directory with `application_default_credentials.json` and its configurations; it need not exist.
    pub gcloud: Option<PathBuf>,
    /// CLOUDSDK_ACTIVE_CONFIG_NAME: the active configuration of gcloud.
    pub gcloud_configuration: Option<String>,
    /// CLOUDSDK_CORE_PROJECT: takes precedence over the project of gcloud's configuration. Neither applies to the metadata server.
    pub gcloud_project: Option<String>,
    /// GOOGLE_CLOUD_QUOTA_PROJECT: takes precedence over the `quota_project_id` of a file.
    pub quota_project: Option<String>,
    /// GOOGLE_CLOUD_UNIVERSE_DOMAIN: takes precedence over the `universe_domain` of a file.
    pub universe_domain: Option<String>,
    /// Whether to query the metadata server of Google's machines.
    pub metadata: bool,
    /// GCE_METADATA_HOST: `host` or `host:port` of the metadata server.
    pub metadata_host: Option<String>,
}

/// The credentials that were found.
pub(super) enum Credentials {
    /// For a plain-text endpoint, such as an emulator.
    None,
    ServiceAccount {
        file: PathBuf,
        key: Box<ServiceAccountKey>,
    },
    User {
        file: PathBuf,
        user: Box<User>,
    },
    Metadata {
        host: String,
    },
    /// A kind of credentials whose tokens Google's own crate fetches.
    Federated {
        file: PathBuf,
        form: Form,
        /// The contents of the file, which are secret.
        json: Box<Value>,
    },
}

/// The kinds of credentials that Google's crate handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Workload identity federation: exchanges another provider's token.
    ExternalAccount,
    /// Workforce identity federation, from `gcloud auth application-default login --login-config`.
    ExternalAccountAuthorizedUser,
    /// From `gcloud auth application-default login --impersonate-service-account`.
    ImpersonatedServiceAccount,
    /// A key for another universe, where tokens are signed and not fetched.
    ServiceAccount,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ExternalAccount => "external_account",
            Self::ExternalAccountAuthorizedUser => "external_account_authorized_user",
            Self::ImpersonatedServiceAccount => "impersonated_service_account",
            Self::ServiceAccount => "service_account",
        }
    }
}

/// Credentials with related settings.
#[derive(Debug)]
pub(super) struct ResolvedCredentials {
    pub(super) credentials: Credentials,
    /// The project, if the file or gcloud names one.
    pub(super) project: Option<String>,
    /// The project to bill for requests, if one is named.
    pub(super) quota_project: Option<String>,
    /// The domain of Google's services, if it is not googleapis.com.
    pub(super) universe_domain: Option<String>,
}

impl ResolvedCredentials {
    /// Without a file.
    fn new(credentials: Credentials, sources: &CredentialSources) -> Self {
        let quota_project = sources.quota_project.clone();
        Self { credentials, project: None, quota_project, universe_domain: universe(sources.universe_domain.clone()) }
    }
}

/// Returns `None` for the default universe.
fn universe(domain: Option<String>) -> Option<String> {
    domain.map(|domain| domain.trim().to_owned()).filter(|domain| !domain.is_empty() && domain != "googleapis.com")
}

/// Credentials of the form `authorized_user`, from `gcloud auth application-default login`.
#[derive(Deserialize)]
pub(super) struct User {
    pub(super) client_id: String,
    pub(super) client_secret: String,
    pub(super) refresh_token: String,
    #[serde(default)]
    pub(super) token_uri: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::ServiceAccount { file, .. } => write!(f, "ServiceAccount({})", file.display()),
            Self::User { file, .. } => write!(f, "User({})", file.display()),
            Self::Metadata { host } => write!(f, "Metadata({host})"),
            Self::Federated { file, form, .. } => write!(f, "{form:?}({})", file.display()),
        }
    }
}

const LOGIN: &str = "`gcloud auth application-default login`";
const ADC: &str = "application_default_credentials.json";
const METADATA_HOST: &str = "metadata.google.internal";

impl Credentials {
    /// `plain`: the endpoints are emulators, for which only an explicitly named file is read.
    ///
    /// # Errors
    /// [`DeliveryError::Unauthenticated`].
    pub(super) fn find(sources: &CredentialSources, plain: bool) -> Result<ResolvedCredentials, DeliveryError> {
        if let Some(file) = &sources.file {
            return read(file, sources, true);
        }
        if plain {
            return Ok(ResolvedCredentials::new(Self::None, sources));
        }
        let adc = sources.gcloud.as_ref().map(|gcloud| gcloud.join(ADC));
        if let Some(file) = &adc
            && file.try_exists().unwrap_or(true)
        {
            return read(file, sources, false);
        }
        if sources.metadata {
            let host = sources.metadata_host.as_deref().map(str::trim).filter(|host| !host.is_empty()).unwrap_or(METADATA_HOST);
            return Ok(ResolvedCredentials::new(Self::Metadata { host: host.to_owned() }, sources));
        }
        let looked = adc.map(|file| format!(", there is no {}", file.display())).unwrap_or_default();
        Err(DeliveryError::Unauthenticated(format!(
            "no credentials: GOOGLE_APPLICATION_CREDENTIALS is not set{looked}, and the metadata server is not used: \
             run {LOGIN}"
        )))
    }
}

/// Returns the project of gcloud's active configuration, as printed by `gcloud config get project`; `None` if it cannot be read.
fn gcloud_project(sources: &CredentialSources) -> Option<String> {
    let named = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    if let Some(project) = sources.gcloud_project.as_deref().and_then(named) {
        return Some(project);
    }
    let gcloud = sources.gcloud.as_ref()?;
    let active = || named(&std::fs::read_to_string(gcloud.join("active_config")).ok()?);
    let name = sources.gcloud_configuration.as_deref().and_then(named).or_else(active).unwrap_or_else(|| "default".to_owned());
    let text = std::fs::read_to_string(gcloud.join("configurations").join(format!("config_{name}"))).ok()?;
    let mut section = "";
    text.lines().map(str::trim).find_map(|line| {
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = header.trim();
        }
        let (key, value) = line.split_once('=').filter(|_| section == "core")?;
        if key.trim() == "project" { named(value) } else { None }
    })
}

fn read(file: &Path, sources: &CredentialSources, named: bool) -> Result<ResolvedCredentials, DeliveryError> {
    let shown = file.display();
    let origin = if named { "the file of GOOGLE_APPLICATION_CREDENTIALS" } else { "gcloud's file" };
    let refuse = |what: String| Err(DeliveryError::Unauthenticated(format!("credentials: {origin}, {shown}, {what}")));
    let again = if named { "name a readable key file".to_owned() } else { format!("run {LOGIN} again") };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse(format!("does not exist: correct the path, or unset the variable and run {LOGIN}"));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return refuse(format!("is not JSON: {again}")),
        Err(error) => return refuse(format!("cannot be read ({error}): {again}")),
    };
    // serde's errors may quote the value that they failed on, so they are never shown.
    let Ok(Value::Object(object)) = serde_json::from_str(&text) else { return refuse(format!("is not JSON: {again}")) };
    let form = object.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
    let text_of = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    let quota_project = sources.quota_project.clone().or_else(|| text_of("quota_project_id"));
    let universe_domain = universe(sources.universe_domain.clone().or_else(|| text_of("universe_domain")));
    let project = text_of("project_id").filter(|_| form == "service_account").or_else(|| gcloud_project(sources));
    let missing = |needed: &[&str]| {
        needed
            .iter()
            .find(|&&name| object.get(name).and_then(Value::as_str).is_none_or(str::is_empty))
            .map(|name| (*name).to_owned())
    };
    let needed: &[&str] = match form.as_str() {
        "service_account" => &["client_email", "private_key", "token_uri"],
        "authorized_user" => &["client_id", "client_secret", "refresh_token"],
        "external_account" => &["audience", "subject_token_type", "token_url"],
        "external_account_authorized_user" => &["client_id", "client_secret", "refresh_token"],
        "impersonated_service_account" => &["service_account_impersonation_url"],
        "" => return refuse(format!("is not a credentials file (it has no `type`): {again}")),
        other => {
            let other = super::redact::one_line(other);
            return refuse(format!(
                "has the form {other}, which lorchestra does not support: use a service_account key, a file of workload identity \
                 federation, or one made by {LOGIN}"
            ));
        }
    };
    if let Some(name) = missing(needed) {
        return refuse(format!("has the form {form}, but no `{name}`: {again}"));
    }
    // yup-oauth2 panics on an invalid address.
    if object.get("token_uri").and_then(Value::as_str).is_some_and(|uri| uri.parse::<Uri>().is_err()) {
        return refuse(format!("has the form {form}, but its `token_uri` is not an address: {again}"));
    }
    let file = file.to_owned();
    let found =
        |credentials| Ok(ResolvedCredentials { credentials, project, quota_project, universe_domain: universe_domain.clone() });
    let incomplete = || refuse(format!("has the form {form}, but is not complete: {again}"));
    let federated = match form.as_str() {
        "external_account" => Some(Form::ExternalAccount),
        "external_account_authorized_user" => Some(Form::ExternalAccountAuthorizedUser),
        "impersonated_service_account" => Some(Form::ImpersonatedServiceAccount),
        // Keys of another universe sign their tokens themselves.
        "service_account" if universe_domain.is_some() => Some(Form::ServiceAccount),
        _ => None,
    };
    if let Some(form) = federated {
        return found(Credentials::Federated { file, form, json: Box::new(Value::Object(object)) });
    }
    if form == "service_account" {
        let Ok(key) = serde_json::from_value(Value::Object(object)) else { return incomplete() };
        return found(Credentials::ServiceAccount { file, key: Box::new(key) });
    }
    let Ok(user) = serde_json::from_value(Value::Object(object)) else { return incomplete() };
    found(Credentials::User { file, user: Box::new(user) })
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
    fn all_supported_forms_are_read() {
        let dir = TempDir::new().unwrap();
        let found = Credentials::find(&named(put(&dir, "s", SERVICE)), false).unwrap();
        assert!(matches!(&found.credentials, Credentials::ServiceAccount { key, .. } if key.client_email == "a@b"));
        assert_eq!((found.project.as_deref(), found.quota_project.as_deref()), (Some("proj"), None));
        assert!(!format!("{found:?}").contains("hunter2"));

        let found = Credentials::find(&named(put(&dir, "u", USER)), true).unwrap();
        assert!(matches!(&found.credentials, Credentials::User { user, .. } if user.refresh_token == "hunter2-refresh"));
        // The project to bill is not the project of the table.
        assert_eq!((found.project.as_deref(), found.quota_project.as_deref()), (None, Some("pays")));
        assert!(!format!("{found:?}").contains("hunter2"));

        for (form, json) in [
            (
                Form::ExternalAccount,
                r#"{"type":"external_account","audience":"a","subject_token_type":"t","token_url":"hunter2"}"#,
            ),
            (
                Form::ExternalAccountAuthorizedUser,
                r#"{"type":"external_account_authorized_user","client_id":"a","client_secret":"hunter2","refresh_token":"hunter2"}"#,
            ),
            (
                Form::ImpersonatedServiceAccount,
                r#"{"type":"impersonated_service_account","service_account_impersonation_url":"hunter2"}"#,
            ),
            (Form::ServiceAccount, &SERVICE.replace("\"proj\"", "\"proj\",\"universe_domain\":\"cloud.example\"")),
        ] {
            let found = Credentials::find(&named(put(&dir, "f", json)), true).unwrap();
            assert!(matches!(&found.credentials, Credentials::Federated { form: is, .. } if *is == form), "{found:?}");
            assert!(!format!("{found:?}").contains("hunter2"));
            assert_eq!(found.universe_domain.is_some(), form == Form::ServiceAccount);
        }
    }

    #[test]
    fn the_environment_takes_precedence_over_the_file() {
        let dir = TempDir::new().unwrap();
        let sources = CredentialSources {
            quota_project: Some("other".to_owned()),
            universe_domain: Some("cloud.example".to_owned()),
            ..named(put(&dir, "u", USER))
        };
        let found = Credentials::find(&sources, false).unwrap();
        assert_eq!((found.quota_project.as_deref(), found.universe_domain.as_deref()), (Some("other"), Some("cloud.example")));
        let google = CredentialSources { universe_domain: Some("googleapis.com".to_owned()), ..sources };
        assert_eq!(Credentials::find(&google, false).unwrap().universe_domain, None);
    }

    #[test]
    fn the_project_of_gclouds_configuration() {
        let dir = TempDir::new().unwrap();
        put(&dir, ADC, USER);
        std::fs::create_dir(dir.path().join("configurations")).unwrap();
        put(&dir, "configurations/config_default", "[compute]\nproject = no\n[core]\naccount = a\nproject = ours\n");
        put(&dir, "configurations/config_work", "[core]\nproject=theirs\n");
        let mut sources = CredentialSources { gcloud: Some(dir.path().to_owned()), ..CredentialSources::default() };
        let project = |sources: &CredentialSources| Credentials::find(sources, false).unwrap().project;
        assert_eq!(project(&sources).as_deref(), Some("ours"));
        put(&dir, "active_config", "work\n");
        assert_eq!(project(&sources).as_deref(), Some("theirs"));
        sources.gcloud_configuration = Some("default".to_owned());
        assert_eq!(project(&sources).as_deref(), Some("ours"));
        sources.gcloud_configuration = Some("none".to_owned());
        assert_eq!(project(&sources), None);
        sources.gcloud_project = Some("named".to_owned());
        assert_eq!(project(&sources).as_deref(), Some("named"));
    }

    #[test]
    fn sources_are_searched_in_order() {
        let dir = TempDir::new().unwrap();
        let mut sources = named(put(&dir, "s", SERVICE));
        put(&dir, ADC, USER);
        sources.gcloud = Some(dir.path().to_owned());
        let form = |sources: &CredentialSources, plain| format!("{:?}", Credentials::find(sources, plain).unwrap().credentials);
        assert!(form(&sources, false).starts_with("ServiceAccount("));
        sources.file = None;
        assert!(form(&sources, false).starts_with("User("));
        assert_eq!(form(&sources, true), "None");
        sources.gcloud = Some(dir.path().join("none"));
        assert_eq!(form(&sources, false), "Metadata(metadata.google.internal)");
        // As in Google's clients: the project is then the machine's.
        sources.gcloud_project = Some("gclouds".to_owned());
        assert_eq!(Credentials::find(&sources, false).unwrap().project, None);
        sources.metadata_host = Some("127.0.0.1:1".to_owned());
        assert_eq!(form(&sources, false), "Metadata(127.0.0.1:1)");
        sources.metadata = false;
        let text = Credentials::find(&sources, false).unwrap_err().to_string();
        assert!(text.contains("GOOGLE_APPLICATION_CREDENTIALS is not set, there is no "), "{text}");
        assert!(text.contains("gcloud auth application-default login"), "{text}");
    }

    #[test]
    fn refusals_name_file_form_and_fix_and_no_secrets() {
        let dir = TempDir::new().unwrap();
        for (name, text, expected) in [
            ("external", r#"{"type":"external_account","audience":"hunter2"}"#, "but no `subject_token_type`"),
            ("gdch", r#"{"type":"gdch_service_account","x":"hunter2"}"#, "has the form gdch_service_account, which"),
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
                "`token_uri` is not an address",
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
            assert!(matches!(refusal, DeliveryError::Unauthenticated(_)), "{shown}");
            assert!(shown.contains(expected) && shown.contains(&path.display().to_string()), "{shown}");
            assert!(
                ["name a", "use a"].iter().any(|fix| shown.contains(fix)) && !shown.contains("hunter2") && !shown.contains('\n'),
                "{shown}"
            );
        }
        let shown = Credentials::find(&named(dir.path().join("gone")), true).unwrap_err().to_string();
        assert!(shown.contains("does not exist: correct the path"), "{shown}");
        let shown = Credentials::find(&named(dir.path().to_owned()), true).unwrap_err().to_string();
        assert!(shown.contains("cannot be read"), "{shown}");
        let sources =
            CredentialSources { gcloud: Some(put(&dir, ADC, "{}").parent().unwrap().to_owned()), ..CredentialSources::default() };
        let shown = Credentials::find(&sources, false).unwrap_err().to_string();
        assert!(shown.contains("gcloud's file") && shown.contains("login` again"), "{shown}");
    }
}
