//! The demo as CI runs it: a pipe for stdout, no colours, every step observed or exit 1.

use std::process::Command;

#[test]
fn the_demo_observes_every_step_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_fota"))
        .args(["demo", "--fast", "--exit", "--listen", "127.0.0.1:0"])
        .env("NO_COLOR", "1")
        .env("TMPDIR", folder.path())
        .output()
        .expect("runs");
    let story = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{story}\n{errors}");
    for step in ["①", "②", "③", "④", "⑤", "⑥", "⑦", "⑧", "⑨", "⑩"] {
        assert!(story.contains(step), "no step {step} in\n{story}");
    }
    assert!(!story.contains('\x1b'), "escape sequences in a pipe");
    let left = std::fs::read_dir(folder.path())
        .expect("the folder")
        .count();
    assert_eq!(left, 0, "the temporary directory is not empty");
}

#[test]
fn the_demo_stays_on_this_machine() {
    let output = Command::new(env!("CARGO_BIN_EXE_fota"))
        .args(["demo", "--exit", "--listen", "0.0.0.0:0"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("no loopback address"), "{errors}");
}
