//! Maps environment and configuration to the settings of lorchestra-core's destinations. Reads variables through the settings, and no file.

use crate::bigquery;
use crate::config::{DestinationsConfig, JsonlSection};
use crate::exit::Code;
use crate::failure::CommandError;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::delivery::jsonl::{self, ROTATE_SIZE};
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
    Ok((bigquery.into_iter().chain(jsonl).collect(), warning))
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
        let error = found("[destinations.jsonl]\nrotate = \"never\"\n").unwrap_err();
        assert!(error.hints[0].contains("destinations.jsonl.dir"), "{error:?}");
    }
}
