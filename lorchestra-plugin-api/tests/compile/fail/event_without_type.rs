use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::serde::Serialize;

#[derive(Serialize, Event)]
#[serde(crate = "lorchestra_plugin_api::serde")]
struct Received {
    bytes: u64,
}

fn main() {}
