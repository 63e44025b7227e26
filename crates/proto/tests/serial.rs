//! Frames of the serial line: what goes in comes out, damage never gets through, and text between
//! frames is kept.

use fota_proto::{
    Sha256,
    limits::SEALED_BYTES_MAX,
    serial::{
        Ask, Deframer, Incoming, Reply, Request, SERIAL_DATA_BYTES_MAX, SERIAL_FRAME_BYTES_MAX,
    },
};
use proptest::{collection::vec, prelude::*};

const DOCUMENT: &str = include_str!("../../../docs/serial.md");

/// Messages, and text with the zeros left out.
fn receive(line: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut deframer = Deframer::<SERIAL_FRAME_BYTES_MAX>::new();
    let (mut messages, mut text) = (Vec::new(), Vec::new());
    for byte in line {
        match deframer.push(*byte) {
            Some(Incoming::Message(message)) => messages.push(message.to_vec()),
            Some(Incoming::Text(part)) => text.extend_from_slice(part),
            None => {}
        }
    }
    text.extend_from_slice(deframer.take_text());
    (messages, text)
}

fn frame(request: &Request) -> Vec<u8> {
    let mut out = [0; SERIAL_FRAME_BYTES_MAX];
    request.encode(&mut out).expect("it fits").to_vec()
}

fn reply_frame(reply: &Reply) -> Vec<u8> {
    let mut out = [0; SERIAL_FRAME_BYTES_MAX];
    reply.encode(&mut out).expect("it fits").to_vec()
}

fn asks() -> Vec<Ask<'static>> {
    static LONGEST: [u8; SEALED_BYTES_MAX] = [0xA5; SEALED_BYTES_MAX];
    vec![
        Ask::CheckIn(&LONGEST),
        Ask::CheckIn(&[]),
        Ask::Enrol(&[0; 300]),
        Ask::Root(1),
        Ask::Blob {
            blob: Sha256([0; 32]),
            from: 0,
            to: 0x0100_0000,
        },
        Ask::LogProof {
            release: Sha256([0xFF; 32]),
            size: 7,
        },
        Ask::LogGrowth {
            from: 7,
            to: 1 << 40,
        },
    ]
}

#[test]
fn every_request_arrives() {
    for (tag, ask) in (0..).zip(asks()) {
        let request = Request { tag, ask };
        let line = frame(&request);
        assert!(line.len() <= SERIAL_FRAME_BYTES_MAX);
        assert!(line[1..line.len() - 1].iter().all(|byte| *byte != 0));
        let (messages, text) = receive(&line);
        assert_eq!((messages.len(), text.len()), (1, 0));
        assert_eq!(Request::parse(&messages[0]), Some(request));
        assert_eq!(Reply::parse(&messages[0]), None);
    }
}

#[test]
fn every_reply_arrives_and_names_its_request() {
    let asked = Request {
        tag: 3,
        ask: Ask::Root(1),
    };
    for body in [
        &[][..],
        &[0; SERIAL_DATA_BYTES_MAX],
        &[1; SERIAL_DATA_BYTES_MAX],
    ] {
        let line = reply_frame(&asked.reply(200, body));
        let (messages, _) = receive(&line);
        let reply = Reply::parse(&messages[0]).unwrap();
        assert_eq!((reply.status, reply.body), (200, body));
        assert!(reply.answers(&asked));
        assert!(!reply.answers(&Request { tag: 4, ..asked }));
        assert!(!reply.answers(&Request {
            ask: Ask::CheckIn(&[]),
            ..asked
        }));
        assert_eq!(Request::parse(&messages[0]), None);
    }
}

#[test]
fn text_between_frames_is_kept() {
    let request = Request {
        tag: 1,
        ask: Ask::Root(1),
    };
    let mut line = b"ESP-ROM:esp32c3\r\n".to_vec();
    line.extend(frame(&request));
    line.extend(b"state: idle\n");
    line.extend(frame(&request));
    line.extend(b"bye");
    let (messages, text) = receive(&line);
    assert_eq!(messages.len(), 2);
    assert_eq!(text, b"ESP-ROM:esp32c3\r\nstate: idle\nbye");
}

