//! The menu as a person sees it, in a pseudo-terminal.

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fota_sim::firmware::Behaviour;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::harness::{Devices, PATIENCE, Place, Server};

const MENU: &str = "\
1. Upload firmware (quick)
2. Perform complete update with verification
3. Trigger update (manual)
4. Monitor update status
5. Rollback firmware
6. Verify current firmware version
0. Exit
";
const PROMPT: &str = "Select option (0-6): ";

/// The program at a terminal of 80 columns.
pub struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    screen: Arc<Mutex<String>>,
    /// How much of the screen was looked at.
    seen: usize,
    _master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    pub fn start(server: &Server, args: &[&str]) -> Self {
        Self::start_in(&server.place, &[("FOTA_SERVER", &server.url)], args)
    }

    pub fn start_in(place: &Place, env: &[(&str, &str)], args: &[&str]) -> Self {
        let size = PtySize {
            rows: 40,
            cols: 80,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system().openpty(size).expect("a terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_fota"));
        command.args(args);
        command.cwd(place.path());
        for (name, value) in place.environment() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            }
        }
        env.iter()
            .for_each(|(name, value)| command.env(name, value));
        command.env("TERM", "xterm-256color");
        let child = pair
            .slave
            .spawn_command(command)
            .expect("the program starts");
        drop(pair.slave);
        let screen = Arc::new(Mutex::new(String::new()));
        let mut output = pair.master.try_clone_reader().expect("readable");
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            let mut all = Vec::new();
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                all.extend_from_slice(&bytes[..length]);
                *shown.lock().expect("not poisoned") =
                    String::from_utf8_lossy(&all).replace("\r\n", "\n");
            }
        });
        let keyboard = pair.master.take_writer().expect("writable");
        Self {
            child,
            keyboard,
            screen,
            seen: 0,
            _master: pair.master,
        }
    }

    pub fn shown(&self) -> String {
        self.screen.lock().expect("not poisoned").clone()
    }

    /// Waits until `text` appears behind what was seen, and gives all up to it.
    #[track_caller]
    pub fn sees(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let shown = self.shown();
            let rest = shown.get(self.seen..).unwrap_or_default();
            if let Some(at) = rest.find(text) {
                let found = rest[..at + text.len()].to_owned();
                self.seen += found.len();
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "no {text:?} on the screen:\n{shown}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typed");
        self.keyboard.flush().expect("typed");
    }

    /// Sees a question and answers it.
    #[track_caller]
    pub fn answers(&mut self, question: &str, answer: &str) {
        self.sees(question);
        self.types(&format!("{answer}\n"));
    }

    #[track_caller]
    pub fn exits(&mut self, code: u32) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                assert_eq!(status.exit_code(), code, "{}", self.shown());
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it does not end:\n{}",
                self.shown()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_menu_is_the_seeds_byte_for_byte() {
    let server = Server::start();
    let mut terminal = Terminal::start(&server, &[]);
    let shown = terminal.sees(PROMPT);
    assert!(shown.contains(MENU), "{shown}");
    for wrong in ["7", "x", "", "-1", "22"] {
        terminal.types(&format!("{wrong}\n"));
        terminal.sees("Invalid option");
        terminal.sees(PROMPT);
    }
    terminal.types("0\n");
    terminal.exits(0);
    let wide = terminal
        .shown()
        .lines()
        .map(|line| line.chars().count())
        .max();
    assert!(wide <= Some(80), "{wide:?} columns");
}

#[test]
fn ctrl_c_and_eof_in_the_menu_exit_cleanly() {
    let server = Server::start();
    for end in ["\x03", "\x04"] {
        let mut terminal = Terminal::start(&server, &["menu"]);
        terminal.sees(PROMPT);
        terminal.types(end);
        terminal.exits(0);
        assert!(
            !terminal.shown().contains("panicked"),
            "{}",
            terminal.shown()
        );
    }
    // Ctrl-C at a question inside an option returns to the menu.
    let mut terminal = Terminal::start(&server, &["menu"]);
    terminal.answers(PROMPT, "1");
    terminal.sees("Firmware file: ");
    terminal.types("\x03");
    terminal.sees("back to the menu");
    terminal.sees(PROMPT);
    // The end of input inside an option ends the program.
    terminal.types("1\n");
    terminal.sees("Firmware file: ");
    terminal.types("\x04");
    terminal.exits(0);
}

