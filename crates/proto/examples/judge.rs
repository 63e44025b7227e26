//! Judges signed objects for the differential test: a line `KIND CONTEXT OBJECT` on standard
//! input, in hex, gives a line `1` (trusted) or `0`. The context is a root, a secret or a key, or
//! `-`.

use std::io::{BufRead, Write};

use fota_proto::signed::{Alg, Credential, PublicKey, Release, Root, Sealed, open_seal};

fn main() {
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    for line in input.lines() {
        let line = line.expect("text");
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default().to_owned();
        let mut bytes = || unhex(words.next().unwrap_or_default());
        let (context, object) = (bytes(), bytes());
        let trusted = u8::from(is_trusted(&kind, &context, &object));
        writeln!(output, "{trusted}").expect("somebody reads");
    }
}

fn is_trusted(kind: &str, context: &[u8], object: &[u8]) -> bool {
    let root = || Root::first(context).expect("the context is a valid root");
    let opens = |credential| {
        Sealed::parse(object).is_ok_and(|sealed| open_seal(&sealed, credential).is_ok())
    };
    match kind {
        "first_root" => Root::first(object).is_ok(),
        "next_root" => root().succeed(object).is_ok(),
        "release" => root().release(object).is_ok(),
        "payload" => Release::parse(object).is_ok(),
        "answer" => root().answer(object).is_ok(),
        "check_in_mac" => opens(Credential::Secret(context.try_into().expect("32 bytes"))),
        "check_in_signed" => {
            let key = PublicKey::new(Alg::Esp256, context).expect("65 bytes");
            opens(Credential::Key(key))
        }
        other => panic!("{other:?} is no kind of object"),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let text = if text == "-" { "" } else { text };
    let pair = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(pair).collect()
}
