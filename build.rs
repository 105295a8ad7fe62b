//! Links `gravity` at a fixed address, as Go links its programs. It has 36,000 addresses in its data, most of them of the
//! AWS SDK; with an address chosen anew at each start, the dynamic linker writes to all of them before `main`, which takes
//! 1 ms of the 2 to 3 that a start does. Stack, heap and libraries are where chance puts them all the same. Who wants the
//! program itself there, too, sets `GRAVITY_PIE=1` when building.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GRAVITY_PIE");
    let target = |name| env::var(name).unwrap_or_default();
    let is_linux = target("CARGO_CFG_TARGET_OS") == "linux" && target("CARGO_CFG_TARGET_ENV") == "gnu";
    let is_static = target("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    if is_linux && !is_static && env::var_os("GRAVITY_PIE").is_none() {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
