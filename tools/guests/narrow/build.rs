//! Hands the linker script to the linker.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rerun-if-changed=narrow.ld");
    println!("cargo:rustc-link-arg-bins=-T{here}/narrow.ld");
    // No page of file offset between segments: the raw image stays small.
    println!("cargo:rustc-link-arg-bins=-n");
    println!("cargo:rustc-link-arg-bins=--build-id=none");
}
