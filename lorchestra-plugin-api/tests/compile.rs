//! What the compiler says to an author: one clear error for each mistake, at its place; and that what is right compiles.
//!
//! The texts are those of the toolchain in rust-toolchain.toml. After a change: `TRYBUILD=overwrite cargo test -p
//! lorchestra-plugin-api --test compile`, then read the difference.

#[test]
fn mistakes_are_told_where_they_are() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile/fail/*.rs");
    cases.pass("tests/compile/pass/*.rs");
}
