//! How the programs are linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is == value);
    // Addresses that the loader fills in take an eighth of the room when packed, and its
    // reading them is most of what an idle gateway would keep of that: 2.4 MB. Needs glibc
    // 2.36, as Debian 12 has.
    if is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && is("PROFILE", "release")
    {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
