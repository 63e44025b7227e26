//! Keys, roots and signed bundles, as a person makes them on machines without a server.

use std::process::Command;

use fota_proto::signed::{Root, bundle::Bundle};
use fota_sim::firmware::Behaviour;

use crate::harness::{Place, Ran, image};

const PASSPHRASE: &str = "correct horse battery";
const EC: &str = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";

impl Place {
    /// A command, its words split at blanks, whose keys are in folder `keys`, with the passphrase
    /// in the environment.
    fn with(&self, keys: &str, line: &str) -> Ran {
        self.with_word(keys, line, &[])
    }

    fn with_word(&self, keys: &str, line: &str, words: &[&str]) -> Ran {
        let all: Vec<&str> = line
            .split_whitespace()
            .chain(words.iter().copied())
            .collect();
        let mut command = self.command(&all);
        command
            .env("FOTA_KEYS", self.path().join(keys))
            .env("FOTA_KEY_PASSPHRASE", PASSPHRASE);
        Ran::of(command.output().expect("the program starts"))
    }

    /// A passphrase is slow on purpose, so most keys of these tests have none.
    fn key(&self, keys: &str, name: &str) -> String {
        let made = self.with(keys, &format!("key generate {name} --no-passphrase --json"));
        let made = made.exits(0).complains("unprotected");
        made.json()["public_key"].as_str().expect("hex").to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn openssl(&self, line: &str, words: &[&str]) -> Vec<u8> {
        let all = line.split_whitespace().chain(words.iter().copied());
        let mut openssl = Command::new("openssl");
        let ran = openssl.args(all).current_dir(self.path()).output();
        let ran = ran.expect("openssl is there: it is part of every Debian");
        let error = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "openssl {line}: {error}");
        ran.stdout
    }
}

#[test]
fn a_release_is_signed_and_verified_without_a_server() {
    let place = Place::new();
    let file = place.firmware("1.0.6", Behaviour::Works);
    place
        .with("k", "key generate lab")
        .exits(0)
        .says("key lab (p256");
    place.key("k", "boss");
    let online = place.key("server", "online");
    let init = format!("key root init --root boss --release lab --online {online}");
    place.with("k", &init).exits(0).says("fully signed");
    let sign = format!("release sign {file} --key lab --hardware 1..3 --epoch 2");
    place
        .with("k", &sign)
        .exits(0)
        .says("app-1.0.6.fota: sequence 1000006, signed by p256 lab");
    place.with("k", &sign).exits(7).complains("exists");
    let shown = place
        .with("k", "release show app-1.0.6.fota --json")
        .exits(0)
        .json();
    assert_eq!(
        (&shown["sequence"], &shown["epoch"], &shown["hardware"]),
        (&1_000_006.into(), &2.into(), &serde_json::json!([1, 3]))
    );
    place
        .with("k", "release verify app-1.0.6.fota")
        .exits(0)
        .says("is signed by the release keys of root 1");
    place
        .with("k", "image inspect app-1.0.6.fota")
        .exits(0)
        .says("sequence");
    // The bundle holds the image as it was, and a device would take it.
    let (bundle, root) = (place.read("app-1.0.6.fota"), place.read("k/root-1.cose"));
    let bundle = Bundle::parse(&bundle).expect("a bundle");
    assert_eq!(bundle.image, place.read(&file));
    let root = Root::first(&root).expect("signed");
    assert_eq!(
        root.release(bundle.release).expect("trusted").version,
        "1.0.6"
    );
    // Another key's signature, another image: no.
    let other = image("1.0.7", Behaviour::Works);
    place.write("swapped.fota", &[&bundle.head()[..], &other].concat());
    for command in ["show", "verify"] {
        let ran = place
            .with("k", &format!("release {command} swapped.fota"))
            .exits(7);
        ran.complains("not the one that was signed");
    }
    place
        .with("k", &format!("release sign {file} --key boss -o boss.fota"))
        .exits(0);
    let refused = place.with("k", "release verify boss.fota").exits(7);
    refused.complains("0 of 1 valid signatures of the release keys");
}

