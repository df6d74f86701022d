use lorchestra_plugin_api::prelude::*;

mod other {
    use lorchestra_plugin_api::prelude::*;

    #[job]
    pub(crate) fn count(_cx: &JobContext) -> JobResult {
        Ok(())
    }
}

#[job]
fn count(_cx: &JobContext) -> JobResult {
    Ok(())
}

plugin! { package = "words", jobs = [count, other::count] }

fn main() {}
