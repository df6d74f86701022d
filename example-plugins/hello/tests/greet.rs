//! The job, run in the test's own process.

use hello::greet;
use lorchestra_plugin_api::{prelude::*, testing};

#[test]
fn the_world_is_greeted_unless_somebody_else_is() {
    let ran = testing::job::<greet>().run();
    assert_eq!(ran.assert_ok().event("greeting.said").payload, json!({ "to": "world" }));
    let ran = testing::job::<greet>().param("name", "Anna").run();
    assert_eq!(ran.assert_ok().event("greeting.said").payload, json!({ "to": "Anna" }));
}
