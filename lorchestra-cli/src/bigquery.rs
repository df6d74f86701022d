//! Which table events go to: environment and configuration to the settings of lorchestra-core's destination. Reads variables through
//! the settings, and no file.

use crate::config::{self, Write};
use crate::exit::Code;
use crate::failure::Failure;
use lorchestra_core::delivery::bigquery::{BigQueryConfig, CredentialSources, WriteMethod};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The limit of one request.
const REQUEST: Duration = Duration::from_secs(15);

/// The destination, if one is named, and what a person should know about how.
///
/// Dataset and table: `BQ_EVENTS_*`, else the configuration. The Python tool read `EVENTS_BQ_*`: those count, with a warning.
pub(crate) fn resolve(
    config: &config::BigQueryConfig,
    variable: &dyn Fn(&str) -> Option<String>,
    config_home: &Path,
) -> Result<(Option<BigQueryConfig>, Option<String>), Failure> {
    let mut warning = None;
    let mut named = |what: &str, configured: &Option<String>| {
        let old = format!("EVENTS_BQ_{what}");
        variable(&format!("BQ_EVENTS_{what}"))
            .or_else(|| {
                let value = variable(&old)?;
                warning = Some(format!("{old} is an old name: set BQ_EVENTS_{what}"));
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
    let write = match config.write {
        Some(Write::StorageWrite) => WriteMethod::StorageWrite,
        Some(Write::InsertAll) => WriteMethod::InsertAll,
        // The variable says where an emulator's REST is, not its gRPC; and nothing meant for it may go to Google.
        None if emulator.is_some() && config.storage_endpoint.is_none() => WriteMethod::InsertAll,
        None => WriteMethod::StorageWrite,
    };
    let gcloud = variable("CLOUDSDK_CONFIG").map_or_else(|| config_home.join("gcloud"), PathBuf::from);
    let resolved = BigQueryConfig {
        project,
        dataset,
        table,
        location: config.location.clone(),
        write,
        endpoint,
        storage_endpoint: config.storage_endpoint.clone(),
        credentials: CredentialSources {
            file: variable("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from),
            gcloud: Some(gcloud.join("application_default_credentials.json")),
            metadata: true,
            metadata_host: variable("GCE_METADATA_HOST"),
        },
        proxy: variable("HTTPS_PROXY").or_else(|| variable("https_proxy")),
        no_proxy: variable("NO_PROXY").or_else(|| variable("no_proxy")),
        timeout: REQUEST,
    };
    Ok((Some(resolved), warning))
}

fn half(set: &str, missing: &str, variable: &str) -> Failure {
    Failure::new(Code::Config, format!("BigQuery's {set} is set and its {missing} is not: events would have nowhere to go"))
        .mend(format!("set BQ_EVENTS_{variable}, or bigquery.{missing} in config.toml"))
        .mend("or unset both, and events stay in the store")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(
        variables: &[(&str, &str)],
        config: &config::BigQueryConfig,
    ) -> Result<(Option<BigQueryConfig>, Option<String>), Failure> {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        resolve(config, &variable, Path::new("/home/x/.config"))
    }

    fn found(variables: &[(&str, &str)], config: &config::BigQueryConfig) -> BigQueryConfig {
        with(variables, config).unwrap().0.unwrap()
    }

    #[test]
    fn nothing_named_is_the_embedded_default() {
        assert!(with(&[("GOOGLE_CLOUD_PROJECT", "p")], &config::BigQueryConfig::default()).unwrap().0.is_none());
    }

    #[test]
    fn the_environment_wins_over_the_configuration() {
        let config = config::BigQueryConfig {
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
        let error = with(&[("BQ_EVENTS_DATASET", "d")], &config::BigQueryConfig::default()).unwrap_err();
        assert_eq!(error.code, Code::Config);
        assert!(error.mends[0].contains("BQ_EVENTS_TABLE"), "{error:?}");
    }

    #[test]
    fn the_old_names_count_with_a_warning() {
        let old = [("EVENTS_BQ_DATASET", "d"), ("EVENTS_BQ_TABLE", "t")];
        let (found, warning) = with(&old, &config::BigQueryConfig::default()).unwrap();
        assert_eq!(found.unwrap().dataset, "d");
        assert_eq!(warning.unwrap(), "EVENTS_BQ_TABLE is an old name: set BQ_EVENTS_TABLE");
    }

    #[test]
    fn an_emulator_without_a_storage_endpoint_is_written_by_insert_all() {
        let emulator = [("BQ_EVENTS_DATASET", "d"), ("BQ_EVENTS_TABLE", "t"), ("BIGQUERY_EMULATOR_HOST", "localhost:9050")];
        assert_eq!(found(&emulator, &config::BigQueryConfig::default()).write, WriteMethod::InsertAll);
        let grpc = config::BigQueryConfig { storage_endpoint: Some("localhost:9060".into()), ..Default::default() };
        assert_eq!(found(&emulator, &grpc).write, WriteMethod::StorageWrite);
    }
}
