//! Secure boot signatures, offline and as a product's policy.

use fota_image::build::SigningKey;
use fota_sim::firmware::Behaviour;

use crate::harness::{Place, Server, image};

const VERSION: &str = "1.0.6";

/// Key digest of the only block, as `image inspect` says it.
fn key(place: &Place, file: &str) -> String {
    let document = place
        .run(&["image", "inspect", file, "--json"])
        .exits(0)
        .json();
    let signature = &document["signatures"][0];
    assert_eq!(signature["valid"], true, "{document}");
    assert_eq!(signature["scheme"], "ECDSA P-256");
    signature["key_digest"]
        .as_str()
        .expect("a digest")
        .to_owned()
}

#[test]
fn an_image_is_refused_unless_a_wanted_key_signed_it() {
    let place = Place::new();
    let plain = image(VERSION, Behaviour::Works);
    place.write("plain.bin", &plain);
    place.write("a.bin", &SigningKey::generate().sign(&plain));
    place.write("b.bin", &SigningKey::generate().sign(&plain));
    let (a, b) = (key(&place, "a.bin"), key(&place, "b.bin"));
    let line = format!("ECDSA P-256, key {a}, valid");
    place
        .run(&["image", "inspect", "a.bin"])
        .exits(0)
        .says(&line);
    let check = |file: &str, keys: &[&str]| {
        let mut args = vec!["image", "check", file];
        for key in keys {
            args.extend(["--secure-boot-key-digest", key]);
        }
        place.run(&args)
    };
    check("a.bin", &[]).exits(0);
    check("a.bin", &[&a]).exits(0);
    check("a.bin", &[&b, &a]).exits(0);
    check("b.bin", &[&a]).exits(7).complains(&a);
    check("plain.bin", &[&a])
        .exits(7)
        .complains("espsecure sign-data");
    check("a.bin", &["ab"]).exits(2);
    let mut changed = SigningKey::generate().sign(&plain);
    let last = changed.len() - 4096 + 120;
    changed[last] ^= 1;
    place.write("changed.bin", &changed);
    check("changed.bin", &[&a]).exits(7).complains("CRC");
}

#[test]
fn a_product_asks_for_its_key_until_it_is_turned_off() {
    let server = Server::start();
    let plain = image(VERSION, Behaviour::Works);
    server.place.write("plain.bin", &plain);
    server
        .place
        .write("signed.bin", &SigningKey::generate().sign(&plain));
    let key = key(&server.place, "signed.bin");
    let shown = server
        .fota(&["image", "inspect", "plain.bin", "--json"])
        .exits(0)
        .json();
    let product = shown["project"].as_str().expect("a project");
    let policy = ["product", "secure-boot", product];
    server
        .fota(&policy)
        .exits(0)
        .says("need no secure boot signature");
    server
        .fota(&[&policy[..], &["--digest", &key]].concat())
        .exits(0)
        .says(&key);
    server
        .fota(&["upload", "plain.bin"])
        .exits(7)
        .complains("espsecure sign-data");
    server.fota(&["upload", "signed.bin"]).exits(0);
    server.fota(&[&policy[..], &["--off"]].concat()).exits(0);
    server
        .fota(&policy)
        .exits(0)
        .says("need no secure boot signature");
}