#[test]
fn option_2_really_verifies() {
    let server = Server::start();
    let _devices = Devices::start(&server, 2);
    server.until_seen(2);
    let good = server.place.firmware("1.0.6", Behaviour::Works);
    let bad = server.place.firmware("1.0.7", Behaviour::CrashesAtBoot);
    let mut terminal = Terminal::start(&server, &["menu"]);
    complete_update(&mut terminal, &good, "1.0.6");
    let shown = terminal.sees("UPDATE SUCCESSFUL");
    assert!(shown.contains("2 devices run 1.0.6, confirmed"), "{shown}");
    terminal.sees("Equivalent command: fota update app-1.0.6.bin --version 1.0.6");
    for device in ["ESP32-001", "ESP32-002"] {
        let device = server.device(device);
        assert_eq!(
            (&device["version"], &device["confirmed"]),
            (&"1.0.6".into(), &true.into())
        );
    }
    complete_update(&mut terminal, &bad, "1.0.7");
    terminal.sees("UPDATE VERIFICATION FAILED");
    terminal.answers(PROMPT, "0");
    terminal.exits(0);
    server.until("both run 1.0.6 again", |server| {
        ["ESP32-001", "ESP32-002"]
            .iter()
            .all(|id| server.device(id)["version"] == "1.0.6")
    });
}

#[track_caller]
fn complete_update(terminal: &mut Terminal, file: &str, version: &str) {
    terminal.answers(PROMPT, "2");
    terminal.answers("Firmware file: ", file);
    terminal.answers(&format!("Firmware version [{version}]: "), "");
    terminal.answers("Description (optional): ", "from the menu");
    terminal.answers("[all]: ", "");
    terminal.answers("Proceed with update? (yes/no): ", "yes");
    terminal.sees(&format!("# FOTA UPDATE PROCESS - VERSION {version}"));
    for step in [
        "STEP 1: Reading firmware...",
        "STEP 2: Uploading firmware...",
        "STEP 3: Triggering update...",
        "STEP 4: Monitoring update...",
        "STEP 5: Verifying update...",
    ] {
        terminal.sees(step);
    }
}

#[test]
fn every_other_option_does_its_work_and_teaches_its_command() {
    let server = Server::start();
    let _devices = Devices::start(&server, 1);
    server.until_seen(1);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    let mut terminal = Terminal::start(&server, &["menu"]);
    terminal.answers(PROMPT, "1");
    terminal.answers("Firmware file: ", &name);
    terminal.answers("Firmware version [1.0.6]: ", "");
    terminal.answers("Description (optional): ", "");
    terminal.sees("8 of 16 KiB");
    terminal.sees("Equivalent command: fota upload app-1.0.6.bin --version 1.0.6\n");
    terminal.answers(PROMPT, "3");
    terminal.answers("Release [1.0.6]: ", "");
    terminal.answers("Device ID (or press Enter for all): ", "");
    terminal.sees("Equivalent command: fota rollout start 1.0.6 --to all --yes\n");
    terminal.answers(PROMPT, "4");
    terminal.answers("Timeout in seconds [300]: ", "soon");
    terminal.answers("Timeout in seconds [300]: ", "60");
    terminal.sees("1 device runs 1.0.6, confirmed");
    terminal.sees("Equivalent command: fota rollout watch --timeout 60s\n");
    terminal.answers(PROMPT, "6");
    terminal.answers("Device ID [ESP32-001]: ", "");
    terminal.answers("Expected version [1.0.6]: ", "");
    terminal.sees("ESP32-001 runs 1.0.6 (confirmed");
    terminal.sees("Equivalent command: fota verify ESP32-001 --expect 1.0.6\n");
    server
        .fota(&["verify", "ESP32-001", "--expect", "1.0.6"])
        .exits(0);
    terminal.answers(PROMPT, "5");
    terminal.answers("(or press Enter for all updated): ", "");
    terminal.answers("Reason [Manual rollback]: ", "");
    terminal.answers("(yes/no): ", "yes");
    terminal.sees("ESP32-001 runs 1.0.5");
    terminal.sees("Equivalent command: fota rollback all --release 1.0.6");
    assert_eq!(server.device("ESP32-001")["version"], "1.0.5");
    terminal.answers(PROMPT, "0");
    terminal.exits(0);
}

