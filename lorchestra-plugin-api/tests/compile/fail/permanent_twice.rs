use lorchestra_plugin_api::prelude::*;

#[derive(Debug, Classify)]
#[permanent]
enum FetchError {
    #[permanent]
    NoSuchMailbox,
}

fn main() {}
