//! Sources of secrets, typed in place of the secret: `env:NAME`, `file:PATH`, `credential:NAME`. Owns parsing and formatting; pure. The
//! command line reads the secret from its source just before the run.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;

/// The source of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An environment variable.
    Env(String),
    /// A file, without the line break at its end.
    File(PathBuf),
    /// A file in `$CREDENTIALS_DIRECTORY`, which systemd creates for a unit.
    Credential(String),
    /// The default source: the credential, or else the variable, named after the parameter. An optional secret may have neither.
    Usual {
        /// Name of the credential: `package.parameter`.
        credential: String,
        /// Name of the variable: `LORCHESTRA_SECRET_PACKAGE_PARAMETER`.
        variable: String,
        /// Whether the job also runs without it.
        optional: bool,
    },
}

impl Source {
    /// Returns the default source of a parameter's secret.
    pub fn usual(package: &str, param: &str, optional: bool) -> Self {
        let upper = |text: &str| text.replace('-', "_").to_uppercase();
        Self::Usual {
            credential: format!("{package}.{param}"),
            variable: format!("LORCHESTRA_SECRET_{}_{}", upper(package), upper(param)),
            optional,
        }
    }

    /// Parses a source; `None` for any other text, which may be a secret typed by mistake.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':').filter(|(_, name)| !name.is_empty() && !name.contains('\0'))?;
        match kind {
            "env" if !name.contains('=') => Some(Self::Env(name.to_owned())),
            "file" => Some(Self::File(name.into())),
            // A name that cannot leave the directory.
            "credential" if !name.contains('/') && name != "." && name != ".." && !name.contains(ELSE) => {
                Some(Self::Credential(name.to_owned()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Usual { credential, variable, optional } => {
                let none = if *optional { NONE } else { "" };
                write!(f, "credential:{credential}{ELSE}{variable}{none}")
            }
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Separates the two parts of [`Source::Usual`].
const ELSE: &str = ", else env:";
/// Follows them if the secret is optional.
const NONE: &str = ", else none";

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let usual = || {
            let (credential, variable) = text.strip_prefix("credential:")?.split_once(ELSE)?;
            let (variable, optional) = variable.strip_suffix(NONE).map_or((variable, false), |variable| (variable, true));
            let named = !credential.is_empty() && !credential.contains('/') && !variable.is_empty() && !variable.contains('=');
            named.then(|| Self::Usual { credential: credential.to_owned(), variable: variable.to_owned(), optional })
        };
        // Do not repeat the text: it may be the secret itself.
        usual()
            .or_else(|| Self::parse(&text))
            .ok_or_else(|| serde::de::Error::custom("a secret's source is env:NAME, file:PATH or credential:NAME"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_parsed_as_formatted() {
        for text in ["env:TOKEN", "file:/run/secrets/token", "file:a:b", "credential:slack.token"] {
            assert_eq!(Source::parse(text).unwrap().to_string(), text);
        }
        for bad in
            ["", "env:", "env", "TOKEN", "xoxb-1234:5", "credential:../shadow", "credential:..", "env:A=b", "Env:A", "file:\0"]
        {
            assert_eq!(Source::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn every_source_survives_its_json() {
        for optional in [false, true] {
            let usual = Source::usual("slack-export", "api_token", optional);
            for source in [usual, Source::Env("A".into()), Source::File("/a, else env:B".into()), Source::Credential("c".into())]
            {
                let json = serde_json::to_string(&source).unwrap();
                assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source, "{json}");
            }
        }
        let error = serde_json::from_str::<Source>("\"hunter22\"").unwrap_err().to_string();
        assert!(!error.contains("hunter22"), "{error}");
    }

    #[test]
    fn the_default_source_is_named_after_the_parameter() {
        let usual = Source::usual("slack-export", "api_token", false).to_string();
        assert_eq!(usual, "credential:slack-export.api_token, else env:LORCHESTRA_SECRET_SLACK_EXPORT_API_TOKEN");
    }
}
