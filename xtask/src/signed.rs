//! Others judge our signed objects: a verifier in C, Python's COSE, a PKCS#11 token.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{
    ci::Skipped,
    delta_c,
    process::{cargo, command, output, root, run, target},
    tools,
};

/// Where Debian keeps the library of SoftHSM.
const SOFTHSM: [&str; 2] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
];
/// Random neighbours of our objects that both sides judge.
const MUTATIONS: u32 = 4_000;

#[derive(Deserialize)]
struct Index {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    kind: String,
    root: Option<String>,
    valid: bool,
}

fn vectors() -> Result<(PathBuf, Vec<Vector>)> {
    let folder = root().join("docs/vectors/signed");
    let text = fs::read_to_string(folder.join("index.json")).context("docs/vectors/signed")?;
    let index: Index = serde_json::from_str(&text)?;
    ensure!(index.vectors.len() > 40, "{} vectors", index.vectors.len());
    Ok((folder, index.vectors))
}

/// `docs/c/fota_verify.h`, compiled with each of its two back ends, judges the vectors as they say.
pub fn c_verifier() -> Result<()> {
    tools::need("gcc", "gcc")?;
    if !PathBuf::from("/usr/include/mbedtls/ecdsa.h").is_file() {
        let why = "there is no Mbed TLS here: install libmbedtls-dev".to_owned();
        return Err(Skipped(why).into());
    }
    let (folder, vectors) = vectors()?;
    for back_end in ["mbedtls", "psa"] {
        let program = target().join(format!("c-verifier-{back_end}"));
        let mut gcc = command("gcc");
        gcc.args("-std=c99 -O1 -g -Wall -Wextra -Wshadow -Werror".split(' '));
        gcc.args(["-fsanitize=address,undefined", "-fno-sanitize-recover"]);
        if back_end == "psa" {
            gcc.arg("-DFOTA_VERIFY_PSA");
        }
        run(gcc
            .args(["docs/c/check.c", "-lmbedcrypto", "-o"])
            .arg(&program))?;
        let mut judged = 0;
        for vector in vectors.iter().filter(|it| !it.kind.starts_with("check_in")) {
            let file = |name: &str| folder.join(format!("{name}.hex"));
            let trusted = vector.root.as_deref().map_or("-".into(), file);
            let mut check = Command::new(&program);
            let done = check
                .arg(&vector.kind)
                .arg(trusted)
                .arg(file(&vector.name))
                .output()?;
            let expected = if vector.valid { 0 } else { 1 };
            if done.status.code() != Some(expected) {
                let (name, said) = (&vector.name, String::from_utf8_lossy(&done.stderr));
                bail!(
                    "{back_end}, {name}: {}, not {expected}\n{said}",
                    done.status
                );
            }
            judged += 1;
        }
        println!("c-verifier: {judged} vectors judged with {back_end}, all as they say");
    }
    delta_c::run_all()
}

/// Python's `pycose` verifies our objects, makes ones that we verify, and judges random neighbours
/// of them: what it refuses, we refuse.
pub fn cose_differential() -> Result<()> {
    let python = tools::pycose()?;
    run(&mut cargo(
        "build --locked -p fota-proto --features sign --example judge",
    ))?;
    let judge = target().join("debug/examples/judge");
    let mut script = command(python);
    script.arg("xtask/src/cose_differential.py").arg(judge);
    run(script.arg("docs/vectors/signed").arg(MUTATIONS.to_string()))
}

/// A release and a root are signed with a key that never leaves SoftHSM.
pub fn softhsm() -> Result<()> {
    tools::need("softhsm2-util", "softhsm2")?;
    tools::need("pkcs11-tool", "opensc")?;
    let library = SOFTHSM.iter().find(|path| PathBuf::from(path).is_file());
    let library = library.context("softhsm2 is installed, but not its library")?;
    let dir = target().join("softhsm");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("tokens"))?;
    let tokens = dir.join("tokens").display().to_string();
    fs::write(
        dir.join("softhsm2.conf"),
        format!("directories.tokendir = {tokens}\n"),
    )?;
    let pin = "1234"; // of a token in the target folder
    let with = |program: &str, args: &str| {
        let mut command = command(program);
        command.env("SOFTHSM2_CONF", dir.join("softhsm2.conf"));
        command.args(args.split(' ')).output()
    };
    let made = |program: &str, args: &str| -> Result<()> {
        let done = with(program, args)?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(done.status.success(), "{program} {args}: {said}");
        Ok(())
    };
    let init = format!("--init-token --free --label fota --pin {pin} --so-pin {pin}");
    made("softhsm2-util", &init)?;
    for (number, label) in [("01", "lab"), ("02", "boss")] {
        let key = format!("--keypairgen --key-type EC:prime256v1 --id {number} --label {label}");
        made(
            "pkcs11-tool",
            &format!("--module {library} --login --pin {pin} {key}"),
        )?;
    }
    let mut test = cargo("test --locked -p fota --features pkcs11 --test it softhsm");
    let ran = output(
        test.env("SOFTHSM2_CONF", dir.join("softhsm2.conf"))
            .env("FOTA_SOFTHSM", library),
    )?;
    ensure!(ran.contains("1 passed"), "no test ran:\n{ran}");
    println!("softhsm: a root and a release signed by keys that stay on the token");
    Ok(())
}
