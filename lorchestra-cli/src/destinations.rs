//! Maps environment and configuration to the settings of lorchestra-core's destinations. Reads variables through the settings, and no file.

use crate::bigquery;
use crate::config::{DestinationsConfig, JsonlSection, OpenLineageSection};
use crate::exit::Code;
use crate::failure::CommandError;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::delivery::jsonl::{self, ROTATE_SIZE};
use lorchestra_core::delivery::openlineage::{ENDPOINT, OpenLineageConfig};
use std::path::Path;

/// Returns the configured destinations in the order in which they are listed, and a warning about their configuration.
pub(crate) fn resolve(
    config: &DestinationsConfig,
    variable: &dyn Fn(&str) -> Option<String>,
    config_home: &Path,
) -> Result<(Vec<DestinationConfig>, Option<String>), CommandError> {
    let (bigquery, warning) = bigquery::resolve(&config.bigquery, variable, config_home)?;
    let bigquery = bigquery.map(DestinationConfig::BigQuery);
    let jsonl = jsonl(&config.jsonl)?.map(DestinationConfig::Jsonl);
    let openlineage = openlineage(&config.openlineage, variable)?.map(DestinationConfig::OpenLineage);
    Ok((bigquery.into_iter().chain(jsonl).chain(openlineage).collect(), warning))
}

fn openlineage(
    config: &OpenLineageSection,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<OpenLineageConfig>, CommandError> {
    let OpenLineageSection { url, namespace } = config;
    let Some(url) = url else {
        return match namespace {
            None => Ok(None),
            Some(_) => Err(CommandError::new(Code::Config, "[destinations.openlineage] has no `url`")
                .hint("set destinations.openlineage.url in config.toml, or remove the table")),
        };
    };
    let Some((_, rest)) = url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme)) else {
        return Err(CommandError::new(Code::Config, format!("destinations.openlineage.url is not a URL: {url:?}"))
            .hint("write the address of the backend, for example http://marquez:5000"));
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        // Messages name the URL.
        return Err(CommandError::new(Code::Config, "destinations.openlineage.url contains a password")
            .hint("put the key of the backend into OPENLINEAGE_API_KEY"));
    }
    let url = if path.is_empty() { format!("{}/{ENDPOINT}", url.trim_end_matches('/')) } else { url.clone() };
    let namespace = namespace.clone().unwrap_or_else(|| "lorchestra".to_owned());
    Ok(Some(OpenLineageConfig { url, namespace, api_key: variable("OPENLINEAGE_API_KEY").map(zeroize::Zeroizing::new) }))
}

fn jsonl(config: &JsonlSection) -> Result<Option<jsonl::JsonlConfig>, CommandError> {
    let JsonlSection { dir, rotate_size, rotate } = config;
    match dir {
        Some(dir) => Ok(Some(jsonl::JsonlConfig {
            dir: dir.clone(),
            rotate_size: rotate_size.unwrap_or(ROTATE_SIZE),
            rotate: rotate.map(Into::into).unwrap_or_default(),
        })),
        None if rotate_size.is_some() || rotate.is_some() => {
            Err(CommandError::new(Code::Config, "[destinations.jsonl] has no `dir`")
                .hint("set destinations.jsonl.dir in config.toml, or remove the table"))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_endpoint_is_added_to_a_url_without_a_path() {
        let url = |url: &str| {
            let section = OpenLineageSection { url: Some(url.to_owned()), namespace: None };
            openlineage(&section, &|_| None).unwrap().unwrap().url
        };
        assert_eq!(url("http://marquez:5000"), "http://marquez:5000/api/v1/lineage");
        assert_eq!(url("http://marquez:5000/"), "http://marquez:5000/api/v1/lineage");
        assert_eq!(
            url("https://datahub/openapi/openlineage/api/v1/lineage"),
            "https://datahub/openapi/openlineage/api/v1/lineage"
        );
    }

    fn found(text: &str) -> Result<Vec<&'static str>, CommandError> {
        let config = Config::parse(text).unwrap();
        let (found, _) = resolve(&config.destinations, &|_| None, Path::new("/home/x/.config"))?;
        Ok(found.iter().map(DestinationConfig::name).collect())
    }

    #[test]
    fn each_table_of_the_configuration_is_a_destination() {
        let bigquery = "[destinations.bigquery]\ndataset = \"d\"\ntable = \"t\"\n";
        let jsonl = "[destinations.jsonl]\ndir = \"/var/log/events\"\n";
        assert!(found("").unwrap().is_empty());
        assert_eq!(found(jsonl).unwrap(), ["jsonl"]);
        assert_eq!(found(&format!("{jsonl}{bigquery}")).unwrap(), ["bigquery", "jsonl"]);
        let openlineage = "[destinations.openlineage]\nurl = \"http://marquez:5000\"\n";
        assert_eq!(found(&format!("{openlineage}{jsonl}")).unwrap(), ["jsonl", "openlineage"]);
        for (url, named) in
            [("marquez:5000", "not a URL"), ("ftp://marquez", "not a URL"), ("http://me:secret@marquez", "contains a password")]
        {
            let error = found(&format!("[destinations.openlineage]\nurl = \"{url}\"\n")).unwrap_err();
            assert!(error.message.contains(named) && !error.message.contains("secret"), "{error:?}");
        }
        assert!(found("[destinations.openlineage]\nnamespace = \"n\"\n").unwrap_err().message.contains("no `url`"));
        let error = found("[destinations.jsonl]\nrotate = \"never\"\n").unwrap_err();
        assert!(error.hints[0].contains("destinations.jsonl.dir"), "{error:?}");
    }
}
