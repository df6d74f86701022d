//! The binary boundary between host and plugin: the only module that knows abi_stable.
//!
//! What the two sides promise each other:
//!
//! - The library exports one [`LibHeader`], made by [`header`] inside `plugin!`, under the name [`header_symbol`] gives it. Its root
//!   module is [`Root`].
//! - Everything that may grow is a prefix type whose added fields read as `None` in older plugins, or JSON text. A plain
//!   struct ([`RawEvent`]) never changes; its successor would be a new method.
//! - No panic crosses: the plugin's entry catches everything and answers with a [`JobReturn`](crate::invoke::JobReturn); every
//!   method of the host's sink catches and answers with an error.
//! - [`ABI_REVISION`] is compared by the host from the manifest, before the library is opened. After that [`root_module`]
//!   compares the layouts, and accepts a plugin that is a prefix of the host or the other way round.
#![expect(
    unsafe_code,
    reason = "abi_stable's derives and the construction of the library header; one of the two modules with unsafe"
)]
#![expect(non_camel_case_types, non_local_definitions, missing_docs, reason = "names and items made by abi_stable's derives")]

use crate::def::JobDef;
use crate::invoke;
use crate::job::{Job, Plugin};
use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, LibraryError, RootModule, RootModuleResult};
use abi_stable::package_version_strings;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RBox, RResult, RSlice, RStr, RString};
use abi_stable::{StableAbi, abi_stability::abi_checking::check_layout_compatibility, sabi_trait};
use std::fmt;

pub use abi_stable::library::AbiHeaderRef;

/// Grows by one with each additive change of this module after a release. A host of revision N runs plugins of revision N and N − 1.
pub const ABI_REVISION: u32 = 1;

/// Name of the symbol under which a package exports its [`LibHeader`]. The package is in it, so that several packages can be linked
/// into one program, as a test of theirs: two of one name would clash. A capital is in no package's name.
pub fn header_symbol(package: &str) -> String {
    format!("lorchestra_root_module_of_{}", package.replace('-', "H"))
}

/// The boxed event sink that a job is handed.
pub type BoxedSink = EventSink_TO<'static, RBox<()>>;

/// The entry of a job: the call as JSON ([`invoke::Call`]), the sink; answers with JSON ([`invoke::JobReturn`]).
pub type Entry = extern "C" fn(RStr<'_>, BoxedSink) -> RString;

/// One event on its way to the host. Frozen: a plain struct cannot grow. Empty text stands for "none".
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct RawEvent<'a> {
    /// Kind of event, not empty.
    pub event_type: RStr<'a>,
    /// A JSON object, UTF-8, at most 1 MiB; the host checks it.
    pub payload: RSlice<'a, u8>,
    /// Where the payload's schema is found.
    pub schema_ref: RStr<'a>,
    /// What the event belongs to; the run's id unless given.
    pub correlation_id: RStr<'a>,
    /// The person the event is about. Personal.
    pub subject_id: RStr<'a>,
}

