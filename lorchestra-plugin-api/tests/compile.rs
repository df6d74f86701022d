//! Compile errors of the macros: one clear error for each mistake, at its span. Also checks that correct code compiles.
//!
//! The expected texts are for the toolchain in rust-toolchain.toml. After a change: `TRYBUILD=overwrite cargo test -p
//! lorchestra-plugin-api --test compile`, then review the diff.

#[test]
fn mistakes_are_reported_at_their_span() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile/fail/*.rs");
    cases.pass("tests/compile/pass/*.rs");
}
