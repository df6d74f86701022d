//! What the next revision of the boundary may do, each direction with real parts:
//!
//! - a host whose root module, job entries and event sink have each grown by a suffix loads a plugin of the present revision (the
//!   library of `tests/plugins/misbehave`), runs its jobs through the grown sink, and reads what the plugin cannot have as `None`;
//! - the present host takes the root module of a plugin that has grown, and its job runs with the present, shorter sink;
//! - a host that differs otherwise refuses the plugin in one sentence.
//!
//! The types here are those of `src/abi.rs` with something added; they are declared in this package, whose name the layouts carry.
#![expect(unsafe_code, reason = "a library is loaded; and abi_stable's derives")]
#![expect(non_camel_case_types, non_local_definitions, dead_code, reason = "names and items made by abi_stable's derives")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unreachable_pub, reason = "abi_stable's derives make public items")]

use abi_stable::StableAbi;
use abi_stable::library::LibHeader;
use abi_stable::std_types::{RBox, RResult, RSlice, RStr, RString};
use abi_stable::type_layout::TypeLayout;
use lorchestra_plugin_api::abi::{self, AbiError, AbiHeaderRef, RawEvent};
use lorchestra_plugin_api::invoke::{Call, JobReturn};
use lorchestra_plugin_api::serde_json;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// `src/abi.rs`, grown.
mod grown {
    use abi_stable::library::RootModule;
    use abi_stable::sabi_types::VersionStrings;
    use abi_stable::std_types::{RBox, RResult, RSlice, RStr, RString};
    use abi_stable::{StableAbi, package_version_strings, sabi_trait};
    use lorchestra_plugin_api::abi::RawEvent;

    pub type BoxedSink = EventSink_TO<'static, RBox<()>>;

    #[sabi_trait]
    pub trait EventSink: Send + Sync {
        fn emit(&self, event: RawEvent<'_>) -> RResult<(), RString>;
        fn emit_all(&self, events: RSlice<'_, RawEvent<'_>>, taken: &mut u64) -> RResult<(), RString>;
        fn flush(&self) -> RResult<(), RString>;
        fn is_cancelled(&self) -> bool;
        fn trace(&self, line: RStr<'_>);
        fn progress(&self, done: u64, total: u64);
        #[sabi(last_prefix_field)]
        fn set_bookmark(&self, at_micros: i64) -> RResult<(), RString>;
        fn added(&self, done: u64) -> RResult<u64, RString>;
    }

    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(kind(Prefix(prefix_ref = Root_Ref, prefix_fields = Root_Prefix)))]
    #[sabi(missing_field(option))]
    pub struct Root {
        pub abi_revision: u32,
        pub package: RStr<'static>,
        pub version: RStr<'static>,
        #[sabi(last_prefix_field)]
        pub jobs: RSlice<'static, JobEntry_Ref>,
        pub added: RStr<'static>,
    }

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
        #[sabi(last_prefix_field)]
        pub entry: extern "C" fn(RStr<'_>, BoxedSink) -> RString,
        pub added: extern "C" fn(RStr<'_>, BoxedSink) -> RString,
    }

    impl RootModule for Root_Ref {
        abi_stable::declare_root_module_statics! {Root_Ref}
        const BASE_NAME: &'static str = "lorchestra_plugin";
        const NAME: &'static str = "lorchestra_plugin";
        const VERSION_STRINGS: VersionStrings = package_version_strings!();
    }
}

/// `src/abi.rs`, with a field of another size among the old ones.
mod diverged {
    use abi_stable::library::RootModule;
    use abi_stable::sabi_types::VersionStrings;
    use abi_stable::std_types::{RSlice, RStr};
    use abi_stable::{StableAbi, package_version_strings};
    use lorchestra_plugin_api::abi::JobEntry_Ref;

    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(kind(Prefix(prefix_ref = Root_Ref, prefix_fields = Root_Prefix)))]
    #[sabi(missing_field(option))]
    pub struct Root {
        pub abi_revision: u64,
        pub package: RStr<'static>,
        pub version: RStr<'static>,
        #[sabi(last_prefix_field)]
        pub jobs: RSlice<'static, JobEntry_Ref>,
    }

