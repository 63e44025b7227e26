//! Keys on a PKCS#11 token. `cargo xtask ci --only softhsm` makes the token, says in
//! `FOTA_SOFTHSM` where its library is, and checks that this ran.
#![cfg(feature = "pkcs11")]

use fota_sim::firmware::Behaviour;

use crate::harness::{Place, Ran};

#[test]
fn a_token_signs_roots_and_releases_softhsm() {
    let Some(library) = std::env::var_os("FOTA_SOFTHSM") else {
        eprintln!("skipped: no SoftHSM; cargo xtask ci --only softhsm brings one");
        return;
    };
    let library = library.into_string().expect("text");
    let place = place();
    let file = place.firmware("1.0.6", Behaviour::Works);
    let run = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ran::of(place.command(&words).output().expect("starts"))
    };
    let token = |label: &str, pin: &str| {
        format!("--pkcs11-module {library} --pkcs11-key {label} --pkcs11-pin-file {pin}")
    };
    let sign = format!("release sign {file} --force");
    let nobody = run(&format!("{sign} {}", token("nobody", "pin"))).exits(7);
    nobody.complains("no token");
    let wrong = run(&format!("{sign} {}", token("lab", "wrong"))).exits(7);
    wrong.complains("key lab");
    for label in ["lab", "boss"] {
        run(&format!("{sign} -o {label}.fota {}", token(label, "pin"))).exits(0);
        export(&place, &library, label);
    }
    run("key generate online --no-passphrase").exits(0);
    let init = "key root init --root boss.der --release lab.der --online online -o root-1.cose";
    run(init).exits(0).says("1 signature missing");
    let wrong = run(&format!(
        "key root sign root-1.cose {}",
        token("lab", "pin")
    ))
    .exits(7);
    wrong.complains("no root key");
    let signed = run(&format!(
        "key root sign root-1.cose {}",
        token("boss", "pin")
    ))
    .exits(0);
    signed.says("fully signed");
    run("release verify lab.fota --root root-1.cose").exits(0);
    run("release verify boss.fota --root root-1.cose").exits(7);
}

/// A folder with the right PIN and a wrong one.
fn place() -> Place {
    let place = Place::new();
    for (name, pin) in [("pin", "1234\n"), ("wrong", "4321\n")] {
        let path = place.write(name, pin.as_bytes());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        }
        drop(path);
    }
    place
}

/// The public key of a pair on the token, as another tool reads it.
fn export(place: &Place, library: &str, label: &str) {
    let line = format!("--read-object --type pubkey --label {label} -o {label}.der --module");
    let mut tool = std::process::Command::new("pkcs11-tool");
    let tool = tool
        .args(line.split(' '))
        .arg(library)
        .current_dir(place.path());
    let done = tool.output().expect("opensc is there");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}