#[test]
fn a_version_without_a_place_in_the_order_needs_a_sequence() {
    let place = Place::new();
    let file = place.firmware("1.0.6-rc1", Behaviour::Works);
    place.key("k", "lab");
    let refused = place.with("k", &format!("release sign {file}")).exits(7);
    refused.complains("--sequence N");
    let sign = format!("release sign {file} --sequence 7 -o a.fota");
    place.with("k", &sign).exits(0).says("sequence 7");
    place.write("cut.fota", &place.read("a.fota")[..40]);
    place.with("k", "release show cut.fota").exits(7);
    place
        .with("k", &format!("release verify {file} --root {file}"))
        .exits(7);
}

/// Alice, Bob and Carol each have a root key, two of which must sign; Alice releases.
fn three_people(place: &Place) -> [String; 3] {
    let people = ["alice", "bob", "carol"].map(|who| place.key(who, who));
    let [alice, bob, carol] = &people;
    place.key("alice", "lab");
    let online = place.key("server", "online");
    let init = format!(
        "key root init --root {alice} --root {bob} --root {carol} --root-threshold 2 \
         --release lab --online {online} -o root-1.cose"
    );
    let ran = place
        .with("alice", &init)
        .exits(0)
        .says("1 signature missing");
    ran.complains("keys of root 1: 1 of 2 signatures; signed by alice");
    people
}

#[test]
fn a_root_is_signed_on_several_machines() {
    let place = Place::new();
    three_people(&place);
    place.with("alice", "key root verify root-1.cose").exits(7);
    place
        .with("bob", "key root sign root-1.cose")
        .exits(0)
        .says("fully signed");
    place.with("alice", "key root verify root-1.cose").exits(0);
    place.with("server", "key root sign root-1.cose").exits(6);
    let wrong = place
        .with("server", "key root sign root-1.cose --key online")
        .exits(7);
    wrong.complains("no root key");
    let again = "key root init --root alice --release lab --online bob -o root-1.cose";
    place.with("alice", again).exits(6);
    let again = "key root init --root alice --release lab --online lab -o root-9.cose";
    place
        .with("alice", again)
        .exits(7)
        .complains("may sign nothing but answers");
}

#[test]
fn keys_are_rotated_and_revoked_by_the_next_root() {
    let place = Place::new();
    let [_, bob, carol] = three_people(&place);
    place.with("bob", "key root sign root-1.cose").exits(0);
    // Alice's release key goes to somebody else: she and Carol agree.
    let rotate = "key rotate lab --no-passphrase --from root-1.cose";
    let ran = place
        .with("alice", rotate)
        .exits(0)
        .says("1 signature missing");
    ran.complains("key lab-2 takes the place of lab as release key");
    place
        .with("carol", "key root sign root-2.cose --key carol")
        .exits(0);
    let chain = "key root verify root-1.cose root-2.cose";
    place
        .with("bob", chain)
        .exits(0)
        .says("root 2 follows root 1");
    let file = place.firmware("1.0.6", Behaviour::Works);
    for (key, exit) in [("lab", 7), ("lab-2", 0)] {
        let sign = format!("release sign {file} --key {key} -o {key}.fota");
        place.with("alice", &sign).exits(0);
        let verify = format!("release verify {key}.fota --root root-2.cose");
        place.with("bob", &verify).exits(exit);
    }
    // Carol's key is lost: it is revoked, which somebody must mean.
    let revoke = format!("key revoke {carol} --from root-2.cose");
    let ran = place.with("alice", &revoke).exits(2);
    ran.complains(&format!("--confirm {carol}"));
    place
        .with("alice", &format!("{revoke} --confirm {carol}"))
        .exits(0);
    place.with("bob", "key root sign root-3.cose").exits(0);
    let chain = "key root verify root-1.cose root-2.cose root-3.cose --json";
    let json = place.with("bob", chain).exits(0).json();
    assert_eq!(json["root"]["keys"].as_array().map(Vec::len), Some(2));
    // A root is not left out, and a threshold that cannot be met is not made.
    let skipped = place
        .with("bob", "key root verify root-1.cose root-3.cose")
        .exits(7);
    skipped.complains("root 3 does not follow root 1");
    let revoke = format!("key revoke {bob} --from root-3.cose --confirm {bob}");
    place
        .with("alice", &revoke)
        .exits(2)
        .complains("2 of 1 root keys");
    let next = "key root next --from root-3.cose --remove-root alice --root-threshold 1 -o x.cose";
    place
        .with("alice", next)
        .exits(0)
        .says("1 signature missing");
}

