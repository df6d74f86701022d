use lorchestra_plugin_api::testing;

struct Hello;

fn main() {
    testing::job::<Hello>().run().assert_ok();
}