#[test]
fn ctrl_c_in_a_step_returns_to_the_menu_and_the_rollout_goes_on() {
    let server = Server::start();
    let devices = Devices::start(&server, 1);
    server.until_seen(1);
    drop(devices);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    server
        .fota(&["rollout", "start", "1.0.6", "--to", "all", "--yes"])
        .exits(0);
    let mut terminal = Terminal::start(&server, &["menu"]);
    terminal.answers(PROMPT, "4");
    terminal.answers("Timeout in seconds [300]: ", "");
    terminal.sees("r-1 brings 1.0.6 to all");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("\x03");
    terminal.sees("the work goes on");
    terminal.sees("fota rollout watch r-1");
    terminal.answers(PROMPT, "0");
    terminal.exits(0);
    let shown = server
        .fota(&["rollout", "show", "r-1", "--json"])
        .exits(0)
        .json();
    assert_eq!(shown["state"], "active");
}

#[test]
fn a_script_answers_in_place_of_the_keyboard() {
    let server = Server::start();
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server
        .place
        .write("script", format!("1\n{name}\n\nnotes\n0\n").as_bytes());
    let ran = server.fota(&["menu", "--script", "script"]).exits(0);
    let ran = ran
        .says(MENU)
        .says("Equivalent command: fota upload")
        .says("Goodbye.");
    assert!(ran.out.contains("Select option (0-6): 1\n"), "{}", ran.out);
    let shown = server
        .fota(&["release", "show", "1.0.6", "--json"])
        .exits(0)
        .json();
    assert_eq!(shown["notes"], "notes");
}

#[test]
fn rollouts_in_waves_are_started_shown_explained_and_promoted_from_the_menu() {
    const ROLLOUTS: &str = "Select option (0-5): ";
    let server = Server::start();
    let _devices = Devices::start(&server, 4);
    server.until_seen(4);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    let mut terminal = Terminal::start(&server, &["menu"]);
    terminal.sees("r. Rollouts: waves, plans, why");
    terminal.answers(PROMPT, "r");
    terminal.sees("2. Start a rollout in waves");
    terminal.answers(ROLLOUTS, "2");
    terminal.answers("Plan file (or press Enter to answer questions): ", "");
    terminal.answers("Release [1.0.6]: ", "");
    terminal.answers("Targets (all, group:NAME, device ids) [all]: ", "");
    terminal.answers("Waves in percent of the devices [5 25 100]: ", "50% 100%");
    terminal.answers("A device is healthy after [30m]: ", "1h");
    terminal.answers("Stop when so many failed [1]: ", "");
    terminal.answers("Then send the updated ones back? (yes/no) [yes]: ", "");
    terminal.answers("Save the plan as [plan.toml]: ", "");
    // The sentence is read before anything starts.
    let told = terminal.sees("Start it so? (yes/no): ");
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = "Bring 1.0.6 to all: first 50 %, then all, each once 90 % of those that started \
                    before are proven healthy for 1h; it pauses after 1 failure, and sends the \
                    updated devices back to their earlier image.";
    assert!(told.contains(sentence), "{told}");
    terminal.types("yes\n");
    terminal.sees("Equivalent command: fota rollout plan -f plan.toml --yes\n");
    terminal.answers(PROMPT, "r");
    terminal.answers(ROLLOUTS, "1");
    terminal.answers("Rollout [r-1]: ", "");
    terminal.sees("1 of 2 (50 %)");
    terminal.sees("Equivalent command: fota rollout show r-1\n");
    terminal.answers(PROMPT, "r");
    terminal.answers(ROLLOUTS, "5");
    terminal.answers("Device ID: ", "ESP32-001");
    terminal.sees("r-1 1.0.6");
    terminal.sees("Equivalent command: fota device why ESP32-001\n");
    terminal.answers(PROMPT, "r");
    terminal.answers(ROLLOUTS, "3");
    terminal.answers("Rollout that goes on [r-1]: ", "");
    terminal.sees("Equivalent command: fota rollout promote r-1\n");
    terminal.answers(PROMPT, "r");
    terminal.answers(ROLLOUTS, "4");
    terminal.answers("Rollout to approve [r-1]: ", "");
    terminal.sees("Equivalent command: fota rollout approve r-1\n");
    terminal.answers(PROMPT, "0");
    terminal.exits(0);
    server.until("everybody has it", |server| {
        let shown = server
            .fota(&["rollout", "show", "r-1", "--json"])
            .exits(0)
            .json();
        shown["counts"]["succeeded"] == 4
    });
}