#[test]
fn several_people_sign_one_release() {
    let place = Place::new();
    let file = place.firmware("1.0.6", Behaviour::Works);
    place.key("alice", "alice");
    let bob = place.key("bob", "bob");
    let online = place.key("server", "online");
    let init = format!(
        "key root init --root alice --release alice --release {bob} --release-threshold 2 \
         --online {online}"
    );
    place.with("alice", &init).exits(0);
    let verify = "release verify a.fota --root alice/root-1.cose";
    let sign = format!("release sign {file} -o a.fota");
    place.with("alice", &sign).exits(0);
    place
        .with("bob", "release sign a.fota")
        .exits(7)
        .complains("--cosign");
    place
        .with("alice", &format!("{sign} --cosign --force"))
        .exits(0);
    place.with("bob", verify).exits(7).complains("1 of 2");
    place.with("bob", "release sign a.fota").exits(0);
    place.with("bob", verify).exits(0);
}

#[test]
fn passphrases_are_asked_for_and_not_guessed() {
    let place = Place::new();
    let no_tty = place.run(&["key", "generate", "lab"]).exits(2);
    assert_eq!(no_tty.complains("FOTA_KEY_PASSPHRASE").out, "");
    let short = place.write("short", b"1234567\n");
    let generate = ["key", "generate", "lab", "--passphrase-file", "short"];
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        place.run(&generate).exits(4);
        std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o600)).expect("set");
    }
    drop(short);
    place
        .run(&generate)
        .exits(2)
        .complains("7 characters; at least 8");
    let own = "config/fota/keys";
    place.with(own, "key generate lab").exits(0);
    place
        .with(own, "key generate lab")
        .exits(7)
        .complains("never written over");
    let file = place.firmware("1.0.6", Behaviour::Works);
    let mut wrong = place.command(&["release", "sign", &file]);
    let wrong = wrong
        .env("FOTA_KEY_PASSPHRASE", "wrong horse")
        .output()
        .expect("runs");
    Ran::of(wrong).exits(7).complains("wrong passphrase");
    place
        .run(&["release", "sign", &file])
        .exits(2)
        .complains("--passphrase-file");
    let list = place.run(&["key", "list"]).exits(0).says("passphrase");
    assert!(list.out.contains("lab") && list.err.is_empty());
    place
        .run(&["key", "show", "nobody"])
        .exits(6)
        .complains("fota key generate");
}

#[test]
fn keys_of_openssl_are_taken() {
    let place = Place::new();
    let pass = format!("pass:{PASSPHRASE}");
    place.openssl(EC, &["-out", "ec.pem"]);
    place.openssl("genpkey -algorithm ED25519 -out ed.pem", &[]);
    place.openssl("ecparam -name prime256v1 -genkey -out sec1.pem", &[]);
    place.openssl("ecparam -name secp384r1 -genkey -out p384.pem", &[]);
    place.openssl("pkey -in ec.pem -outform DER -out ec.der", &[]);
    place.openssl("pkey -in ec.pem -pubout -out ec.pub", &[]);
    let lock = "pkcs8 -topk8 -in ec.pem -passout";
    place.openssl(lock, &[&pass, "-scrypt", "-out", "scrypt.pem"]);
    place.openssl(lock, &[&pass, "-v2", "aes-256-cbc", "-out", "pbkdf2.pem"]);
    let import = |line: &str| place.with("k", &format!("key import {line} --json"));
    for line in ["ec ec.pem", "der ec.der", "ed ed.pem", "sec1 sec1.pem"] {
        import(&format!("{line} --no-passphrase")).exits(0);
    }
    let id = place.with("k", "key show der --json").json()["id"].clone();
    for line in ["ec2 scrypt.pem", "ec3 pbkdf2.pem", "ec4 ec.pub"] {
        assert_eq!(import(line).exits(0).json()["id"], id, "{line}");
    }
    let refused = import("p384 p384.pem --no-passphrase").exits(7);
    refused.complains("another kind");
}

