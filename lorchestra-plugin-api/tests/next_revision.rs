//! What the next revision of the boundary may do: a host whose root module, job entries and event sink have each grown by a suffix loads
//! a plugin of the frozen revision 1 (`tests/frozen/plugin-1`), runs its job through the grown sink, and reads what the plugin cannot
//! have as `None`. A host that differs otherwise is refused in one sentence.
//!
//! The types here are those of `src/abi.rs` with something added; they are declared in this package, whose name the layouts carry.
//! With a revision 3 this file moves on to revision 4, and to a frozen plugin of revision 2.
#![expect(unsafe_code, reason = "a library is loaded; and abi_stable's derives")]
#![expect(non_camel_case_types, non_local_definitions, dead_code, reason = "names and items made by abi_stable's derives")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unreachable_pub, reason = "abi_stable's derives make public items")]

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::std_types::{RBox, RResult, RSlice, RStr, RString};
use lorchestra_plugin_api::abi::{self, AbiError, AbiHeaderRef, HEADER_SYMBOL, RawEvent};
use lorchestra_plugin_api::invoke::{Call, JobReturn};
use lorchestra_plugin_api::serde_json;
use std::path::PathBuf;
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
        #[sabi(last_prefix_field)]
        fn trace(&self, line: RStr<'_>);
        fn progress(&self, done: u64, total: u64);
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

/// Keeps the types of all events, and what was traced.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<(Vec<String>, Vec<String>)>>);

impl grown::EventSink for Kept {
    fn emit(&self, event: RawEvent<'_>) -> RResult<(), RString> {
        self.0.lock().unwrap().0.push(event.event_type.to_string());
        RResult::ROk(())
    }

    fn emit_all(&self, events: RSlice<'_, RawEvent<'_>>, taken: &mut u64) -> RResult<(), RString> {
        self.0.lock().unwrap().0.extend(events.iter().map(|event| event.event_type.to_string()));
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
        self.0.lock().unwrap().1.push(line.to_string());
    }

    fn progress(&self, _: u64, _: u64) {}

    fn set_bookmark(&self, _: i64) -> RResult<(), RString> {
        RResult::RErr("no plugin of revision 1 calls this".into())
    }

    fn added(&self, _: u64) -> RResult<u64, RString> {
        RResult::RErr("no plugin of revision 1 calls this".into())
    }
}

/// The header of the frozen plugin, which stays loaded.
fn frozen() -> AbiHeaderRef {
    // <target>/<profile>/deps/<this>
    let exe = std::env::current_exe().unwrap();
    let path = exe.ancestors().nth(2).unwrap().join("libfrozen_1.so");
    assert!(path.is_file(), "{} is not built: run `cargo xtask test`, which builds what these tests need first", path.display());
    // SAFETY: the library is one of ours and its constructors do nothing.
    let library = unsafe { libloading::Library::new(&path) }.unwrap();
    // SAFETY: the symbol is a `LibHeader`, whose address is a valid `AbiHeaderRef`; the library is never closed.
    let header = unsafe { *library.get::<AbiHeaderRef>(HEADER_SYMBOL.as_bytes()).unwrap() };
    #[expect(clippy::mem_forget, reason = "a loaded plugin is never unloaded")]
    std::mem::forget(library);
    header
}

#[test]
fn a_host_that_has_grown_runs_the_frozen_plugin() {
    let root: grown::Root_Ref = abi::root_module_as(frozen()).unwrap();
    assert_eq!((root.abi_revision(), root.package().as_str(), root.version().as_str()), (1, "frozen-1", "1.2.3"));
    assert!(root.added().is_none(), "what the plugin does not have is none");
    let job = root.jobs().as_slice().iter().find(|job| job.name().as_str() == "everything").copied().unwrap();
    assert!(job.added().is_none());

    let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("next-revision");
    let params = serde_json::json!({"number": 7, "since": "2024-01-31T00:00:00Z", "dry": true});
    let call = Call {
        run_id: "a-run".into(),
        attempt: 1,
        package: "frozen-1".into(),
        data_root: data,
        trace_level: "info".into(),
        params: params.as_object().unwrap().clone(),
    };
    let kept = Kept::default();
    let sink = grown::EventSink_TO::from_value(kept.clone(), abi_stable::erased_types::TD_Opaque);
    let answer = (job.entry())(serde_json::to_string(&call).unwrap().as_str().into(), sink);
    assert_eq!(serde_json::from_str::<JobReturn>(&answer).unwrap(), JobReturn::Ok);
    let (events, traces) = &*kept.0.lock().unwrap();
    assert_eq!(events.iter().filter(|name| *name == "many").count(), 300);
    assert_eq!([&*events[0], &*events[1], events.last().unwrap()], ["one", "with", "told"]);
    assert!(traces.len() == 1 && traces[0].contains("\"revision\":1"), "{traces:?}");
}

#[test]
fn a_host_that_has_diverged_refuses_it_in_one_sentence() {
    let refused = abi::root_module_as::<diverged::Root_Ref>(frozen()).map(drop).unwrap_err();
    assert!(matches!(refused, AbiError::Layout(_)), "{refused:?}");
    let text = refused.to_string();
    assert!(text.lines().count() == 1 && text.len() < 200, "{text}");
}

/// As long as this API calls itself the revision that was frozen, it is that: whoever adds to the boundary raises `ABI_REVISION`, and
/// freezes first what there was (tests/frozen/README.md).
#[test]
fn the_boundary_does_not_grow_without_a_new_revision() {
    if abi::ABI_REVISION != abi::root_module(frozen()).unwrap().abi_revision() {
        return;
    }
    let host = <abi::Root_Ref as StableAbi>::LAYOUT;
    let plugin = frozen().upgrade().unwrap().layout().expect("a layout");
    for (one, other) in [(host, plugin), (plugin, host)] {
        assert!(check_layout_compatibility(one, other).is_ok(), "src/abi.rs has changed: raise ABI_REVISION");
    }
}

/// The boxed sink keeps its size, whatever methods are added: it is handed to plugins by value.
#[test]
fn a_boxed_sink_keeps_its_size() {
    type Old = abi::EventSink_TO<'static, RBox<()>>;
    assert_eq!(size_of::<Old>(), size_of::<grown::BoxedSink>());
}