    impl RootModule for Root_Ref {
        abi_stable::declare_root_module_statics! {Root_Ref}
        const BASE_NAME: &'static str = "lorchestra_plugin";
        const NAME: &'static str = "lorchestra_plugin";
        const VERSION_STRINGS: VersionStrings = package_version_strings!();
    }
}

/// Keeps the types of all events, what was traced, and the bookmarks that were set.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Calls>>);

#[derive(Default)]
struct Calls {
    events: Vec<String>,
    traces: Vec<String>,
    bookmarks: Vec<i64>,
}

/// The methods that both revisions have, for either trait.
macro_rules! kept_methods {
    () => {
        fn emit(&self, event: RawEvent<'_>) -> RResult<(), RString> {
            self.0.lock().unwrap().events.push(event.event_type.to_string());
            RResult::ROk(())
        }

        fn emit_all(&self, events: RSlice<'_, RawEvent<'_>>, taken: &mut u64) -> RResult<(), RString> {
            self.0.lock().unwrap().events.extend(events.iter().map(|event| event.event_type.to_string()));
            *taken = events.len() as u64;
            RResult::ROk(())
        }

        fn flush(&self) -> RResult<(), RString> {
            RResult::ROk(())
        }

        fn is_cancelled(&self) -> bool {
            false
        }

        fn trace(&self, line: RStr<'_>) {
            self.0.lock().unwrap().traces.push(line.to_string());
        }

        fn progress(&self, _: u64, _: u64) {}

        fn set_bookmark(&self, at_micros: i64) -> RResult<(), RString> {
            self.0.lock().unwrap().bookmarks.push(at_micros);
            RResult::ROk(())
        }
    };
}

impl abi::EventSink for Kept {
    kept_methods!();
}

impl grown::EventSink for Kept {
    kept_methods!();

    fn added(&self, _: u64) -> RResult<u64, RString> {
        RResult::RErr("no plugin of the revision before calls this".into())
    }
}

/// The header of a plugin of the present revision, which stays loaded.
fn present() -> AbiHeaderRef {
    // <target>/<profile>/deps/<this>
    let exe = std::env::current_exe().unwrap();
    let path = exe.ancestors().nth(2).unwrap().join("libmisbehave.so");
    assert!(path.is_file(), "{} is not built: run `cargo xtask test`, which builds what these tests need first", path.display());
    // SAFETY: the library is one of ours and its constructors do nothing.
    let library = unsafe { libloading::Library::new(&path) }.unwrap();
    // SAFETY: the symbol is a `LibHeader`, whose address is a valid `AbiHeaderRef`; the library is never closed.
    let header = unsafe { *library.get::<AbiHeaderRef>(abi::header_symbol("misbehave").as_bytes()).unwrap() };
    #[expect(clippy::mem_forget, reason = "a loaded plugin is never unloaded")]
    std::mem::forget(library);
    header
}

/// Runs a job of the present plugin in the host that has grown.
fn run(name: &str, params: &serde_json::Value) -> Kept {
    let root: grown::Root_Ref = abi::root_module_as(present()).unwrap();
    let job = root.jobs().as_slice().iter().find(|job| job.name().as_str() == name).copied().unwrap();
    assert!(job.added().is_none(), "what the plugin does not have is none");
    let call = Call {
        run_id: "a-run".into(),
        attempt: 1,
        package: "misbehave".into(),
        data_root: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("next-revision"),
        trace_level: "info".into(),
        params: params.as_object().unwrap().clone(),
    };
    let kept = Kept::default();
    let sink = grown::EventSink_TO::from_value(kept.clone(), abi_stable::erased_types::TD_Opaque);
    let answer = (job.entry())(serde_json::to_string(&call).unwrap().as_str().into(), sink);
    assert_eq!(serde_json::from_str::<JobReturn>(&answer).unwrap(), JobReturn::Ok);
    kept
}

#[test]
fn a_host_that_has_grown_runs_a_plugin_of_the_revision_before() {
    let root: grown::Root_Ref = abi::root_module_as(present()).unwrap();
    assert_eq!((root.abi_revision(), root.package().as_str()), (abi::ABI_REVISION, "misbehave"));
    assert!(root.added().is_none(), "what the plugin does not have is none");

    // First: a process has one trace, that of the first job it runs.
    let kept = run("traced", &serde_json::json!({}));
    let traces = kept.0.lock().unwrap().traces.join("\n");
    assert!(traces.contains("an info"), "{traces}");
    let kept = run("numbered", &serde_json::json!({"count": 300, "then": "return"}));
    assert_eq!(kept.0.lock().unwrap().events.len(), 300);
    let kept = run("windowed", &serde_json::json!({"reached": "2024-01-31T00:00:00Z", "then": "return"}));
    assert_eq!(kept.0.lock().unwrap().bookmarks.last(), Some(&1_706_659_200_000_000));
}

/// A plugin of the next revision, linked into this program: its one job emits `grown`.
mod newer {
    use super::grown::{BoxedSink, JobEntry, Root, Root_Ref};
    use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult};
    use abi_stable::prefix_type::PrefixTypeTrait;
    use abi_stable::std_types::{RSlice, RStr, RString};
    use lorchestra_plugin_api::abi::{ABI_REVISION, RawEvent};
    use lorchestra_plugin_api::invoke::JobReturn;
    use lorchestra_plugin_api::serde_json;

    // SAFETY: `construct` returns what `__call_root_module_loader` makes of a function that returns a `Root_Ref`.
    pub static HEADER: LibHeader = unsafe { LibHeader::from_constructor::<Root_Ref>(construct, CheckTypeLayout::Yes) };

    extern "C" fn construct() -> RootModuleResult {
        __call_root_module_loader(root)
    }