/// What a job can do to the outside. Implemented by the host's worker; all methods may be called from any thread. An error is an
/// [`EmitError`](crate::EmitError) as JSON.
#[sabi_trait]
pub trait EventSink: Send + Sync {
    /// Appends one event. `Ok`: it survives SIGKILL of the worker and of its supervisor. `Err`: it was not taken.
    fn emit(&self, event: RawEvent<'_>) -> RResult<(), RString>;
    /// Appends events in order. `taken` is set to how many were taken, also on `Err`: those are as safe as after `emit`, the
    /// others were not taken.
    fn emit_all(&self, events: RSlice<'_, RawEvent<'_>>, taken: &mut u64) -> RResult<(), RString>;
    /// `Ok`: all events taken so far survive power loss.
    fn flush(&self) -> RResult<(), RString>;
    /// Whether the run was asked to end.
    fn is_cancelled(&self) -> bool;
    /// One line of the run's trace: a JSON object without line breaks.
    fn trace(&self, line: RStr<'_>);
    /// How far the job is: `done` of `total`, in whatever it counts; `total` 0 where that is not known. For a person who waits; never
    /// recorded.
    fn progress(&self, done: u64, total: u64);
    /// How far this run really got, in microseconds since 1970, should it succeed. `Err`: nothing would read it.
    // Methods of later revisions follow this one.
    #[sabi(last_prefix_field)]
    fn set_bookmark(&self, at_micros: i64) -> RResult<(), RString>;
}

/// The root module of a plugin.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = Root_Ref, prefix_fields = Root_Prefix)))]
#[sabi(missing_field(option))]
pub struct Root {
    /// [`ABI_REVISION`] of the plugin's build.
    pub abi_revision: u32,
    pub package: RStr<'static>,
    pub version: RStr<'static>,
    #[sabi(last_prefix_field)]
    pub jobs: RSlice<'static, JobEntry_Ref>,
}

/// One job of the root module; the texts are those of [`JobDef`].
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = JobEntry_Ref, prefix_fields = JobEntry_Prefix)))]
#[sabi(missing_field(option))]
pub struct JobEntry {
    pub name: RStr<'static>,
    pub signature: RStr<'static>,
    pub docs: RStr<'static>,
    pub file: RStr<'static>,
    pub line: u32,
    /// An [`Entry`], spelled out: abi_stable describes function pointers only where it sees them.
    #[sabi(last_prefix_field)]
    pub entry: extern "C" fn(RStr<'_>, BoxedSink) -> RString,
}

impl RootModule for Root_Ref {
    abi_stable::declare_root_module_statics! {Root_Ref}
    const BASE_NAME: &'static str = "lorchestra_plugin";
    const NAME: &'static str = "lorchestra_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

// ---- the plugin's side ----------------------------------------------------------------------------------------------

/// The header that `plugin!` exports.
pub const fn header<P: Plugin>() -> LibHeader {
    // SAFETY: the constructor must answer with a module of the type named here; `construct` returns what
    // `__call_root_module_loader` makes of a `fn() -> Root_Ref`.
    unsafe { LibHeader::from_constructor::<Root_Ref>(construct::<P>, CheckTypeLayout::Yes) }
}

extern "C" fn construct<P: Plugin>() -> RootModuleResult {
    __call_root_module_loader(root::<P>)
}

fn root<P: Plugin>() -> Root_Ref {
    let jobs: Vec<JobEntry_Ref> = P::entries()
        .into_iter()
        .map(|(def, entry)| {
            JobEntry {
                name: RStr::from_str(def.name),
                signature: RStr::from_str(def.signature),
                docs: RStr::from_str(def.docs),
                file: RStr::from_str(def.file),
                line: def.line,
                entry,
            }
            .leak_into_prefix()
        })
        .collect();
    Root {
        abi_revision: ABI_REVISION,
        package: RStr::from_str(P::DEF.name),
        version: RStr::from_str(P::DEF.version),
        jobs: RSlice::from_slice(jobs.leak()),
    }
    .leak_into_prefix()
}

/// Definition and entry of a job: what `plugin!` lists. A trait, so that a job's name is written where only a type can stand: what is none is
/// then one error of the compiler's, and not two.
pub trait Enter: Job {
    /// Both.
    fn entry() -> (&'static JobDef, Entry);
}

impl<J: Job> Enter for J {
    fn entry() -> (&'static JobDef, Entry) {
        (&J::DEF, entry::<J>)
    }
}

extern "C" fn entry<J: Job>(call: RStr<'_>, sink: BoxedSink) -> RString {
    invoke::invoke::<J>(call.as_str(), sink).into()
}

// ---- the host's side ------------------------------------------------------------------------------------------------

/// Why a loaded library has no usable root module. One sentence each; what abi_stable says at length is in the second
/// field of [`AbiError::Layout`], for a debug log.
#[derive(Debug)]
pub enum AbiError {
    /// Built against another abi_stable.
    Header,
    /// Built against another major version of the plugin API.
    Version(String),
    /// The types at the boundary differ.
    Layout(String),
    /// The root module could not be made.
    Root(String),
}

impl fmt::Display for AbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "the plugin was built against another version of abi_stable"),
            Self::Version(detail) => {
                write!(f, "the plugin was built against another major version of lorchestra-plugin-api ({detail})")
            }
            Self::Layout(_) => write!(
                f,
                "the types at the plugin boundary differ from this host's, although both call them revision {ABI_REVISION}"
            ),
            Self::Root(detail) => write!(f, "the plugin's root module could not be made: {detail}"),
        }
    }
}

impl std::error::Error for AbiError {}

/// The root module behind a header found in a loaded library, its layout checked in both directions.
///
/// abi_stable's own check accepts only plugins that have at least the host's fields: a host that grew would refuse every
/// older plugin. Checking (host, plugin) or (plugin, host) accepts both, and prefix types answer `None` for what is missing.
pub fn root_module(header: AbiHeaderRef) -> Result<Root_Ref, AbiError> {
    root_module_as::<Root_Ref>(header)
}

/// The same for the root module of another revision: that of the next one, in the test that it can still be made.
#[doc(hidden)]
pub fn root_module_as<R: RootModule>(header: AbiHeaderRef) -> Result<R, AbiError> {
    let header = header.upgrade().map_err(abi_error)?;
    let host = R::LAYOUT;
    let Some(plugin) = header.layout() else {
        return Err(AbiError::Layout("the plugin carries no layout".into()));
    };
    if let Err(forward) = check_layout_compatibility(host, plugin)
        && check_layout_compatibility(plugin, host).is_err()
    {
        return Err(AbiError::Layout(forward.to_string()));
    }
    // SAFETY: the layouts were compared just above, in the direction in which one is a prefix of the other.
    unsafe { header.init_root_module_with_unchecked_layout::<R>() }.map_err(abi_error)
}

fn abi_error(error: LibraryError) -> AbiError {
    match error {
        LibraryError::InvalidAbiHeader(_) | LibraryError::InvalidCAbi { .. } => AbiError::Header,
        LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => {
            AbiError::Version(format!("plugin {actual_version}, host {expected_version}"))
        }
        LibraryError::RootModule { err, .. } => AbiError::Root(first_line(&err.to_string())),
        LibraryError::AbiInstability(errors) => AbiError::Layout(errors.to_string()),
        other => AbiError::Root(first_line(&other.to_string())),
    }
}

fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given").to_owned()
}
