//! `fota device provision|claim|credentials|revoke|re-enrol|enrolment-key`

use std::{fs, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fota_proto::manager::{
    CredentialKind, CredentialRequest, DeviceCredential, EnrolmentKey, EnrolmentKeyRequest,
};
use serde_json::json;

use crate::{
    args::{EnrolmentKeyCommand, ProvisionArgs, RevokeArgs},
    clock::now_ms,
    context::Context,
    failure::{Failure, Result},
    keys::hex,
    output::Mark,
    text,
};

/// What stands before the point in the DER form of every P-256 public key (RFC 5480).
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

pub async fn provision(context: &Context, args: &ProvisionArgs) -> Result {
    let request = match &args.credential.key {
        Some(path) => CredentialRequest {
            kind: CredentialKind::Key,
            public_key: Some(public_key(path)?),
        },
        None => CredentialRequest {
            kind: CredentialKind::Secret,
            public_key: None,
        },
    };
    let new = context.client()?.provision(&args.device, &request).await?;
    let line = format!(
        "{} may seal its check-ins with {}",
        args.device,
        name(&new.credential)
    );
    context.out.verdict(Mark::Good, &line);
    if let Some(secret) = &new.secret {
        context
            .out
            .answer(&text::facts(&[("secret", secret.clone())]));
        context
            .out
            .say("this is the only time that the secret is shown: put it into the device now");
    }
    context.out.document("fota.credential/1", &new);
    Ok(())
}

/// The public key of a PEM file, as hex digits.
fn public_key(path: &Path) -> Result<String> {
    let wrong = |what: &str| {
        Failure::usage(format!("{}: {what}", path.display())).hint(
            "give the public half of a P-256 key, as `openssl ec -in KEY.pem -pubout` prints it",
        )
    };
    let pem = fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    let body = pem
        .split_once("-----BEGIN PUBLIC KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"))
        .map(|(body, _)| body.split_whitespace().collect::<String>())
        .ok_or_else(|| wrong("no PUBLIC KEY in PEM form"))?;
    let der = STANDARD.decode(body).map_err(|_| wrong("not base64"))?;
    let point = der
        .strip_prefix(&P256_HEAD)
        .filter(|point| point.len() == 65);
    let point = point.ok_or_else(|| wrong("a public key, but not of P-256"))?;
    Ok(hex(point))
}

pub async fn claim(context: &Context, path: &Path) -> Result {
    let list = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let accepted = context.client()?.claim(list).await?;
    let line = format!(
        "{} claimed, {} known already",
        text::count(accepted.claimed, "device"),
        accepted.unchanged
    );
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.claims/1", &accepted);
    Ok(())
}

pub async fn credentials(context: &Context, device: &str) -> Result {
    let credentials = context.client()?.credentials(device).await?;
    let now = now_ms();
    let rows: Vec<Vec<String>> = credentials
        .iter()
        .map(|credential| {
            let used = credential.last_used;
            vec![
                credential.id.to_string(),
                name(credential),
                word(&credential.state),
                word(&credential.source),
                text::time(credential.created_at),
                used.map_or_else(|| "-".to_owned(), |used| text::age(used, now)),
            ]
        })
        .collect();
    let heading = ["NUMBER", "CREDENTIAL", "STATE", "SOURCE", "SINCE", "USED"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.credentials/1", &credentials);
    if credentials.is_empty() {
        context
            .out
            .say("the device proves itself with nothing; `fota device provision` changes that");
    }
    Ok(())
}

pub async fn revoke(context: &Context, args: &RevokeArgs) -> Result {
    let device = &args.device;
    let what = match args.credential {
        Some(number) => format!("credential {number} of {device}"),
        None => format!("all credentials of {device}"),
    };
    let question = format!("Revoke {what} for good?");
    if !context.confirm(&question, "--yes").await? {
        return Err(Failure::error("nothing was changed"));
    }
    let client = context.client()?;
    client.revoke_credentials(device, args.credential).await?;
    context.out.verdict(Mark::Good, &format!("{what} revoked"));
    context.out.say(&format!(
        "to let it come back: fota device re-enrol {device}, or provision"
    ));
    let document = json!({"device": device, "credential": args.credential});
    context.out.document("fota.revoked/1", &document);
    Ok(())
}

pub async fn re_enrol(context: &Context, device: &str) -> Result {
    let leave = context.client()?.allow_re_enrolment(device).await?;
    let until = text::time(leave.expires_at);
    let line = format!("{device} may enrol another key until {until} UTC, once");
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.re_enrolment/1", &leave);
    Ok(())
}

pub async fn enrolment_key(context: &Context, command: EnrolmentKeyCommand) -> Result {
    let client = context.client()?;
    match command {
        EnrolmentKeyCommand::Create {
            name,
            max,
            expires,
            group,
            id_prefix,
        } => {
            let request = EnrolmentKeyRequest {
                name,
                devices_max: max,
                expires_in_s: seconds(expires),
                group,
                id_prefix,
            };
            create(context, &request).await?;
        }
        EnrolmentKeyCommand::List => list(context, &client.enrolment_keys().await?),
        EnrolmentKeyCommand::Revoke { name } => {
            client.revoke_enrolment_key(&name).await?;
            let line = format!("enrolment key {name} revoked; its devices stay");
            context.out.verdict(Mark::Good, &line);
            context
                .out
                .document("fota.revoked/1", &json!({"enrolment_key": name}));
        }
    }
    Ok(())
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

async fn create(context: &Context, request: &EnrolmentKeyRequest) -> Result {
    let new = context.client()?.create_enrolment_key(request).await?;
    let key = &new.enrolment_key;
    let devices = text::count(key.devices_max.into(), "device");
    let until = text::time(key.expires_at);
    let line = format!("enrolment key {} for {devices} until {until} UTC", key.name);
    context.out.verdict(Mark::Good, &line);
    context
        .out
        .answer(&text::facts(&[("secret", new.secret.clone())]));
    context
        .out
        .say("this is the only time that the secret is shown: put it into the firmware now");
    context.out.document("fota.enrolment_key/1", &new);
    Ok(())
}

fn list(context: &Context, keys: &[EnrolmentKey]) {
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            vec![
                key.name.clone(),
                word(&key.state),
                format!("{} of {}", key.devices, key.devices_max),
                text::time(key.expires_at),
                key.id_prefix.clone().unwrap_or_else(|| "-".to_owned()),
                key.group.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    let heading = ["NAME", "STATE", "DEVICES", "UNTIL", "IDS", "GROUP"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.enrolment_keys/1", &keys);
}

fn name(credential: &DeviceCredential) -> String {
    match &credential.key_id {
        Some(id) => format!("key {id}"),
        None => "a secret".to_owned(),
    }
}

fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_read_from_what_openssl_prints() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pub.pem");
        let mut der = P256_HEAD.to_vec();
        der.push(0x04);
        der.extend([0xab; 64]);
        let body = STANDARD.encode(&der);
        let (first, second) = body.split_at(64);
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n");
        fs::write(&path, &pem).expect("written");
        let digits = public_key(&path).expect("read");
        assert_eq!(digits, format!("04{}", "ab".repeat(64)));
        for bad in [
            "",
            "PRIVATE",
            &pem.replace("MFkw", "MCow"),
            &pem.replace('=', "!"),
        ] {
            fs::write(&path, bad).expect("written");
            assert!(public_key(&path).is_err(), "{bad}");
        }
    }
}
