//! Keys that are not in a file here: a command that signs, or a PKCS#11 token.
//!
//! Such a signer is not trusted: what it answers is verified with the public key before it is
//! written anywhere (see `signing::sign`).

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

use fota_proto::signed::{Alg, PublicKey, sign::Signer};

use super::Public;

/// Most bytes that a command's answer may have: a signature as DER has at most 72.
const ANSWER_BYTES_MAX: usize = 256;

/// A command that gets the message on standard input and prints the signature, raw or as DER.
pub struct CommandSigner {
    pub command: String,
    pub public: Public,
}

impl Signer for CommandSigner {
    fn public(&self) -> PublicKey<'_> {
        self.public.key()
    }

    fn sign(&self, message: &[u8]) -> io::Result<[u8; 64]> {
        let mut child = shell(&self.command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::other(format!("`{}`: {error}", self.command)))?;
        let mut stdin = child.stdin.take().expect("it was asked for");
        // A message is shorter than any pipe; a command that does not read it says so itself.
        let _ = stdin.write_all(message);
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let message = format!("`{}` ended with {}", self.command, output.status);
            return Err(io::Error::other(message));
        }
        let alg = self.public.key().alg();
        signature(alg, &output.stdout).ok_or_else(|| {
            io::Error::other(format!(
                "`{}` printed {} bytes that are no signature: DER, or r and s of 32 bytes each, \
                 are needed",
                self.command,
                output.stdout.len()
            ))
        })
    }
}

fn shell(command: &str) -> Command {
    let (shell, flag) = match cfg!(windows) {
        true => ("cmd", "/C"),
        false => ("sh", "-c"),
    };
    let mut process = Command::new(shell);
    process.args([flag, command]);
    process
}

/// A signature as it is carried, from the raw form or from DER.
fn signature(alg: Alg, bytes: &[u8]) -> Option<[u8; 64]> {
    if bytes.len() > ANSWER_BYTES_MAX {
        return None;
    }
    if let Ok(raw) = bytes.try_into() {
        return Some(raw);
    }
    match alg {
        Alg::Esp256 => {
            let signature = p256::ecdsa::Signature::from_der(bytes).ok()?;
            Some(signature.to_bytes().into())
        }
        Alg::Ed25519 => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_raw_or_as_der() {
        use p256::ecdsa::signature::Signer as _;
        let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).expect("in range");
        let made: p256::ecdsa::Signature = key.sign(b"message");
        let raw: [u8; 64] = made.to_bytes().into();
        assert_eq!(signature(Alg::Esp256, &raw), Some(raw));
        assert_eq!(signature(Alg::Esp256, made.to_der().as_bytes()), Some(raw));
        assert_eq!(signature(Alg::Ed25519, made.to_der().as_bytes()), None);
        for bad in [&b""[..], &raw[..63], &[0x30; 72], &[0x30; 400]] {
            assert_eq!(signature(Alg::Esp256, bad), None);
        }
    }
}
