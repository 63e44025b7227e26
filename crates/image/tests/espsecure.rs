//! Agreement with `espsecure` about secure boot v2: keys and signatures are its, images and
//! verdicts ours.
//!
//! Needs `FOTA_ESPTOOL`, the path of an esptool 5 executable, with `espsecure` beside it. Without
//! it the tests say that they were skipped.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use fota_image::{
    app::{Chip, Signature, check_bytes},
    build::ImageBuilder,
    secure_boot::{self, BLOCK_BYTES, SECTOR_BYTES, Scheme, VerifyError},
};

/// The tool and a folder to work in.
struct EspSecure {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl EspSecure {
    fn find() -> Option<Self> {
        let Some(esptool) = std::env::var_os("FOTA_ESPTOOL") else {
            println!("skipped: FOTA_ESPTOOL is not set");
            return None;
        };
        Some(Self {
            program: Path::new(&esptool).with_file_name("espsecure"),
            folder: tempfile::tempdir().unwrap(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run<A: AsRef<OsStr>>(&self, args: &[A]) {
        let output = Command::new(&self.program).args(args).output();
        let output = output.expect("espsecure stands beside esptool");
        let text = String::from_utf8_lossy(&output.stderr);
        let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        assert!(output.status.success(), "{args:?}: {text}");
    }

    fn key(&self, name: &str, scheme: &str) -> PathBuf {
        let key = self.path(name);
        let args = ["generate-signing-key", "--version", "2", "--scheme", scheme];
        self.run(&[args.map(OsStr::new).as_slice(), &[key.as_os_str()]].concat());
        key
    }

    fn key_digest(&self, key: &Path) -> Vec<u8> {
        let out = self.path("digest.bin");
        let [command, keyfile, output] =
            ["digest-sbv2-public-key", "--keyfile", "--output"].map(OsStr::new);
        self.run(&[command, keyfile, key.as_os_str(), output, out.as_os_str()]);
        std::fs::read(out).unwrap()
    }

    /// Signs `image`, or signs once more what is signed already.
    fn sign(&self, image: &[u8], key: &Path, again: bool) -> Vec<u8> {
        let (from, to) = (self.path("in.bin"), self.path("out.bin"));
        std::fs::write(&from, image).unwrap();
        let append = if again {
            &["--append-signatures"][..]
        } else {
            &[]
        };
        let mut args: Vec<&OsStr> = ["sign-data", "--version", "2"].map(OsStr::new).to_vec();
        args.extend(append.iter().map(OsStr::new));
        args.extend([OsStr::new("--keyfile"), key.as_os_str()]);
        args.extend([OsStr::new("--output"), to.as_os_str(), from.as_os_str()]);
        self.run(&args);
        std::fs::read(to).unwrap()
    }
}

fn image(bytes: usize) -> Vec<u8> {
    let builder = ImageBuilder::new(Chip::Esp32C3).version("1.0.6").fill(3);
    builder.size(bytes).build().unwrap()
}

/// Our verdict on each block of a signed file.
fn verdicts(file: &[u8]) -> Vec<(Scheme, [u8; 32], Result<(), VerifyError>)> {
    let image = check_bytes(file).unwrap();
    assert_eq!(image.signature, Some(Signature::SecureBootV2));
    let (signed, sector) = secure_boot::split(file, image.image_bytes).unwrap();
    let blocks = secure_boot::parse(sector).unwrap();
    let verdict =
        |block: &secure_boot::Block| (block.scheme(), block.key_digest(), block.verify(signed));
    blocks.iter().map(verdict).collect()
}

const SCHEMES: [(&str, Scheme); 4] = [
    ("rsa3072", Scheme::Rsa3072),
    ("ecdsa192", Scheme::EcdsaP192),
    ("ecdsa256", Scheme::EcdsaP256),
    ("ecdsa384", Scheme::EcdsaP384),
];

#[test]
fn what_espsecure_signs_is_verified_and_its_key_digests_are_ours() {
    let Some(tool) = EspSecure::find() else {
        return;
    };
    for (name, scheme) in SCHEMES {
        let key = tool.key(&format!("{name}.pem"), name);
        let digest = tool.key_digest(&key);
        // One that ends on a sector, one just before, one in its middle.
        for bytes in [64 * 1024, 64 * 1024 - 16, 70_000] {
            let signed = tool.sign(&image(bytes), &key, false);
            let all = verdicts(&signed);
            let [(found, key_digest, verdict)] = all.as_slice() else {
                panic!("{} blocks", all.len());
            };
            assert_eq!((*found, key_digest.as_slice()), (scheme, digest.as_slice()));
            let expected = match scheme {
                Scheme::EcdsaP192 => Err(VerifyError::Unsupported(scheme)),
                _ => Ok(()),
            };
            assert_eq!(*verdict, expected, "{name} {bytes}");
        }
    }
}

#[test]
fn three_signatures_are_verified_each_by_its_own_key() {
    let Some(tool) = EspSecure::find() else {
        return;
    };
    let mut file = image(40_000);
    let mut digests = Vec::new();
    for number in 0..3 {
        let key = tool.key(&format!("{number}.pem"), "rsa3072");
        file = tool.sign(&file, &key, number > 0);
        digests.push(tool.key_digest(&key));
    }
    let all = verdicts(&file);
    assert_eq!(all.len(), 3);
    for ((_, digest, verdict), expected) in all.iter().zip(&digests) {
        assert_eq!((digest.as_slice(), *verdict), (expected.as_slice(), Ok(())));
    }
    // A signature of one key does not become true under the key of another.
    let sector = file.len() - SECTOR_BYTES;
    let (first, second) = (sector + 812, sector + BLOCK_BYTES + 812);
    for offset in 0..384 {
        file.swap(first + offset, second + offset);
    }
    repair_crc(&mut file[sector..sector + BLOCK_BYTES]);
    repair_crc(&mut file[sector + BLOCK_BYTES..sector + 2 * BLOCK_BYTES]);
    let verdicts: Vec<_> = verdicts(&file).into_iter().map(|it| it.2).collect();
    let wrong = Err(VerifyError::Signature);
    assert_eq!(verdicts, [wrong, wrong, Ok(())]);
}

/// Every bit of the block that matters, and some of the image: with the CRC made right again, so
/// that only the signature is left to notice.
#[test]
fn a_flipped_bit_is_refused() {
    let Some(tool) = EspSecure::find() else {
        return;
    };
    for (name, used) in [("rsa3072", 1196), ("ecdsa256", 165), ("ecdsa384", 245)] {
        let key = tool.key(&format!("{name}.pem"), name);
        let good = tool.sign(&image(20_000), &key, false);
        let (signed, sector) = good.split_at(good.len() - SECTOR_BYTES);
        let step = if name == "rsa3072" { 13 } else { 1 };
        for bit in (32..used * 8).step_by(step) {
            let mut bad = sector.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            repair_crc(&mut bad[..BLOCK_BYTES]);
            let parsed = secure_boot::parse(&bad);
            let verdict = parsed.map(|blocks| blocks.iter().next().unwrap().verify(signed));
            assert_ne!(verdict.ok(), Some(Ok(())), "{name}: bit {bit} of the block");
        }
        let blocks = secure_boot::parse(sector).unwrap();
        let block = blocks.iter().next().unwrap();
        for bit in (0..signed.len() * 8).step_by(1013) {
            let mut bad = signed.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                block.verify(&bad),
                Err(VerifyError::Digest),
                "{name}: bit {bit}"
            );
        }
    }
}

fn repair_crc(block: &mut [u8]) {
    let crc = !block[..1196].iter().fold(u32::MAX, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| {
            (register >> 1) ^ ((register & 1) * 0xEDB8_8320)
        })
    });
    block[1196..1200].copy_from_slice(&crc.to_le_bytes());
}
