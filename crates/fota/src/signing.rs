//! Signing releases, and what to do with an image that nobody has signed yet.
//!
//! | the server | the file | what happens |
//! |---|---|---|
//! | knows no signatures | image or bundle | sent as it is |
//! | has a root, or none | bundle | sent as it is: the server judges |
//! | has no root | image | the development root is made and published, the image signed |
//! | trusts this development key | image | signed with it |
//! | trusts other keys | image | refused, with the command that signs |
//!
//! [`plan`] decides, [`release`] makes what is signed; both are pure.

pub mod dev;
pub mod release;
pub mod root;

use fota_proto::signed::{
    Envelope, Form, RoleName, Root,
    sign::{self, Signer},
};

use crate::{
    args::SignerArgs,
    failure::{Failure, Result},
    keys::{Keys, Passphrases, Public, external::CommandSigner},
};

/// What to do with a file that is to be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Send it as it is.
    AsItIs,
    /// Sign it with the development key, which is made where there is none yet.
    SignForDevelopment {
        /// The server trusts nobody yet: give it the development root first.
        publish_root: bool,
    },
    /// Somebody who has a release key must sign it.
    NeedsSignature,
}

/// Decides; `online` is the server's own key where it knows of signatures, `root` what it trusts,
/// `dev` the development key of this machine.
pub fn plan(
    is_bundle: bool,
    online: Option<&Public>,
    root: Option<&Root<'_>>,
    dev: Option<&Public>,
) -> Plan {
    if is_bundle || online.is_none() {
        return Plan::AsItIs;
    }
    let Some(root) = root else {
        return Plan::SignForDevelopment { publish_root: true };
    };
    let alone = |role| {
        let has_it = |dev: &Public| root.keys_of(role).any(|key| *key == dev.key());
        dev.is_some_and(has_it) && root.role(role).threshold == 1
    };
    match alone(RoleName::Root) && alone(RoleName::Release) {
        true => Plan::SignForDevelopment {
            publish_root: false,
        },
        false => Plan::NeedsSignature,
    }
}

/// The refusal of an image that needs a signature, with the command that makes one.
pub fn needs_signature(file: &str, release_keys: &[String]) -> Failure {
    let bundle = bundle_name(file);
    let message = format!(
        "{file} is not signed, and this server takes only releases that are signed by {}",
        release_keys.join(", ")
    );
    Failure::refused("unsigned", message).hint(format!(
        "where the key is, run `fota release sign {file} --key NAME`; then `fota upload {bundle}`"
    ))
}

/// The bundle beside an image.
pub fn bundle_name(file: &str) -> String {
    std::path::Path::new(file)
        .with_extension("fota")
        .display()
        .to_string()
}

/// The signers that the arguments name, in their order; passphrases are asked for now.
pub async fn signers(
    keys: &Keys,
    passphrases: &Passphrases<'_>,
    args: &SignerArgs,
) -> Result<Vec<Box<dyn Signer>>> {
    let mut signers: Vec<Box<dyn Signer>> = Vec::new();
    for name in &args.key {
        signers.push(unlock(keys, passphrases, name).await?);
    }
    if let (Some(command), Some(public)) = (&args.signer_command, &args.public) {
        signers.push(Box::new(CommandSigner {
            command: command.clone(),
            public: keys.public(public)?,
        }));
    }
    #[cfg(feature = "pkcs11")]
    signers.extend(crate::keys::token::signer(&args.token)?);
    Ok(signers)
}

/// The signer of a key in the folder.
pub async fn unlock(
    keys: &Keys,
    passphrases: &Passphrases<'_>,
    name: &str,
) -> Result<Box<dyn Signer>> {
    let file = keys.file(name)?;
    let passphrase = match file.is_locked() {
        true => passphrases.of(&format!("key {name}")).await?,
        false => Default::default(),
    };
    let opened = file.unlock(&passphrase);
    let secret = opened.map_err(|error| {
        Failure::refused("passphrase", format!("key {name}: {error}"))
            .hint("check FOTA_KEY_PASSPHRASE or --passphrase-file, where you use them")
    })?;
    Ok(secret.signer())
}