#[test]
fn our_keys_are_read_by_openssl() {
    let place = Place::new();
    let pass = format!("pass:{PASSPHRASE}");
    for alg in ["p256", "ed25519"] {
        for flag in ["", "--no-passphrase"] {
            let name = format!("{alg}{flag}");
            place
                .with("k", &format!("key generate {name} --alg {alg} {flag}"))
                .exits(0);
            let export = format!("key export {name} --private -o {name}.out");
            place.with("k", &export).exits(0);
            let read = format!("pkey -in {name}.out -pubout -passin");
            let read = place.openssl(&read, &[&pass]);
            let public = place.with("k", &format!("key export {name}")).exits(0).out;
            assert_eq!(String::from_utf8_lossy(&read), public, "{name}");
        }
    }
    let open = place
        .with("k", "key export p256 --private --no-passphrase")
        .exits(0);
    let open = open.complains("unprotected").out;
    assert!(open.starts_with("-----BEGIN PRIVATE"), "not encrypted");
}

#[test]
fn a_command_signs_and_is_not_believed() {
    let place = Place::new();
    let file = place.firmware("1.0.6", Behaviour::Works);
    for name in ["hsm", "other"] {
        place.openssl(EC, &["-out", &format!("{name}.pem")]);
        place.openssl(&format!("pkey -in {name}.pem -pubout -out {name}.pub"), &[]);
    }
    let sign = |command: &str| {
        let line = format!("release sign {file} --public hsm.pub --signer-command");
        place.with_word("k", &line, &[command])
    };
    let other = sign("openssl dgst -sha256 -sign other.pem").exits(7);
    other.complains("no signature of key");
    sign("echo hello")
        .exits(7)
        .complains("6 bytes that are no signature");
    sign("exit 3").exits(7).complains("ended with");
    sign("openssl dgst -sha256 -sign hsm.pem").exits(0);
    let online = place.key("server", "online");
    let init =
        format!("key root init --root hsm.pub --release hsm.pub --online {online} -o root-1.cose");
    place.with("k", &init).exits(0).says("1 signature missing");
    let command = "openssl dgst -sha256 -sign hsm.pem";
    let line = "key root sign root-1.cose --public hsm.pub --signer-command";
    place
        .with_word("k", line, &[command])
        .exits(0)
        .says("fully signed");
    place
        .with("k", "release verify app-1.0.6.fota --root root-1.cose")
        .exits(0);
}

#[cfg(unix)]
#[test]
fn a_passphrase_is_typed_twice_and_never_shown() {
    use crate::menu::Terminal;
    let place = Place::new();
    let file = place.firmware("1.0.6", Behaviour::Works);
    let generate = ["key", "generate", "lab"];
    let answer = |terminal: &mut Terminal, question: &str, passphrase: &str| {
        terminal.sees(question);
        // Nobody types before the echo is off, which is a moment after the question.
        std::thread::sleep(std::time::Duration::from_millis(500));
        terminal.types(&format!("{passphrase}\r"));
    };
    let mut terminal = Terminal::start_in(&place, &[], &generate);
    answer(&mut terminal, "New passphrase for key lab: ", PASSPHRASE);
    answer(&mut terminal, "The same again: ", "something else");
    terminal.sees("the two passphrases differ");
    terminal.exits(2);
    let mut terminal = Terminal::start_in(&place, &[], &generate);
    answer(&mut terminal, "New passphrase for key lab: ", PASSPHRASE);
    answer(&mut terminal, "The same again: ", PASSPHRASE);
    terminal.sees("key lab (p256");
    terminal.exits(0);
    assert!(!terminal.shown().contains(PASSPHRASE));
    let mut terminal = Terminal::start_in(&place, &[], &["release", "sign", &file]);
    answer(&mut terminal, "Passphrase of key lab: ", PASSPHRASE);
    terminal.sees("signed by p256 lab");
    terminal.exits(0);
    assert!(!terminal.shown().contains(PASSPHRASE));
}

#[test]
fn the_name_of_the_development_key_is_taken() {
    let place = Place::new();
    let refused = place.with("k", "key generate dev --no-passphrase").exits(2);
    refused.complains("development key");
    let file = place.firmware("1.0.6", Behaviour::Works);
    place.key("k", "lab");
    // Where there is another key, the development key is not meant.
    for suffix in ["pem", "pub.pem"] {
        let from = place.path().join(format!("k/lab.{suffix}"));
        std::fs::copy(from, place.path().join(format!("k/dev.{suffix}"))).expect("copied");
    }
    place
        .with("k", &format!("release sign {file}"))
        .exits(0)
        .says("signed by p256");
}
