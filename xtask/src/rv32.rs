//! Programs on a bare RV32IMC in QEMU, as an ESP32-C3 would run them: what it takes there is what
//! README promises.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    no_std,
    process::{command, output, root, run, target},
    tools,
};

/// A program of `xtask/rv32`.
pub struct Program {
    /// Its name, and that of its file.
    pub name: &'static str,
    /// `opt-level` and what else its release profile says.
    pub profile: &'static str,
    /// Crates of the workspace that it uses.
    pub crates: &'static [&'static str],
    /// Other dependencies, as lines of a manifest.
    pub others: &'static str,
}

impl Program {
    /// The folder it is built in, for what it includes.
    pub fn dir(&self) -> Result<PathBuf> {
        tools::need("qemu-system-riscv32", "qemu-system-misc")?;
        let dir = target().join(format!("rv32-{}", self.name));
        fs::create_dir_all(dir.join("src")).with_context(|| dir.display().to_string())?;
        Ok(dir)
    }

    /// Builds it with these features and runs it; gives what it printed.
    pub fn run(&self, features: &str) -> Result<String> {
        let dir = self.dir()?;
        self.write(&dir)?;
        run(no_std::target_build(&dir)?.args(["--features", features]))?;
        let program = no_std::target_program(&dir, &format!("rv32-{}", self.name))?;
        let mut qemu = command("timeout");
        qemu.args(["120", "qemu-system-riscv32", "-M", "virt"])
            .args(["-cpu", "rv32,a=false,f=false,d=false", "-bios", "none"])
            .args(["-icount", "shift=0", "-display", "none", "-monitor", "none"])
            .args(["-serial", "stdio", "-kernel"]);
        output(qemu.arg(program))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let crates = root().join("crates");
        let dependency =
            |name: &&str| format!("fota-{name} = {{ path = {:?} }}\n", crates.join(name));
        let manifest = format!(
            "[package]\nname = \"rv32-{}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
             [workspace]\n\n[features]\npatches = []\n\n[profile.release]\npanic = \"abort\"\n{}\n\n\
             [dependencies]\n{}{}",
            self.name,
            self.profile,
            self.crates.iter().map(dependency).collect::<String>(),
            self.others,
        );
        let source = root().join("xtask/rv32");
        fs::write(dir.join("Cargo.toml"), manifest)?;
        fs::copy(
            source.join(format!("{}.rs", self.name)),
            dir.join("src/main.rs"),
        )?;
        fs::copy(source.join("support.rs"), dir.join("src/support.rs"))?;
        fs::copy(source.join("link.x"), dir.join("link.x"))?;
        fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock"))?;
        let link = "fn main() {\n    println!(\"cargo:rustc-link-arg=-Tlink.x\");\n    \
                    println!(\"cargo:rustc-link-search={}\", env!(\"CARGO_MANIFEST_DIR\"));\n}\n";
        fs::write(dir.join("build.rs"), link)?;
        Ok(())
    }
}

/// The number behind the word `what` in a line.
pub fn number(line: &str, what: &str) -> Result<u64> {
    let mut words = line.split(' ').skip_while(|word| *word != what).skip(1);
    let number = words.next().with_context(|| format!("no {what}: {line}"))?;
    Ok(number.trim().parse()?)
}