    fn root() -> Root_Ref {
        let job = JobEntry {
            name: RStr::from_str("grow"),
            signature: RStr::from_str("(cx)"),
            docs: RStr::from_str(""),
            file: RStr::from_str("next_revision.rs"),
            line: 1,
            entry,
            added: entry,
        };
        Root {
            abi_revision: ABI_REVISION + 1,
            package: RStr::from_str("newer"),
            version: RStr::from_str("1.0.0"),
            jobs: RSlice::from_slice(vec![job.leak_into_prefix()].leak()),
            added: RStr::from_str("more"),
        }
        .leak_into_prefix()
    }

    extern "C" fn entry(_: RStr<'_>, sink: BoxedSink) -> RString {
        let none = RStr::from_str("");
        let event = RawEvent {
            event_type: RStr::from_str("grown"),
            payload: RSlice::from_slice(b"{}"),
            schema_ref: none,
            correlation_id: none,
            subject_id: none,
        };
        sink.emit(event).into_result().unwrap();
        sink.set_bookmark(7).into_result().unwrap();
        serde_json::to_string(&JobReturn::Ok).unwrap().into()
    }
}

/// The revision in the manifest refuses such a plugin before it is loaded. That its layout would fit is what makes the next revision an
/// addition and not a break.
#[test]
fn the_layout_of_a_plugin_that_has_grown_fits_the_present_host() {
    // SAFETY: an `AbiHeaderRef` is a reference to the first field of a `LibHeader`, transparent; that of a loaded plugin is read the same way.
    let header = unsafe { std::mem::transmute::<&'static LibHeader, AbiHeaderRef>(&newer::HEADER) };
    let root = abi::root_module(header).unwrap();
    assert_eq!((root.abi_revision(), root.package().as_str()), (abi::ABI_REVISION + 1, "newer"));
    let kept = Kept::default();
    let sink = abi::EventSink_TO::from_value(kept.clone(), abi_stable::erased_types::TD_Opaque);
    let answer = (root.jobs().as_slice()[0].entry())("{}".into(), sink);
    assert_eq!(serde_json::from_str::<JobReturn>(&answer).unwrap(), JobReturn::Ok);
    let calls = kept.0.lock().unwrap();
    assert_eq!((&*calls.events, &*calls.bookmarks), (&["grown".to_owned()][..], &[7][..]));
}

#[test]
fn a_host_that_has_diverged_refuses_it_in_one_sentence() {
    let refused = abi::root_module_as::<diverged::Root_Ref>(present()).map(drop).unwrap_err();
    assert!(matches!(refused, AbiError::Layout(_)), "{refused:?}");
    let text = refused.to_string();
    assert!(text.lines().count() == 1 && text.len() < 200, "{text}");
}

/// Adds each type of the boundary that `layout` reaches, with its fields in order, to `types`.
fn describe(layout: &'static TypeLayout, seen: &mut Vec<&'static TypeLayout>, types: &mut BTreeSet<String>) {
    if seen.iter().any(|other| std::ptr::eq(*other, layout)) {
        return;
    }
    seen.push(layout);
    let mut text = format!("{} (size {})\n", layout.full_type(), layout.size());
    let fields = layout.get_fields().into_iter().flatten().chain(layout.phantom_fields());
    for field in fields {
        let functions = field.function_range();
        if field.is_function() {
            for function in functions.iter() {
                // The lines after the first are abi_stable's own bookkeeping.
                let _ = writeln!(text, "    {}: {}", field.name(), function.to_string().lines().next().unwrap());
            }
        } else {
            let _ = writeln!(text, "    {}: {}", field.name(), field.full_type());
        }
        describe(field.layout(), seen, types);
    }
    if layout.item_info().package() == "lorchestra-plugin-api" {
        types.insert(text);
    }
}

/// The types at the boundary are those recorded in `boundary.txt`: a change of them is seen. Before the first release, record the new
/// ones. After it, a plugin in the field has the old ones: raise `ABI_REVISION` with the change (docs/explanation/compatibility.md).
#[test]
fn the_boundary_does_not_change_unseen() {
    let mut types = BTreeSet::new();
    let mut seen = Vec::new();
    for layout in [
        <abi::Root_Ref as StableAbi>::LAYOUT,
        <abi::JobEntry_Ref as StableAbi>::LAYOUT,
        <abi::BoxedSink as StableAbi>::LAYOUT,
        <RawEvent<'static> as StableAbi>::LAYOUT,
    ] {
        describe(layout, &mut seen, &mut types);
    }
    let now = format!("revision {}\n\n{}", abi::ABI_REVISION, types.into_iter().collect::<Vec<_>>().join("\n"));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boundary.txt");
    std::fs::write(&file, &now).unwrap();
    assert_eq!(now, include_str!("boundary.txt"), "src/abi.rs has changed; what it is now: {}", file.display());
}

/// The boxed sink keeps its size, whatever methods are added: it is handed to plugins by value.
#[test]
fn a_boxed_sink_keeps_its_size() {
    type Old = abi::EventSink_TO<'static, RBox<()>>;
    assert_eq!(size_of::<Old>(), size_of::<grown::BoxedSink>());
}
