//! One life of a wired device: the firmware of `examples/esp32c3` on the real ROM and bootloader,
//! `fota serial` at the other end of its line, a real `fota serve` behind it. It installs a signed
//! release, confirms it, is given one that crashes, and is back on the one before.
//!
//! Needs what `cargo xtask emulator` sets: `FOTA_ESPFLASH`, `FOTA_BIN` (the program), and
//! `FOTA_FIRMWARE`, a folder with `a.bin`, `b.bin` and `c.bin`, versions 1.0.0 to 1.0.2, the last of
//! which crashes. Without them the test says that it was skipped.

#![allow(clippy::disallowed_methods)] // patience is measured in real time

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use fota_emulator::{Board, Elf, Files, Machine};
use fota_image::partition::TableBuilder;

const DEVICE: &str = "c3-024f54410001";
const SLOT_BYTES: u32 = 0x18_0000;
const FIRST_SLOT: u32 = 0x1_0000;
/// How long one update may take; on a quiet machine it takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Instructions between two looks at the line: about a millisecond.
const SLICE: u64 = 50_000;
/// The power goes once, in the middle of the first download: after so many program operations of
/// some 7,800.
const POWER_CUT_AT: u64 = 4_000;

/// The chip in a thread of its own, with its serial line at a TCP port.
struct Device {
    port: u16,
    printed: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Machine>>,
}