#[test]
fn what_is_too_long_is_refused_and_a_long_text_hides_nothing() {
    let mut out = [0; 2 * SERIAL_FRAME_BYTES_MAX];
    let long = [1; SERIAL_FRAME_BYTES_MAX];
    let request = Request {
        tag: 0,
        ask: Ask::CheckIn(&long),
    };
    assert_eq!(request.encode(&mut out), None);
    let mut line = vec![b'x'; 10 * SERIAL_FRAME_BYTES_MAX + 3];
    line.extend(frame(&Request {
        tag: 0,
        ask: Ask::Root(2),
    }));
    let (messages, text) = receive(&line);
    assert_eq!(
        (messages.len(), text.len()),
        (1, 10 * SERIAL_FRAME_BYTES_MAX + 3)
    );
}

/// Every single bit of a frame: CRC-32 finds all errors of up to three bits at this length.
#[test]
fn a_flipped_bit_never_gets_through() {
    let body: Vec<u8> = (0..600_u32).map(|n| (n % 7) as u8).collect();
    let asked = Request {
        tag: 9,
        ask: Ask::Root(1),
    };
    let line = reply_frame(&asked.reply(200, &body));
    for bit in 0..line.len() * 8 {
        let mut damaged = line.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (messages, _) = receive(&damaged);
        let expected = match bit / 8 {
            // Not within the frame: what was before it or after it is text.
            0 => 0..=1,
            _ => 0..=0,
        };
        assert!(expected.contains(&messages.len()), "bit {bit}");
    }
}

fn dump(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_document_prints_the_real_bytes() {
    let blob = Sha256(core::array::from_fn(|index| index as u8));
    let asked = Request {
        tag: 7,
        ask: Ask::Blob {
            blob,
            from: 4096,
            to: 77_648,
        },
    };
    let expected = [
        ("request", frame(&asked)),
        (
            "reply",
            reply_frame(&asked.reply(200, &[0xE9, 0x05, 0x00, 0x2F])),
        ),
        (
            "no server",
            reply_frame(&asked.reply(0, b"connection refused")),
        ),
    ];
    for (name, bytes) in expected {
        let mark = format!("<!-- bytes: {name} -->");
        let (_, after) = DOCUMENT.split_once(&mark).expect("the dump is there");
        let printed = after.split("```").nth(1).expect("a dump follows its mark");
        let lines = printed.lines().skip(1);
        let lines = lines.map(|line| line.split(';').next().unwrap_or(line));
        let digits: String = lines.flat_map(str::split_whitespace).collect();
        assert_eq!(digits, dump(&bytes), "the dump `{name}` in docs/serial.md");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_taken(line in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..1500)) {
        let (messages, text) = receive(&line);
        for message in &messages {
            let _ = (Request::parse(message), Reply::parse(message));
        }
        let kept = messages.iter().map(Vec::len).sum::<usize>() + text.len();
        prop_assert!(kept <= line.len());
    }

    #[test]
    fn any_reply_arrives_through_any_text(
        body in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..=SERIAL_DATA_BYTES_MAX),
        before in vec(1_u8.., 0..1500),
        status: u16,
        tag: u8,
    ) {
        let asked = Request { tag, ask: Ask::CheckIn(&[]) };
        let mut line = before.clone();
        line.extend(reply_frame(&asked.reply(status, &body)));
        let (messages, text) = receive(&line);
        prop_assert_eq!(messages.len(), 1);
        let reply = Reply::parse(&messages[0]).unwrap();
        prop_assert_eq!((reply.status, reply.body, reply.answers(&asked)), (status, &body[..], true));
        prop_assert_eq!(text, before);
    }
}
