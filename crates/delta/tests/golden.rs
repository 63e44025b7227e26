//! The vectors that other decoders are checked with: small made-up images and their patches.
//!
//! They change only with the format. To write them anew: `FOTA_GOLDEN=write cargo test -p
//! fota-delta --test golden`.

mod support;

use std::{fs, path::PathBuf};

use fota_delta::{Options, Profile, encode};
use support::{Chip, Dice, Function, decode, edit, functions, link};

struct Vector {
    name: &'static str,
    old: Vec<u8>,
    new: Vec<u8>,
    profile: Profile,
}

fn vectors() -> Vec<Vector> {
    let pair = |chip, seed| {
        let mut program: Vec<Function> = functions(14, seed);
        let old = link(chip, &program);
        edit(&mut program, 2, &mut Dice(seed));
        (old, link(chip, &program))
    };
    let (xtensa_old, xtensa_new) = pair(Chip::Esp32, 1);
    let (riscv_old, riscv_new) = pair(Chip::Esp32C3, 2);
    let vector = |name, old: &[u8], new: &[u8], profile| Vector {
        name,
        old: old.to_vec(),
        new: new.to_vec(),
        profile,
    };
    vec![
        vector("xtensa", &xtensa_old, &xtensa_new, Profile::Default),
        vector("riscv", &riscv_old, &riscv_new, Profile::Small),
        vector("full", &[], &riscv_new, Profile::Default),
    ]
}

fn file(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    dir.join(format!("{name}.txt"))
}

fn to_text(parts: [(&str, &[u8]); 3]) -> String {
    let mut text = String::new();
    for (name, bytes) in parts {
        text += &format!("{name} {}\n", bytes.len());
        for line in bytes.chunks(48) {
            text.extend(line.iter().map(|byte| format!("{byte:02x}")));
            text += "\n";
        }
    }
    text
}

#[test]
fn golden_vectors_decode_and_are_still_made() {
    for vector in vectors() {
        let old = (!vector.old.is_empty()).then_some(&vector.old[..]);
        let options = Options {
            profile: vector.profile,
        };
        let patch = encode(old, &vector.new, &options).expect("small");
        let made = decode(&vector.old, &patch, &[10]).expect("decodes");
        assert_eq!(made, vector.new, "{}", vector.name);
        let parts = [
            ("old", &vector.old[..]),
            ("new", &vector.new),
            ("patch", &patch),
        ];
        let text = to_text(parts);
        let file = file(vector.name);
        if std::env::var_os("FOTA_GOLDEN").is_some() {
            fs::write(&file, &text).expect("the vector can be written");
        }
        let stored = fs::read_to_string(&file).expect("the vector is there");
        assert_eq!(stored, text, "{}: the format has changed", vector.name);
    }
}