/// Adds the signatures of these keys to an object. None is believed before it is verified.
pub fn add_signatures(object: &[u8], signers: &[Box<dyn Signer>]) -> Result<Vec<u8>> {
    let mut object = object.to_vec();
    for signer in signers {
        let signed = {
            let envelope = Envelope::parse(&object).map_err(invalid)?;
            sign::add_signature(&envelope, &**signer).map_err(unsigned)?
        };
        require_signature(&signed, &**signer)?;
        object = signed;
    }
    Ok(object)
}

/// Signs a payload: in the short form where one key signs and no other is to follow.
pub fn sign(payload: &[u8], signers: &[Box<dyn Signer>], cosign: bool) -> Result<Vec<u8>> {
    let form = match signers {
        [_] if !cosign => Form::Sign1,
        _ => Form::Sign,
    };
    let signers: Vec<&dyn Signer> = signers.iter().map(|signer| &**signer).collect();
    let object = sign::sign(form, payload, &signers).map_err(unsigned)?;
    for signer in signers {
        require_signature(&object, signer)?;
    }
    Ok(object)
}

fn require_signature(object: &[u8], signer: &dyn Signer) -> Result {
    let public = signer.public();
    let envelope = Envelope::parse(object).map_err(invalid)?;
    match envelope.is_signed_by(&public) {
        true => Ok(()),
        false => Err(Failure::refused(
            "wrong_signature",
            format!(
                "what the signer answered is no signature of key {}",
                public.id()
            ),
        )
        .hint("is --public the key that the command or the token signs with?")),
    }
}

fn unsigned(error: std::io::Error) -> Failure {
    Failure::refused("not_signed", format!("nothing was signed: {error}"))
}

/// A signed object that is not what it should be.
pub fn invalid(error: fota_proto::signed::SignedError) -> Failure {
    Failure::refused("signed_invalid", error.to_string())
}

#[cfg(test)]
mod tests {
    use fota_proto::signed::Alg;

    use super::*;
    use crate::keys::Secret;

    fn secret(number: u8) -> Secret {
        Secret::new(Alg::Esp256, [number; 32]).expect("in range")
    }

    #[test]
    fn an_image_is_signed_for_development_and_nowhere_else() {
        let (dev, online, real) = (secret(1), secret(2).public(), secret(3));
        let root = |by: &Secret| dev::root(by, &online).expect("fits");
        let (of_dev, of_real) = (root(&dev), root(&real));
        let (of_dev, of_real) = (
            Root::first(&of_dev).expect("signed"),
            Root::first(&of_real).expect("signed"),
        );
        let (dev, online) = (dev.public(), Some(&online));
        let develop = |publish_root| Plan::SignForDevelopment { publish_root };
        let cases = [
            (false, None, None, None, Plan::AsItIs),
            (true, online, Some(&of_real), None, Plan::AsItIs),
            (true, online, None, None, Plan::AsItIs),
            (false, online, None, None, develop(true)),
            (false, online, None, Some(&dev), develop(true)),
            (false, online, Some(&of_dev), Some(&dev), develop(false)),
            (false, online, Some(&of_dev), None, Plan::NeedsSignature),
            (
                false,
                online,
                Some(&of_real),
                Some(&dev),
                Plan::NeedsSignature,
            ),
        ];
        for (number, (is_bundle, online, root, dev, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(plan(is_bundle, online, root, dev), wanted, "case {number}");
        }
    }

    #[test]
    fn a_signer_that_answers_with_another_key_is_found_out() {
        struct Liar(Box<dyn Signer>, Public);
        impl Signer for Liar {
            fn public(&self) -> fota_proto::signed::PublicKey<'_> {
                self.1.key()
            }
            fn sign(&self, message: &[u8]) -> std::io::Result<[u8; 64]> {
                self.0.sign(message)
            }
        }
        let liar: Box<dyn Signer> = Box::new(Liar(secret(1).signer(), secret(2).public()));
        let refused = sign(b"payload", &[liar], false).expect_err("refused");
        assert_eq!(refused.code, "wrong_signature");
    }
}
