use lorchestra_plugin_api::prelude::*;

struct Words;

impl Words {
    #[job]
    fn count(&self) -> JobResult {
        Ok(())
    }
}

fn main() {}
