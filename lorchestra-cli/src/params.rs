//! Parameters of a job set in `config.toml`: `[job."package/job".params]`. Passes them to the plan as if they were given on the command
//! line, before the actual flags. Pure functions only.

use crate::failure::CommandError;
use crate::settings::Settings;
use lorchestra_core::plan::{ParamArg, list};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};
use toml::Value;

/// Returns the configured values of parameters that are not on the command line.
pub(crate) fn configured(
    package: &str,
    job: &JobManifest,
    typed: &[ParamArg],
    settings: &Settings,
) -> Result<Vec<ParamArg>, CommandError> {
    let full_name = format!("{package}/{}", job.name);
    let mut given = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in settings.jobs.get(&full_name).iter().flat_map(|config| &config.params) {
        let key = format!("[job.{full_name:?}.params] {name}");
        let wrong = |what: &str, hint: &str| CommandError::config(&settings.config_path, &format!("{key}: {what}"), hint);
        let is_named = |param: &&ParamManifest| param.name == *name || param.flag() == *name;
        let Some(param) = job.params.iter().find(is_named) else {
            let known: Vec<&str> = job.params.iter().map(|param| param.name.as_str()).collect();
            let hint = match lorchestra_core::text::nearest(name, known.iter().copied()).first() {
                Some(nearest) => format!("did you mean {nearest}?"),
                None if known.is_empty() => "remove the line".to_owned(),
                None => format!("it has {}", known.join(", ")),
            };
            return Err(wrong(&format!("{full_name} has no such parameter"), &hint));
        };
        if param.kind == ParamKind::Secret {
            let hint = format!("write it under [job.{full_name:?}.secrets], as env:NAME, file:PATH or credential:NAME");
            return Err(wrong("is a secret, which cannot be set as a parameter", &hint));
        }
        if seen.contains(&param.name.as_str()) {
            return Err(wrong("it is also set under another name", "remove one of the two lines"));
        }
        seen.push(&param.name);
        if typed.iter().any(|given| given.name.replace('-', "_") == param.name.replace('-', "_")) {
            continue;
        }
        let items = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        for item in items {
            let text =
                text(item).ok_or_else(|| wrong("is a table or a list in a list", "write a string, a number, true or false"))?;
            // A list in the file has its own separators.
            let text = if value.is_array() && param.repeated { list::escaped(&text) } else { text };
            let typed_as = format!("{}: params.{name} =", settings.config_name());
            given.push(ParamArg { name: param.name.clone(), text, typed_as, is_configured: true });
        }
    }
    Ok(given)
}

/// Expands `~/` at the beginning of each path, which the shell does not do after `=` and cannot do in a file; also in defaults. A directory
/// named `~` is `./~`.
pub(crate) fn expand_home(job: &JobManifest, values: &mut Vec<ParamArg>, settings: &Settings) {
    let is_given = |values: &[ParamArg], param: &ParamManifest| {
        values.iter().any(|given| given.name.replace('-', "_") == param.name.replace('-', "_"))
    };
    for param in job.params.iter().filter(|param| param.kind == ParamKind::Path) {
        if let Some(default) = param.default.as_str().filter(|text| is_below_home(text) && !is_given(values, param)) {
            values.push(ParamArg {
                name: param.name.clone(),
                text: default.to_owned(),
                typed_as: format!("the default of --{} =", param.flag()),
                is_configured: false,
            });
        }
        for given in values.iter_mut().filter(|given| given.name.replace('-', "_") == param.name.replace('-', "_")) {
            let Some(home) = settings.home.to_str() else { continue };
            if param.repeated {
                // After a comma begins another path; a comma in the name of the home directory does not end one.
                let home = list::escaped(home);
                let text = below(&given.text, &home).replace(",~/", &format!(",{home}/"));
                given.text = text;
            } else {
                given.text = below(&given.text, home);
            }
        }
    }
}

fn is_below_home(text: &str) -> bool {
    text == "~" || text.starts_with("~/")
}

/// Replaces `~` at the beginning of a path.
fn below(text: &str, home: &str) -> String {
    if is_below_home(text) { format!("{home}{}", &text[1..]) } else { text.to_owned() }
}

/// Formats a value as it is written on the command line.
pub(crate) fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(is) => is.to_string(),
        Value::Datetime(time) => time.to_string(),
        Value::Array(_) | Value::Table(_) => return None,
    })
}
