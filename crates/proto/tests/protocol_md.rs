//! The bytes that `docs/protocol.md` prints are the bytes that the encoder makes.
//!
//! Above each dump stands `<!-- bytes: NAME -->`; a line of a dump is hex digits, then `;` and a
//! remark. To print what a dump should hold: `UPDATE=1 cargo test -p fota-proto --test protocol_md`.

use fota_proto::{
    FailureCode, Sha256,
    checkin::*,
    limits::{CHECK_IN_BYTES_MAX, HELD_DIGEST_BYTES, SEALED_BYTES_MAX},
    list::List,
    log::{Inclusion, LogHead},
    signed::seal_mac,
};
use minicbor::Encode;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

fn counting(from: u8) -> Sha256 {
    Sha256(core::array::from_fn(|i| from + i as u8))
}

fn list<T: core::fmt::Debug, const N: usize>(values: impl IntoIterator<Item = T>) -> List<T, N> {
    let mut list = List::new();
    values
        .into_iter()
        .for_each(|value| list.push(value).expect("fits"));
    list
}

/// ESP32-001 runs 1.0.5 from ota_0 and has nothing to do; ota_1 is empty.
fn idle() -> CheckIn<'static> {
    let running = SlotReport {
        slot: 0,
        bytes: 1_572_864,
        state: SlotState::Image,
        elf: Some(counting(0x00)),
        version: Some("1.0.5"),
    };
    let empty = SlotReport {
        slot: 1,
        state: SlotState::Empty,
        elf: None,
        version: None,
        ..running
    };
    CheckIn {
        protocol: VERSION,
        device: "ESP32-001",
        nonce: 7,
        chip: 0,
        chip_revision: Some(301),
        running_elf: counting(0x00),
        version: "1.0.5",
        project: "sensor",
        confirmed: Running::Confirmed,
        slot: 0,
        slots: list([running, empty]),
        rollback_slot: None,
        progress: None,
        outcome: None,
        held: List::new(),
        reset: ResetReason::PowerOn,
        uptime_s: 12,
        root: None,
        epoch: None,
        challenge: None,
        log: None,
        patches: None,
        attributes: None,
        metrics: None,
        waits: None,
    }
}

fn install() -> Answer<'static> {
    let install = Install {
        image: counting(0x40),
        bytes: 1_065_968,
        head: core::array::from_fn(|i| if i == 0 { 0xe9 } else { i as u8 }),
        elf: counting(0x20),
        version: "1.0.6",
        resume_from: 0,
        trial_deadline_s: 300,
        release: None,
        artifact: None,
        patch: None,
        hold: None,
        conditions: None,
    };
    let order = Order {
        id: 42,
        action: Action::Install(install),
    };
    Answer {
        order: Some(order),
        ..Answer::nothing(7, 60)
    }
}

/// The device restarted with 426,384 bytes in flash: it offers two prefixes to resume from.
fn resuming() -> CheckIn<'static> {
    let progress = Progress {
        order: 42,
        phase: Phase::Downloading,
        bytes: 425_984,
    };
    let held = [425_984, 421_888].map(|bytes| Held {
        bytes,
        digest: [0xaa; HELD_DIGEST_BYTES],
    });
    CheckIn {
        nonce: 8,
        progress: Some(progress),
        held: list(held),
        uptime_s: 3,
        ..idle()
    }
}

fn rollback() -> Answer<'static> {
    let rollback = Rollback {
        leave: counting(0x20),
        reason: "Update failed",
    };
    let order = Order {
        id: 43,
        action: Action::Rollback(rollback),
    };
    Answer {
        acknowledged: Some(42),
        order: Some(order),
        nonce: 9,
        ..install()
    }
}

/// The new image reset before it confirmed; the old one runs again and says so.
fn rolled_back() -> CheckIn<'static> {
    let outcome = Outcome {
        order: 42,
        end: End::RolledBackBoot,
        code: FailureCode::CrashLoop.number(),
        reset: Some(ResetReason::Panic),
        detail: None,
    };
    CheckIn {
        nonce: 10,
        outcome: Some(outcome),
        ..idle()
    }
}

