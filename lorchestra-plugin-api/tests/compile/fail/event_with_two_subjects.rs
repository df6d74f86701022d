use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::serde::Serialize;

#[derive(Serialize, Event)]
#[serde(crate = "lorchestra_plugin_api::serde")]
#[event("message.received")]
struct Received {
    #[event(subject_id)]
    from: String,
    #[event(subject_id)]
    to: String,
}

fn main() {}
