//! A P-256 key on a PKCS#11 token. The private key never leaves it; it signs the SHA-256 of the
//! message with the mechanism `CKM_ECDSA`, which every token with elliptic curves has.

use std::{io, path::Path, sync::Mutex};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use fota_proto::signed::{PublicKey, sign::Signer};
use sha2::Digest;

use super::Public;
use crate::{
    args::TokenArgs,
    credentials,
    failure::{Failure, Result},
};

/// A token that is logged in.
struct Token {
    public: Public,
    session: Mutex<Session>,
    key: ObjectHandle,
    /// The library is unloaded when this goes, so it goes last.
    _library: Pkcs11,
}

/// The signer that the arguments name.
pub fn signer(args: &TokenArgs) -> Result<Option<Box<dyn Signer>>> {
    let (Some(module), Some(label)) = (&args.pkcs11_module, &args.pkcs11_key) else {
        return Ok(None);
    };
    let pin = args.pkcs11_pin_file.as_deref().map(pin).transpose()?;
    let token = open(module, label, pin).map_err(|what| {
        let module = module.display();
        Failure::refused("token", format!("{module}, key {label}: {what}"))
    })?;
    Ok(Some(Box::new(token)))
}

fn pin(path: &Path) -> Result<AuthPin> {
    credentials::refuse_if_others_may_read(path)?;
    let text = String::from_utf8(super::read(path)?)
        .map_err(|_| Failure::usage(format!("{} is not text", path.display())))?;
    Ok(AuthPin::new(text.lines().next().unwrap_or_default().into()))
}

fn open(module: &Path, label: &str, pin: Option<AuthPin>) -> std::result::Result<Token, String> {
    let text = |error: cryptoki::error::Error| error.to_string();
    let library = Pkcs11::new(module).map_err(text)?;
    let flags = CInitializeFlags::OS_LOCKING_OK;
    library
        .initialize(CInitializeArgs::new(flags))
        .map_err(text)?;
    // A label may be on any token that is plugged in.
    let mut refusal = None;
    for slot in library.get_slots_with_initialized_token().map_err(text)? {
        let session = library.open_ro_session(slot).map_err(text)?;
        if let Some(pin) = &pin
            && let Err(error) = session.login(UserType::User, Some(pin))
        {
            refusal = Some(error.to_string());
            continue;
        }
        let Some(key) = find(&session, ObjectClass::PRIVATE_KEY, label)? else {
            continue;
        };
        let public = find(&session, ObjectClass::PUBLIC_KEY, label)?
            .ok_or("the token has the private key, but not the public one beside it")?;
        return Ok(Token {
            public: public_key(&session, public)?,
            session: Mutex::new(session),
            key,
            _library: library,
        });
    }
    Err(refusal.unwrap_or_else(|| match pin {
        Some(_) => "no token that is plugged in has an EC key with this label".to_owned(),
        None => "not found; most tokens show private keys only with --pkcs11-pin-file".to_owned(),
    }))
}

fn find(
    session: &Session,
    class: ObjectClass,
    label: &str,
) -> std::result::Result<Option<ObjectHandle>, String> {
    let wanted = [
        Attribute::Class(class),
        Attribute::KeyType(KeyType::EC),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let found = session
        .find_objects(&wanted)
        .map_err(|error| error.to_string())?;
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        many => Err(format!("{} keys have this label", many.len())),
    }
}

/// `CKA_EC_POINT` is the point as an OCTET STRING; some tokens leave out its head.
fn public_key(session: &Session, key: ObjectHandle) -> std::result::Result<Public, String> {
    let wanted = [AttributeType::EcPoint];
    let attributes = session
        .get_attributes(key, &wanted)
        .map_err(|error| error.to_string())?;
    let point = attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => Some(point),
            _ => None,
        });
    let point = point.unwrap_or_default();
    let point = point.strip_prefix(&[0x04, 0x41]).unwrap_or(&point);
    Public::from_hex(&super::hex(point)).ok_or_else(|| "the key is not on P-256".to_owned())
}

impl Signer for Token {
    fn public(&self) -> PublicKey<'_> {
        self.public.key()
    }

    fn sign(&self, message: &[u8]) -> io::Result<[u8; 64]> {
        let digest = sha2::Sha256::digest(message);
        let session = self.session.lock();
        let session = session.map_err(|_| io::Error::other("an earlier signature went wrong"))?;
        let signature = session.sign(&Mechanism::Ecdsa, self.key, &digest);
        let signature = signature.map_err(|error| io::Error::other(error.to_string()))?;
        let bytes = signature.len();
        signature.try_into().map_err(|_| {
            io::Error::other(format!(
                "the token answered with {bytes} bytes; 64 are a signature"
            ))
        })
    }
}