impl Device {
    fn power_on(mut machine: Machine) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (all, stopped) = (printed.clone(), stop.clone());
        let thread = thread::spawn(move || {
            // Power comes when the wire is plugged in.
            let (mut wire, _) = listener.accept().unwrap();
            wire.set_nonblocking(true).unwrap();
            wire.set_nodelay(true).unwrap();
            let mut was_cut = false;
            while !stopped.load(Ordering::Relaxed) {
                machine.run(SLICE);
                if !was_cut && machine.flash().wear.programs >= POWER_CUT_AT {
                    machine.power_cycle();
                    was_cut = true;
                }
                let sent = machine.take_sent();
                all.lock().unwrap().extend_from_slice(&sent);
                if !exchange(&mut wire, &mut machine, &sent) {
                    break;
                }
            }
            machine
        });
        Self {
            port,
            printed,
            stop,
            thread: Some(thread),
        }
    }

    /// Its text, and dots for what its frames hold besides.
    fn printed(&self) -> String {
        let bytes = self.printed.lock().unwrap();
        let readable = |byte: &u8| match byte {
            b'\n' | b' '..=b'~' => char::from(*byte),
            _ => '.',
        };
        bytes.iter().map(readable).collect()
    }

    fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.printed().contains(text) {
            assert!(
                start.elapsed() < PATIENCE,
                "no `{text}`:\n{}",
                self.printed()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn power_off(&mut self) -> Machine {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Both directions of the wire; false when the other end is gone.
fn exchange(wire: &mut TcpStream, machine: &mut Machine, mut sent: &[u8]) -> bool {
    while !sent.is_empty() {
        match wire.write(sent) {
            Ok(written) => sent = &sent[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
            Err(_) => return false,
        }
    }
    let mut bytes = [0; 4096];
    match wire.read(&mut bytes) {
        Ok(0) => false,
        Ok(length) => {
            machine.receive(&bytes[..length]);
            true
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// The program, with a folder of its own.
struct Host {
    fota: PathBuf,
    dir: PathBuf,
    url: String,
    token: String,
    children: Vec<Child>,
}

impl Host {
    fn serve(fota: PathBuf) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("update");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let mut this = Self {
            fota,
            dir,
            url: String::new(),
            token: String::new(),
            children: Vec::new(),
        };
        let log = this.start(
            "serve",
            &[
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--poll",
                "1",
                "--data",
                "data",
            ],
        );
        this.url = wait(|| {
            let text = fs::read_to_string(&log).unwrap();
            let mut words = text.split_whitespace();
            words
                .find(|word| word.starts_with("http://"))
                .map(str::to_owned)
        });
        this.token = wait(|| fs::read_to_string(this.dir.join("data/operator-token")).ok());
        this
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.fota);
        command
            .args(args)
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .env("XDG_CONFIG_HOME", self.dir.join("config"))
            .env("FOTA_KEYS", self.dir.join("keys"))
            .env("FOTA_SERVER", &self.url)
            .env("FOTA_TOKEN", self.token.trim())
            .env_remove("FOTA_JSON")
            .stdin(Stdio::null());
        if self.url.is_empty() {
            command.env_remove("FOTA_SERVER").env_remove("FOTA_TOKEN");
        }
        command
    }

    /// In the background; gives the file that it prints to.
    fn start(&mut self, name: &str, args: &[&str]) -> PathBuf {
        let log = self.dir.join(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        let mut command = self.command(args);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        self.children.push(command.spawn().unwrap());
        log
    }

    /// To its end; everything that it printed.
    fn run(&self, code: i32, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(code), "fota {args:?}:\n{text}");
        text
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited for too long");
        thread::sleep(Duration::from_millis(50));
    }
}

fn needs() -> Option<(Files, PathBuf, PathBuf)> {
    let path = |name| env::var_os(name).map(PathBuf::from);
    let files = Files::read().map_err(|error| println!("skipped: {error}"));
    let (Some(fota), Some(firmware)) = (path("FOTA_BIN"), path("FOTA_FIRMWARE")) else {
        println!("skipped: FOTA_BIN and FOTA_FIRMWARE are not set: run `cargo xtask emulator`");
        return None;
    };
    Some((files.ok()?, fota, firmware))
}

#[test]
fn a_wired_device_updates_confirms_and_comes_back_from_a_crash() {
    let Some((files, fota, firmware)) = needs() else {
        return;
    };
    let start = Instant::now();
    let table = TableBuilder::two_ota(SLOT_BYTES).trust().build().unwrap();
    let image = fs::read(firmware.join("a.bin")).unwrap();
    let board = Board {
        table: &table,
        images: &[(FIRST_SLOT, &image)],
    };
    let mut host = Host::serve(fota);
    let mut device = Device::power_on(board.power_on(&files).unwrap());
    let port = format!("tcp:127.0.0.1:{}", device.port);
    let serial = host.start("serial", &["serial", "--port", &port]);
    device.wait_for(&format!("fota: {DEVICE} starts 1.0.0, reset PowerOn"));
    wait(|| host.run(0, &["status"]).contains(DEVICE).then_some(()));
    println!("{:.1?}: 1.0.0 has checked in", start.elapsed());
    good_release(&host, &device, &firmware);
    println!("{:.1?}: 1.0.1 is confirmed", start.elapsed());
    bad_release(&host, &device, &firmware);
    println!("{:.1?}: 1.0.2 has crashed", start.elapsed());
    let machine = device.power_off();
    let serial = fs::read_to_string(serial).unwrap();
    assert!(serial.contains("2nd stage bootloader"), "{serial}");
    figures(&machine, &firmware, start.elapsed());
}

fn update(host: &Host, image: &Path, code: i32) {
    let image = image.display().to_string();
    let asked = ["--to", DEVICE, "--yes", "--timeout", "90s"];
    let told = host.run(code, &[&["update", &image], &asked[..]].concat());
    println!("{told}");
}

/// Received through a power cut, proven, started by the bootloader, confirmed.
fn good_release(host: &Host, device: &Device, firmware: &Path) {
    update(host, &firmware.join("b.bin"), 0);
    let starts = format!("fota: {DEVICE} starts 1.0.0, reset PowerOn");
    let printed = device.printed();
    assert_eq!(printed.matches(&starts).count(), 2, "no power cut");
    assert!(resumed(&printed) > 50_000, "{printed}");
    device.wait_for("fota: proven, starting the new image");
    device.wait_for(&format!("fota: {DEVICE} starts 1.0.1, reset Software"));
    device.wait_for("fota: confirmed: Ok(())");
    host.run(0, &["verify", DEVICE, "--expect", "1.0.1"]);
}

/// Started, crashed, started again, given up; the bootloader starts the one before.
fn bad_release(host: &Host, device: &Device, firmware: &Path) {
    update(host, &firmware.join("c.bin"), 3);
    device.wait_for("this firmware is made to crash");
    device.wait_for(&format!("fota: {DEVICE} starts 1.0.2, reset Panic"));
    device.wait_for("fota: crashed on trial, going back");
    host.run(0, &["verify", DEVICE, "--expect", "1.0.1"]);
    let shown = host.run(0, &["device", "show", DEVICE, "--json"]);
    assert!(shown.contains("rolled_back:boot"), "{shown}");
}

/// The furthest place that a download began at.
fn resumed(printed: &str) -> u32 {
    // Frames stand before the text, on the same line.
    let told = printed.split("fota: bytes ").skip(1);
    let places = told.filter_map(|text| text.split(' ').next()?.parse().ok());
    places.max().unwrap_or_default()
}

/// What it took, for people and for `cargo xtask emulator`.
fn figures(machine: &Machine, firmware: &Path, took: Duration) {
    let wear = machine.flash().wear;
    println!(
        "whole life: {took:.1?}, {:.1} s of the device's time, {} resets, {} sectors erased, \
         {} program operations, {} bytes lost on the line",
        machine.time_us() as f64 / 1e6,
        machine.resets.len(),
        wear.sectors_erased,
        wear.programs,
        machine.lost_bytes(),
    );
    assert_eq!(
        machine.lost_bytes(),
        0,
        "the host sent while the device was deaf"
    );
    assert_eq!(
        wear.bits_not_set, 0,
        "bytes were programmed that were not erased"
    );
    let elf = fs::read(firmware.join("a.elf")).unwrap();
    let elf = Elf::parse(&elf).unwrap();
    let symbols = elf.symbols().unwrap();
    let at = |name: &str| symbols.iter().find(|symbol| symbol.0 == name).unwrap().1;
    let sections = elf.sections().unwrap();
    let bytes = |first_byte: u32| {
        let there = sections.iter().filter(|s| s.address >> 24 == first_byte);
        there.map(|section| section.bytes.len()).sum::<usize>()
    };
    println!(
        "firmware: {} bytes of code in flash, {} of constants, {} of code in RAM; {} of static RAM, \
         {} of stack at most, the buffers of the line among it",
        bytes(0x42),
        bytes(0x3C),
        bytes(0x40),
        at("_bss_end") - at("_data_start"),
        at("_stack_start") - machine.lowest_stack().unwrap(),
    );
}
