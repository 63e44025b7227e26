//! Takes the root that the firmware trusts and its version from the environment.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rustc-link-arg=-Tlinkall.x");
    println!("cargo:rerun-if-env-changed=FOTA_ROOT");
    println!("cargo:rerun-if-env-changed=FOTA_VERSION");
    let version = env::var("FOTA_VERSION").or_else(|_| env::var("CARGO_PKG_VERSION"));
    println!(
        "cargo:rustc-env=FOTA_VERSION={}",
        version.expect("cargo names the version of the package")
    );
    let root = match env::var("FOTA_ROOT") {
        Ok(path) => {
            println!("cargo:rerun-if-changed={path}");
            format!("Some(include_bytes!({path:?}))")
        }
        Err(_) => "None".into(),
    };
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("root.rs");
    let text =
        format!("/// The first root, as it was signed.\nconst ROOT: Option<&[u8]> = {root};\n");
    fs::write(out, text).expect("OUT_DIR can be written to");
}
