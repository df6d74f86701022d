//! The binary and the libraries under test. Found next to the test's own executable, in the profile's directory of cargo's target
//! directory; never built here.

use std::path::PathBuf;

/// A library to install into a plugin directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixture {
    /// Jobs that end in every possible way (tests/plugins/misbehave).
    Misbehave,
    /// A library whose constructor leaves a marker (tests/plugins/constructor).
    Constructor,
    /// A job that waits at a stage of its life (tests/plugins/stages).
    Stages,
    /// Jobs that attack the process that runs them (tests/plugins/hostile).
    Hostile,
    /// Jobs that use every feature of the plugin API (tests/plugins/kit).
    Kit,
    /// An `async` job with an HTTP client (tests/web).
    Web,
    /// `Misbehave` as authors ship libraries: optimized, linked as one unit, stripped.
    ShippedMisbehave,
    /// `Constructor` optimized for size, linked as one unit, stripped.
    ShippedConstructor,
    /// example-plugins/hello, as authors ship libraries.
    ShippedHello,
    /// example-plugins/ingester.
    Ingester,
    /// example-plugins/canonizer.
    Canonizer,
    /// example-plugins/meltano-ingest.
    MeltanoIngest,
    /// example-plugins/python.
    Python,
    /// example-plugins/vector-projector.
    VectorProjector,
}

impl Fixture {
    /// Its file name.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Misbehave | Self::ShippedMisbehave => "libmisbehave.so",
            Self::Constructor | Self::ShippedConstructor => "libconstructor.so",
            Self::Hostile => "libhostile.so",
            Self::Stages => "libstages.so",
            Self::Kit => "libkit.so",
            Self::Web => "libweb.so",
            Self::ShippedHello => "libhello.so",
            Self::Ingester => "libingester.so",
            Self::Canonizer => "libcanonizer.so",
            Self::MeltanoIngest => "libmeltano_ingest.so",
            Self::Python => "libpython.so",
            Self::VectorProjector => "libvector_projector.so",
        }
    }

    /// The library, as built.
    pub fn built(self) -> PathBuf {
        match self {
            Self::ShippedMisbehave | Self::ShippedConstructor | Self::ShippedHello => {
                artifact(&format!("../shipped/{}", self.file_name()))
            }
            _ => artifact(self.file_name()),
        }
    }
}

/// The `lorchestra` binary, as built.
pub fn lorchestra() -> PathBuf {
    artifact("lorchestra")
}

/// The root of the workspace, for sources and samples.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    lorchestra_test_setup::target().unwrap_or_else(|| workspace().join("target"))
}

/// `target/<profile>/<name>`: test executables are in `target/<profile>/deps`, programs next to it.
fn artifact(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own executable");
    let profile = exe.ancestors().find(|directory| directory.join("deps").is_dir());
    let profile = profile.expect("an executable of the tests is in target/<profile>");
    let path = profile.join(name);
    assert!(path.is_file(), "{} is not built: run `cargo xtask test`, which builds what these tests need first", path.display());
    path
}