/// The server does not know the challenge, and gives another.
fn not_taken() -> Answer<'static> {
    Answer {
        challenge: Some(core::array::from_fn(|i| 0xd0 + i as u8)),
        ..Answer::nothing(11, 0)
    }
}

/// ESP32-001 repeats the challenge of its last answer and seals with the secret 00 01 … 1f.
fn sealed() -> Vec<u8> {
    let check_in = CheckIn {
        nonce: 11,
        challenge: Some(core::array::from_fn(|i| 0xc0 + i as u8)),
        ..idle()
    };
    let mut buffer = [0; SEALED_BYTES_MAX];
    seal_mac(&bytes_of(&check_in), &counting(0).0, &mut buffer)
        .expect("fits")
        .to_vec()
}

/// Nothing to do, said to a device that trusts a root.
#[cfg(feature = "sign")]
fn nothing() -> Answer<'static> {
    Answer {
        device: Some("ESP32-001"),
        root: Some(1),
        log: Some(log_head()),
        ..Answer::nothing(7, 60)
    }
}

fn log_head() -> LogHead {
    LogHead {
        size: 3,
        root: counting(0x60),
    }
}

fn inclusion() -> Inclusion {
    Inclusion {
        index: 2,
        path: list([counting(0x80)]),
    }
}

/// The answer above, signed by the key whose number is 32 bytes of 07.
#[cfg(feature = "sign")]
fn signed_nothing() -> Vec<u8> {
    use fota_proto::signed::{
        Form,
        sign::{P256Key, sign},
    };
    let key = P256Key::new(&[7; 32]).expect("a valid secret");
    sign(Form::Sign1, &bytes_of(&nothing()), &[&key]).expect("fits")
}

#[cfg(feature = "sign")]
#[test]
fn the_document_prints_a_real_signature() {
    let signed = signed_nothing();
    if std::env::var_os("UPDATE").is_some() {
        let digits: String = signed.iter().map(|byte| format!("{byte:02x}")).collect();
        return println!("answer, signed: {digits}");
    }
    assert_eq!(printed("answer, signed"), signed);
}

fn bytes_of(message: &impl Encode<()>) -> Vec<u8> {
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    encode(message, &mut buffer)
        .expect("fits the limit")
        .to_vec()
}

fn printed(name: &str) -> Vec<u8> {
    let mark = format!("<!-- bytes: {name} -->\n");
    let (_, after) = DOCUMENT
        .split_once(&mark)
        .unwrap_or_else(|| panic!("no dump `{name}`"));
    let dump = after.split("```").nth(1).expect("a dump follows its mark");
    let lines = dump
        .lines()
        .skip(1)
        .map(|line| line.split(';').next().unwrap_or(line));
    let digits: String = lines.flat_map(str::split_whitespace).collect();
    let pairs = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).expect("ascii"));
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("hex digits"))
        .collect()
}

#[track_caller]
fn assert_printed(name: &str, message: &impl Encode<()>) {
    assert_bytes(name, &bytes_of(message));
}

#[track_caller]
fn assert_bytes(name: &str, bytes: &[u8]) {
    if std::env::var_os("UPDATE").is_some() {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        return println!("{name}: {digits}");
    }
    assert_eq!(
        printed(name),
        bytes,
        "the dump `{name}` in docs/protocol.md"
    );
}

#[test]
fn the_document_prints_the_real_bytes() {
    assert_printed("check-in, idle", &idle());
    assert_printed("answer, install", &install());
    assert_printed("check-in, resuming", &resuming());
    assert_printed("check-in, rolled back", &rolled_back());
    assert_printed("answer, rollback", &rollback());
    assert_bytes("check-in, sealed", &sealed());
    assert_printed("answer, not taken", &not_taken());
    assert_printed("log, head", &log_head());
    assert_printed("log, proof", &inclusion());
}
