//! `fota serial`: what a device asks on its wire is asked of the server.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use fota_proto::{
    checkin::Answer,
    serial::{Ask, Deframer, Incoming, Reply, Request, SERIAL_FRAME_BYTES_MAX},
};

use crate::harness::Server;

/// A check-in as the protocol's document prints it: ESP32-001 has nothing to do.
fn check_in() -> Vec<u8> {
    let document = include_str!("../../../../docs/protocol.md");
    let (_, dump) = document
        .split_once("<!-- bytes: check-in, idle -->\n```text\n")
        .expect("the dump is there");
    let lines = dump.lines().take_while(|line| *line != "```");
    let words = lines.flat_map(|line| line.split(';').next().unwrap_or(line).split_whitespace());
    words
        .map(|pair| u8::from_str_radix(pair, 16).expect("hex digits"))
        .collect()
}

fn frame(tag: u8, ask: Ask) -> Vec<u8> {
    let mut out = [0; SERIAL_FRAME_BYTES_MAX];
    let request = Request { tag, ask };
    request.encode(&mut out).expect("it fits").to_vec()
}

/// The replies on a line, as status and body.
fn replies(line: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut deframer = Deframer::<SERIAL_FRAME_BYTES_MAX>::new();
    let mut replies = Vec::new();
    for byte in line {
        if let Some(Incoming::Message(message)) = deframer.push(*byte) {
            let reply = Reply::parse(message).expect("a host sends replies only");
            replies.push((reply.status, reply.body.to_vec()));
        }
    }
    replies
}

/// Runs it between these bytes and the server until they end.
fn through_stdio(mut command: Command, line: &[u8]) -> (Vec<u8>, String) {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(line).expect("taken");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.stdout, text)
}

#[test]
fn a_check_in_reaches_the_server_and_text_goes_past_it() {
    let server = Server::start();
    let line = [
        b"\x1b[0;32mI (31) boot: hello\x1b[0m\r\n".to_vec(),
        frame(1, Ask::CheckIn(&check_in())),
        frame(2, Ask::Root(1)),
    ];
    let command = server.command(&["serial", "--port", "-"]);
    let (answered, told) = through_stdio(command, &line.concat());
    let replies = replies(&answered);
    assert_eq!(replies.len(), 2, "{told}");
    assert_eq!(replies[0].0, 200, "{told}");
    let answer: Answer = minicbor::decode(&replies[0].1).expect("an answer");
    assert_eq!(answer.nonce, 7);
    assert_eq!(replies[1].0, 404, "there is no root yet: {told}");
    assert!(told.contains("I (31) boot: hello"), "{told}");
    server.until_seen(1);
}

#[test]
fn a_server_that_is_not_there_is_status_0() {
    let mut server = Server::start();
    server.kill();
    let command = server.command(&["serial", "--port", "-"]);
    let (answered, told) = through_stdio(command, &frame(1, Ask::Root(1)));
    let replies = replies(&answered);
    assert_eq!(replies.len(), 1, "{told}");
    let reason = String::from_utf8_lossy(&replies[0].1);
    assert_eq!(replies[0].0, 0, "{reason}");
    assert!(reason.contains("cannot be reached"), "{reason}");
}

#[test]
fn a_pseudo_terminal_is_a_serial_port() {
    let server = Server::start();
    let pair = portable_pty::native_pty_system()
        .openpty(portable_pty::PtySize::default())
        .expect("a terminal");
    let port = pair.master.tty_name().expect("it has a name");
    let port = port.display().to_string();
    let mut command = server.command(&["serial", "--port", &port, "--baud", "921600"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let mut reader = pair.master.try_clone_reader().expect("a reader");
    let mut writer = pair.master.take_writer().expect("a writer");
    // Until the port is in raw mode its bytes are echoed and changed, as on a real one: ask again.
    let answered = std::thread::spawn(move || {
        let mut line = Vec::new();
        let mut bytes = [0; 256];
        loop {
            let length = reader.read(&mut bytes).expect("the program is there");
            line.extend_from_slice(&bytes[..length]);
            let status = only_replies(&line);
            if status.contains(&200) {
                return;
            }
        }
    });
    while !answered.is_finished() {
        writer
            .write_all(&frame(1, Ask::CheckIn(&check_in())))
            .expect("taken");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

/// As [`replies`], on a line that may echo what is sent.
fn only_replies(line: &[u8]) -> Vec<u16> {
    let mut deframer = Deframer::<SERIAL_FRAME_BYTES_MAX>::new();
    let mut found = Vec::new();
    for byte in line {
        if let Some(Incoming::Message(message)) = deframer.push(*byte) {
            found.extend(Reply::parse(message).map(|reply| reply.status));
        }
    }
    found
}
