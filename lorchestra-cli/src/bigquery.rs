//! Maps environment and configuration to the settings of lorchestra-core's BigQuery destination. Reads variables through the settings, and
//! no file.

use crate::config::{self, Write};
use crate::exit::Code;
use crate::failure::CommandError;
use lorchestra_core::delivery::bigquery::{BigQueryConfig, CredentialSources, WriteMethod};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time limit of one request.
const REQUEST: Duration = Duration::from_secs(15);

/// Returns the destination, if one is configured, and a warning about its configuration.
///
/// Dataset and table come from `BQ_EVENTS_*`, or else from the configuration. The Python tool's `EVENTS_BQ_*` are accepted with a warning.
pub(crate) fn resolve(
    config: &config::BigQuerySection,
    variable: &dyn Fn(&str) -> Option<String>,
    config_home: &Path,
) -> Result<(Option<BigQueryConfig>, Option<String>), CommandError> {
    let mut old_names = Vec::new();
    let mut named = |what: &str, configured: &Option<String>| {
        let old = format!("EVENTS_BQ_{what}");
        variable(&format!("BQ_EVENTS_{what}"))
            .or_else(|| {
                let value = variable(&old)?;
                old_names.push((old.clone(), format!("BQ_EVENTS_{what}")));
                Some(value)
            })
            .or_else(|| configured.clone())
    };
    let (dataset, table) = (named("DATASET", &config.dataset), named("TABLE", &config.table));
    let project = named("PROJECT", &config.project).or_else(|| variable("GOOGLE_CLOUD_PROJECT"));
    let (dataset, table) = match (dataset, table) {
        (Some(dataset), Some(table)) => (dataset, table),
        (None, None) => return Ok((None, None)),
        (None, Some(_)) => return Err(half("table", "dataset", "DATASET")),
        (Some(_), None) => return Err(half("dataset", "table", "TABLE")),
    };
    let emulator = variable("BIGQUERY_EMULATOR_HOST");
    let endpoint = emulator.clone().or_else(|| config.endpoint.clone());
    // Events for an emulator must not go anywhere else or carry credentials: a storage endpoint with TLS is Google's.
    let is_plain = |endpoint: &&String| !endpoint.trim_start().starts_with("https://");
    let storage_endpoint = config.storage_endpoint.as_ref().filter(|to| emulator.is_none() || is_plain(to)).cloned();
    let write = match config.write {
        Some(Write::StorageWrite) => WriteMethod::StorageWrite,
        Some(Write::InsertAll) => WriteMethod::InsertAll,
        // The variable contains an emulator's REST address, not its gRPC address.
        None if emulator.is_some() && storage_endpoint.is_none() => WriteMethod::InsertAll,
        None => WriteMethod::StorageWrite,
    };
    let gcloud = variable("CLOUDSDK_CONFIG").map_or_else(|| config_home.join("gcloud"), PathBuf::from);
    let credentials = CredentialSources {
        file: variable("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from),
        gcloud: Some(gcloud),
        gcloud_configuration: variable("CLOUDSDK_ACTIVE_CONFIG_NAME"),
        gcloud_project: variable("CLOUDSDK_CORE_PROJECT"),
        quota_project: variable("GOOGLE_CLOUD_QUOTA_PROJECT"),
        universe_domain: variable("GOOGLE_CLOUD_UNIVERSE_DOMAIN"),
        metadata: true,
        metadata_host: variable("GCE_METADATA_HOST"),
    };
    let resolved = BigQueryConfig {
        project,
        dataset,
        table,
        location: config.location.clone(),
        write,
        endpoint,
        storage_endpoint,
        credentials: if emulator.is_some() { CredentialSources::default() } else { credentials },
        proxy: variable("HTTPS_PROXY").or_else(|| variable("https_proxy")),
        no_proxy: variable("NO_PROXY").or_else(|| variable("no_proxy")),
        timeout: REQUEST,
    };
    let warning = (!old_names.is_empty()).then(|| {
        let (old, new): (Vec<String>, Vec<String>) = old_names.into_iter().unzip();
        format!("old names: {}; set {}", old.join(", "), new.join(", "))
    });
    Ok((Some(resolved), warning))
}

fn half(set: &str, missing: &str, variable: &str) -> CommandError {
    CommandError::new(
        Code::Config,
        format!("BigQuery's {set} is set but its {missing} is not: both are needed to deliver events"),
    )
    .hint(format!("set BQ_EVENTS_{variable}, or destinations.bigquery.{missing} in config.toml"))
    .hint("or unset both, and events stay in the store")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(
        variables: &[(&str, &str)],
        config: &config::BigQuerySection,
    ) -> Result<(Option<BigQueryConfig>, Option<String>), CommandError> {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        resolve(config, &variable, Path::new("/home/x/.config"))
    }

    fn found(variables: &[(&str, &str)], config: &config::BigQuerySection) -> BigQueryConfig {
        with(variables, config).unwrap().0.unwrap()
    }

    #[test]
    fn without_a_table_there_is_no_destination() {
        assert!(with(&[("GOOGLE_CLOUD_PROJECT", "p")], &config::BigQuerySection::default()).unwrap().0.is_none());
    }

    #[test]
    fn the_environment_takes_precedence_over_the_configuration() {
        let config = config::BigQuerySection {
            dataset: Some("cd".into()),
            table: Some("ct".into()),
            project: Some("cp".into()),
            ..Default::default()
        };
        let both = found(&[("BQ_EVENTS_DATASET", "d"), ("GOOGLE_CLOUD_PROJECT", "ambient")], &config);
        assert_eq!((both.dataset.as_str(), both.table.as_str(), both.project.as_deref()), ("d", "ct", Some("cp")));
        assert_eq!(both.write, WriteMethod::StorageWrite);
        assert_eq!(found(&[("BQ_EVENTS_PROJECT", "p")], &config).project.as_deref(), Some("p"));
    }

    #[test]
    fn half_a_table_is_an_error_that_names_the_other_half() {
        let error = with(&[("BQ_EVENTS_DATASET", "d")], &config::BigQuerySection::default()).unwrap_err();
        assert_eq!(error.code, Code::Config);
        assert!(error.hints[0].contains("BQ_EVENTS_TABLE"), "{error:?}");
    }

    #[test]
    fn the_old_names_count_with_a_warning() {
        let old = [("EVENTS_BQ_DATASET", "d"), ("EVENTS_BQ_TABLE", "t")];
        let (found, warning) = with(&old, &config::BigQuerySection::default()).unwrap();
        assert_eq!(found.unwrap().dataset, "d");
        assert_eq!(warning.unwrap(), "old names: EVENTS_BQ_DATASET, EVENTS_BQ_TABLE; set BQ_EVENTS_DATASET, BQ_EVENTS_TABLE");
    }

    #[test]
    fn an_emulator_without_a_storage_endpoint_uses_insert_all() {
        let emulator = [("BQ_EVENTS_DATASET", "d"), ("BQ_EVENTS_TABLE", "t"), ("BIGQUERY_EMULATOR_HOST", "localhost:9050")];
        assert_eq!(found(&emulator, &config::BigQuerySection::default()).write, WriteMethod::InsertAll);
        let grpc = config::BigQuerySection { storage_endpoint: Some("localhost:9060".into()), ..Default::default() };
        assert_eq!(found(&emulator, &grpc).write, WriteMethod::StorageWrite);
    }

    #[test]
    fn nothing_meant_for_an_emulator_goes_to_google() {
        let variables = [
            ("BQ_EVENTS_DATASET", "d"),
            ("BQ_EVENTS_TABLE", "t"),
            ("BIGQUERY_EMULATOR_HOST", "localhost:9050"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/key.json"),
        ];
        let google = Some("https://bigquerystorage.googleapis.com".to_owned());
        let config = config::BigQuerySection { storage_endpoint: google, ..Default::default() };
        let found = found(&variables, &config);
        assert_eq!((found.storage_endpoint, found.write), (None, WriteMethod::InsertAll));
        assert!(found.credentials.file.is_none() && found.credentials.gcloud.is_none() && !found.credentials.metadata);
    }
}
